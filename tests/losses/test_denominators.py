"""The loss of a batch and what its total was divided by; tests/properties adds up parts of batches."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchfit import losses
from torchfit.losses.identifiers import resolve_loss

LOGITS = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 3.0], [1.0, 1.0, 0.0], [0.5, 0.0, 2.0]])
LABELS = torch.tensor([0, 2, 1, 0])
CLASS_WEIGHT = torch.tensor([1.0, 2.0, 4.0])
ZEROS, ONES = torch.zeros(4, 5, 3), torch.ones(4, 5, 3)
WEIGHT = torch.tensor([1.0, 2.0, 0.0, 3.0])


def masked(values, mask):
    values = values.clone()
    values._keras_mask = torch.tensor(mask)
    return values


@pytest.mark.parametrize(
    ("loss", "y_true", "y_pred", "expected"),
    [
        ("mse", ZEROS, ONES, 20.0),  # one value for each step
        ("mse", ZEROS[:, 0, 0], ONES[:, 0, 0], 4.0),
        ("mse", ZEROS[:, 0, 0], ONES[:, 0, :1], 4.0),
        ("mse", ZEROS[:0], ONES[:0], 0.0),
        ("mape", ONES, ONES, 20.0),
        (losses.SparseCategoricalCrossentropy(from_logits=True), LABELS, LOGITS, 4.0),
        (losses.MeanSquaredError(reduction="sum"), ZEROS, ONES, 1.0),
        (losses.MeanSquaredError(reduction="none"), ZEROS, ONES, 20.0),
        (nn.MSELoss(), ZEROS, ONES, 60.0),
        (nn.MSELoss(reduction="sum"), ZEROS, ONES, 1.0),
        (nn.MSELoss(reduction="none"), ZEROS, ONES, 60.0),
        (nn.KLDivLoss(reduction="batchmean"), ZEROS, ONES, 4.0),
        (nn.MultiMarginLoss(), LABELS, LOGITS, 4.0),
        (nn.CrossEntropyLoss(), LOGITS.softmax(-1), LOGITS, 4.0),
        (losses.Dice(), ZEROS, ONES, 4.0),
        (losses.Dice(axis=(1, 2)), ZEROS, ONES, 4.0),
        (lambda y_true, y_pred: (y_true - y_pred).abs().amax(), ZEROS, ONES, 4.0),
        (lambda y_true, y_pred: (y_true - y_pred).abs().amax(-1), ZEROS, ONES, 20.0),
    ],
)
def test_denominators_that_follow_from_shapes_are_floats(loss, y_true, y_pred, expected):
    _, denominator = resolve_loss(loss).with_denominator(y_true, y_pred)
    assert type(denominator) is float
    assert denominator == expected


@pytest.mark.parametrize(
    ("loss", "labels", "weight", "expected"),
    [
        (losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=0), LABELS, None, 2.0),
        (losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=0), LABELS, WEIGHT, 2.0),
        (
            losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=0, reduction="mean_with_sample_weight"),
            LABELS,
            WEIGHT,
            2.0,
        ),
        (
            losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight"),
            LABELS,
            WEIGHT,
            6.0,
        ),
        (nn.CrossEntropyLoss(), LABELS, None, 4.0),
        (nn.CrossEntropyLoss(ignore_index=0), LABELS, None, 2.0),
        (nn.CrossEntropyLoss(ignore_index=0), LABELS, WEIGHT, 2.0),
        (nn.CrossEntropyLoss(CLASS_WEIGHT), LABELS, None, 8.0),
        (nn.CrossEntropyLoss(CLASS_WEIGHT, ignore_index=2), LABELS, None, 4.0),
        (nn.CrossEntropyLoss(CLASS_WEIGHT, ignore_index=2, label_smoothing=0.1), LABELS, None, 4.0),
        (nn.NLLLoss(CLASS_WEIGHT), LABELS, WEIGHT, 8.0),
        (F.cross_entropy, LABELS, None, 4.0),
    ],
)
def test_denominators_that_follow_from_values_stay_on_the_device(loss, labels, weight, expected):
    _, denominator = resolve_loss(loss).with_denominator(labels, LOGITS, weight)
    assert denominator.shape == ()
    assert not denominator.requires_grad
    assert denominator.item() == expected


@pytest.mark.parametrize("reduction", ["mean", "mean_with_sample_weight"])
def test_masks_count_what_they_leave(reduction):
    loss = losses.MeanSquaredError(reduction=reduction)
    assert loss.with_denominator(ZEROS, masked(ONES, [True, False, True, True]))[1] == 15.0
    steps = [[True, False, False, True, True]] * 4
    assert loss.with_denominator(ZEROS, masked(ONES, steps), torch.tensor([1.0, 1.0, 0.0, 2.0]))[1] == 12.0


@pytest.mark.parametrize(
    ("loss", "labels", "weight"),
    [
        (losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1), -torch.ones(4), None),
        (losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1), -torch.ones(4), WEIGHT),
        (
            losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight"),
            LABELS,
            torch.zeros(4),
        ),
        (nn.CrossEntropyLoss(ignore_index=-1), -torch.ones(4), WEIGHT),
        (nn.CrossEntropyLoss(ignore_index=-1, label_smoothing=0.1), -torch.ones(4), None),
        (nn.CrossEntropyLoss(torch.zeros(3)), LABELS, None),
    ],
)
def test_nothing_that_counts_is_0_over_0_without_nan(loss, labels, weight):
    outputs = LOGITS.clone().requires_grad_()
    value, denominator = resolve_loss(loss).with_denominator(labels, outputs, weight)
    value.backward()
    assert (value.item(), outputs.grad.abs().sum()) == (0.0, 0.0)
    assert denominator == 0.0


@pytest.mark.parametrize(
    ("loss", "labels"),
    [
        (nn.CrossEntropyLoss(ignore_index=-1), -torch.ones(4, dtype=torch.int64)),
        (nn.NLLLoss(ignore_index=-1), -torch.ones(4, dtype=torch.int64)),
    ],
)
def test_the_mean_of_torch_over_no_labels_stays_nan_and_has_no_gradients(loss, labels):
    outputs = LOGITS.clone().requires_grad_()
    value, denominator = resolve_loss(loss).with_denominator(labels, outputs)
    value.backward()
    assert value.isnan()
    assert loss(outputs, labels).isnan()
    assert outputs.grad.abs().sum() == 0.0
    assert denominator == 0.0


@pytest.mark.parametrize("empty", [nn.MSELoss(), "mse", "mape", lambda t, p: (t - p).square().mean()])
def test_an_empty_batch_is_0_over_0(empty):
    assert resolve_loss(empty).with_denominator(ZEROS[:0], ONES[:0]) == (0.0, 0.0)


def test_a_call_returns_the_same_loss():
    for loss in (losses.MeanSquaredError(), losses.MeanSquaredError(reduction="sum"), resolve_loss(nn.L1Loss())):
        assert torch.equal(loss(ZEROS, ONES), loss.with_denominator(ZEROS, ONES)[0])


def test_a_loss_without_reduction_is_its_mean():
    loss = losses.MeanSquaredError(reduction="none")
    assert loss(ZEROS, ONES).shape == (4, 5)
    assert loss.with_denominator(ZEROS, 2 * ONES) == (4.0, 20.0)


@pytest.mark.parametrize(
    ("loss", "is_sum"),
    [
        ("mse", False),
        (losses.MeanSquaredError(reduction="sum"), True),
        (nn.CrossEntropyLoss(reduction="sum"), True),
        (nn.CrossEntropyLoss(), False),
        (lambda y_true, y_pred: y_true - y_pred, False),
    ],
)
def test_sums_add_up_without_division(loss, is_sum):
    assert resolve_loss(loss).is_sum is is_sum


class Focal(nn.CrossEntropyLoss):
    """A subclass of a user, whose mean nobody knows."""

    def forward(self, input, target):
        return (1 - (-super().forward(input, target)).exp()).square()


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("mse", True),
        (nn.CrossEntropyLoss(), True),
        (nn.PoissonNLLLoss(), True),
        (Focal(), False),
        (losses.Dice(), False),
        (losses.Dice(axis=(0, 1)), False),
        (losses.Dice(axis=(1, 2)), True),
        (losses.Tversky(), False),
        (losses.Circle(), False),
    ],
)
def test_losses_say_whether_they_are_sums_over_samples(loss, expected):
    assert resolve_loss(loss).is_separable is expected


def test_an_own_function_is_found_out_from_what_it_returns():
    of_batch = resolve_loss(lambda y_true, y_pred: (y_true - y_pred).square().mean())
    of_samples = resolve_loss(lambda y_true, y_pred: (y_true - y_pred).square().mean(-1))
    for loss in (of_batch, of_samples):
        assert loss.is_separable
        loss.with_denominator(ZEROS, ONES)
    assert (of_batch.is_separable, of_samples.is_separable) == (False, True)
    for duplicate in (copy.deepcopy(of_samples), pickle.loads(pickle.dumps(losses.Dice()))):
        duplicate.with_denominator(ZEROS, ONES)


def test_one_row_does_not_make_a_function_one_of_batches():
    loss = resolve_loss(lambda y_true, y_pred: (y_true - y_pred).square().squeeze())
    assert loss.with_denominator(ZEROS[:1, 0, 0], ONES[:1, 0, 0]) == (1.0, 1.0)
    assert loss.is_separable


def test_a_subclass_with_a_call_of_its_own_is_asked():
    class Doubled(losses.MeanSquaredError):
        def __call__(self, y_true, y_pred, sample_weight=None):
            return 2 * super().__call__(y_true, y_pred, sample_weight)

    loss = Doubled()
    assert loss.with_denominator(ZEROS, ONES) == (2.0, 4.0)
    assert not loss.is_separable


def test_a_batch_of_one_row_is_a_batch():
    loss = losses.LossFunctionWrapper(lambda y_true, y_pred: (y_true - y_pred).square().mean())
    assert loss.with_denominator(ZEROS[:1], masked(ONES[:1], [[True] * 5])) == (1.0, 1.0)


def test_targets_may_be_nests():
    class OfParts(losses.Loss):
        def call(self, y_true, y_pred):
            return (y_true["a"] - y_pred).square().mean()

    assert OfParts().with_denominator({"a": ZEROS}, ONES) == (1.0, 4.0)


def test_images_are_counted_by_places():
    logits, labels = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 4, 5))
    labels[0] = 255
    for loss in (nn.CrossEntropyLoss(ignore_index=255), nn.NLLLoss(ignore_index=255)):
        value, denominator = resolve_loss(loss).with_denominator(labels.unsqueeze(1), logits)
        assert denominator == 20.0
        torch.testing.assert_close(value, loss(logits, labels))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_counts_do_not_round_in_half_precision(dtype):
    logits, labels = torch.zeros(4099, 3, dtype=dtype), torch.zeros(4099, dtype=torch.long)
    value, denominator = resolve_loss(nn.CrossEntropyLoss()).with_denominator(labels, logits)
    assert (denominator.item(), value.dtype) == (4099.0, torch.float32)
