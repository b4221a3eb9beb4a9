import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchfit import losses
from torchfit.losses.identifiers import resolve_loss

LOGITS = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 3.0], [1.0, 1.0, 0.0], [0.5, 0.0, 2.0]])
LABELS = torch.tensor([0, 2, 1, 0])
CLASS_WEIGHT = torch.tensor([1.0, 2.0, 3.0])


def test_names_are_in_snake_case():
    assert resolve_loss(nn.CrossEntropyLoss()).name == "cross_entropy_loss"
    assert resolve_loss(nn.BCEWithLogitsLoss).name == "bce_with_logits_loss"
    assert resolve_loss(F.mse_loss).name == "mse_loss"


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss(weight=CLASS_WEIGHT),
        nn.CrossEntropyLoss(ignore_index=2),
        nn.CrossEntropyLoss(reduction="sum", label_smoothing=0.1),
        nn.NLLLoss(weight=CLASS_WEIGHT),
        nn.MultiMarginLoss(),
        F.cross_entropy,
        functools.partial(F.cross_entropy, weight=CLASS_WEIGHT),
    ],
)
def test_losses_of_class_numbers_agree_with_torch(loss):
    as_torch = loss(LOGITS, LABELS)
    adapted = resolve_loss(loss)
    for labels in (LABELS, LABELS.float(), LABELS.unsqueeze(-1), LABELS.numpy()):
        torch.testing.assert_close(adapted(labels, LOGITS), as_torch)
    torch.testing.assert_close(adapted(LABELS, LOGITS, torch.ones(4)), as_torch)
    torch.testing.assert_close(adapted(LABELS, LOGITS, 2.0), 2 * as_torch)


@pytest.mark.parametrize(
    "loss",
    [
        nn.MSELoss(),
        nn.L1Loss(reduction="sum"),
        nn.SmoothL1Loss(),
        nn.BCEWithLogitsLoss(),
        nn.PoissonNLLLoss(),
        F.l1_loss,
    ],
)
def test_losses_of_numbers_agree_with_torch(loss):
    target = torch.tensor([0.0, 1.0, 1.0, 0.0])
    adapted = resolve_loss(loss)
    as_torch = loss(LOGITS[:, 0], target)
    for y_true, y_pred in (
        (target, LOGITS[:, :1]),
        (target.unsqueeze(-1), LOGITS[:, 0]),
        (target.long(), LOGITS[:, 0]),
    ):
        torch.testing.assert_close(adapted(y_true, y_pred), as_torch)
        torch.testing.assert_close(adapted(y_true, y_pred, torch.ones(4)), as_torch)


def test_sample_weights_apply_to_every_sample():
    loss = resolve_loss(nn.CrossEntropyLoss())
    values = F.cross_entropy(LOGITS, LABELS, reduction="none")
    weight = torch.tensor([1.0, 0.0, 2.0, 0.0])
    torch.testing.assert_close(loss(LABELS, LOGITS, weight), (values * weight).sum() / 4)


def test_no_reduction_is_a_mean():
    loss = resolve_loss(nn.MSELoss(reduction="none"))
    assert loss(torch.zeros(4, 3), torch.ones(4, 3)).item() == 1.0


def test_batch_mean_of_a_divergence():
    logarithm, target = LOGITS.log_softmax(-1), LOGITS.flip(0).softmax(-1)
    loss = resolve_loss(nn.KLDivLoss(reduction="batchmean"))
    torch.testing.assert_close(loss(target, logarithm), loss(target, logarithm, torch.ones(4)))


def test_soft_labels():
    soft = LOGITS.flip(0).softmax(-1)
    loss = resolve_loss(nn.CrossEntropyLoss())
    torch.testing.assert_close(loss(soft, LOGITS), F.cross_entropy(LOGITS, soft))
    torch.testing.assert_close(loss(soft.double(), LOGITS, torch.ones(4)), F.cross_entropy(LOGITS, soft))


def test_masks_leave_samples_out():
    prediction = LOGITS.clone()
    prediction._keras_mask = torch.tensor([True, True, False, False])  # type: ignore[attr-defined]
    loss = resolve_loss(nn.CrossEntropyLoss())
    torch.testing.assert_close(loss(LABELS, prediction), F.cross_entropy(LOGITS[:2], LABELS[:2]))


@pytest.mark.parametrize("loss", [nn.CTCLoss(), nn.TripletMarginLoss(), F.gaussian_nll_loss])
def test_losses_that_need_more_are_refused(loss):
    with pytest.raises(ValueError, match=r"needs .*Write a function \(y_true, y_pred\) .*model.add_loss\("):
        resolve_loss(loss)


def test_labels_that_are_no_class_indices_come_with_the_way_out():
    loss = resolve_loss(nn.CrossEntropyLoss())
    with pytest.raises(ValueError, match=r"If the labels are one-hot, make them floats: y\.float\(\)"):
        loss(torch.eye(3, dtype=torch.long), torch.zeros(3, 3))
    with pytest.raises(ValueError, match=r"Torch expects the classes second: move them .*ignore_class=-100\)"):
        loss(torch.zeros(2, 5, dtype=torch.long), torch.zeros(2, 5, 3))


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="y_true must be class indices"):
        resolve_loss(nn.CrossEntropyLoss())(LABELS[:3], LOGITS)
    with pytest.raises(ValueError, match="y_true must be of the same shape"):
        resolve_loss(nn.MSELoss())(torch.zeros(4), LOGITS)


def test_class_weights_follow_the_predictions():
    loss = resolve_loss(nn.CrossEntropyLoss(weight=torch.ones(3)))
    prediction = LOGITS.to("meta")
    assert loss(LABELS.to("meta"), prediction).device == prediction.device
    assert loss(LABELS.to("meta"), prediction, torch.ones(4)).device == prediction.device


@pytest.mark.parametrize(
    "loss",
    [nn.CrossEntropyLoss(CLASS_WEIGHT, ignore_index=1), F.nll_loss, functools.partial(F.nll_loss, reduction="sum")],
)
def test_configs_round_trip(loss):
    first = resolve_loss(loss)
    second = losses.deserialize(losses.serialize(first))
    assert second.get_config() == first.get_config()
    torch.testing.assert_close(second(LABELS, LOGITS), first(LABELS, LOGITS))


def test_a_sample_without_a_batch():
    loss = resolve_loss(nn.CrossEntropyLoss())
    torch.testing.assert_close(loss(torch.tensor(2), LOGITS[0]), F.cross_entropy(LOGITS[0], torch.tensor(2)))


def test_classes_of_size_1_in_the_targets_are_dropped():
    logits, labels = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 4, 5))
    loss = resolve_loss(nn.CrossEntropyLoss())
    for y_true in (labels, labels.unsqueeze(1), labels.unsqueeze(-1)):
        torch.testing.assert_close(loss(y_true, logits), F.cross_entropy(logits, labels))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32_as_with_autocast(dtype):
    logits, labels = LOGITS.to(dtype), LABELS
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = F.cross_entropy(logits, labels)
    torch.testing.assert_close(resolve_loss(nn.CrossEntropyLoss())(labels, logits), expected, rtol=0, atol=0)
