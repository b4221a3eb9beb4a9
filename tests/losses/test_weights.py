"""How weights and masks of every shape count, beside every kind of loss."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchfit import losses
from torchfit.losses.identifiers import resolve_loss

LOGITS = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 3.0], [1.0, 1.0, 0.0], [0.5, 0.0, 2.0]])
LABELS = torch.tensor([0, 2, 1, 0])
SOFT = LOGITS.flip(0).softmax(-1)
WEIGHT = torch.tensor([1.0, 2.0, 0.0, 3.0])

OF_TORCH = [
    (nn.CrossEntropyLoss(), LABELS, LOGITS),
    (nn.CrossEntropyLoss(), SOFT, LOGITS),
    (nn.CrossEntropyLoss(label_smoothing=0.1), LABELS, LOGITS),
    (nn.NLLLoss(), LABELS, LOGITS.log_softmax(-1)),
    (F.cross_entropy, LABELS, LOGITS),
    (nn.MultiMarginLoss(), LABELS, LOGITS),
    (nn.MultiLabelSoftMarginLoss(), SOFT.round(), LOGITS),
    (nn.MSELoss(), SOFT, LOGITS),
    (nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 2.0, 3.0])), SOFT, LOGITS),
    (nn.MSELoss(), SOFT[:, 0], LOGITS[:, 0]),
    (nn.BCEWithLogitsLoss(), SOFT[:, 0], LOGITS[:, 0]),
]


@pytest.mark.parametrize(("loss", "y_true", "y_pred"), OF_TORCH)
def test_a_column_of_weights_counts_like_a_vector(loss, y_true, y_pred):
    adapted = resolve_loss(loss)
    unreduced = adapted.call(y_true, y_pred)
    expected = (unreduced * WEIGHT.reshape(-1, *(1 for _ in unreduced.shape[1:]))).mean()
    for weight in (WEIGHT, WEIGHT[:, None], WEIGHT.numpy(), WEIGHT.double()):
        torch.testing.assert_close(adapted(y_true, y_pred, weight), expected)


def test_a_column_of_weights_beside_places():
    logits, labels = torch.randn(4, 3, 5), torch.randint(0, 3, (4, 5))
    loss, values = resolve_loss(nn.CrossEntropyLoss()), F.cross_entropy(logits, labels, reduction="none")
    for weight in (WEIGHT, WEIGHT[:, None], torch.rand(4, 5), torch.rand(4, 5, 1)):
        spread = weight.reshape(4, -1)
        torch.testing.assert_close(loss(labels, logits, weight), (values * spread).mean())


@pytest.mark.parametrize("weight", [torch.ones(3), torch.ones(4, 3), torch.ones(2, 4)])
def test_weights_that_fit_no_sample_are_refused_by_torchs_losses_too(weight):
    with pytest.raises(ValueError, match=r"sample_weight must be a number, or .* Received: a tensor of shape"):
        resolve_loss(nn.CrossEntropyLoss())(LABELS, LOGITS, weight)


def test_weights_of_steps_beside_one_value_for_all_steps_are_refused():
    with pytest.raises(ValueError, match="sample_weight must be"):
        losses.MeanSquaredError()(torch.zeros(4, 5), torch.ones(4, 5), torch.ones(4, 5))
    with pytest.raises(ValueError, match="sample_weight must be"):  # not broadcast to (4, 5)
        losses.MeanSquaredError(reduction="sum")(torch.zeros(4, 1, 2), torch.ones(4, 1, 2), torch.ones(4, 5))


# -- the weighted mean -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (1,), (4,), (4, 1), (4, 5), (4, 5, 1)])
def test_a_weighted_mean_with_equal_weights_is_the_mean(shape):
    y_pred = torch.rand(4, 5, 2)
    loss = losses.MeanSquaredError(reduction="mean_with_sample_weight")
    torch.testing.assert_close(loss(torch.zeros(4, 5, 2), y_pred, torch.full(shape, 3.0)), y_pred.square().mean())


def test_a_weighted_mean_of_images_is_that_of_numpy():
    images, weight = np.random.default_rng(0).random((4, 6, 5, 2)), WEIGHT.numpy()
    loss = losses.MeanSquaredError(reduction="mean_with_sample_weight")
    expected = np.average((images**2).mean((1, 2, 3)), weights=weight)
    assert loss(np.zeros_like(images), images, weight).item() == pytest.approx(expected)


# -- one number for a batch --------------------------------------------------------------------------------------------


def worst(y_true, y_pred):
    return (y_true - y_pred).abs().max()


@pytest.mark.parametrize("loss", [losses.Dice(), losses.Tversky(), losses.Dice(axis=(0, 1)), worst])
@pytest.mark.parametrize("weight", [[1.0, 0.0, 1.0, 0.0], np.ones(4), torch.ones(4, 1)])
def test_weights_of_samples_are_refused_where_there_are_no_values_of_samples(loss, weight):
    y_pred = torch.rand(4, 4)
    with pytest.raises(ValueError, match=r"`sample_weight` \(or `class_weight`\) .* one value per sample"):
        resolve_loss(loss)(y_pred.round(), y_pred, weight)


@pytest.mark.parametrize("loss", [losses.Dice(), worst])
def test_a_number_as_weight_scales_any_loss(loss):
    loss, y_pred = resolve_loss(loss), torch.rand(4, 3)
    torch.testing.assert_close(loss(y_pred.round(), y_pred, 2.0), 2 * loss(y_pred.round(), y_pred))


def test_overlap_of_every_image_takes_weights():
    y_pred, y_true = torch.rand(4, 3, 3), torch.rand(4, 3, 3).round()
    values = torch.stack([losses.Dice()(t, p) for t, p in zip(y_true, y_pred)])
    torch.testing.assert_close(losses.Dice(axis=(1, 2))(y_true, y_pred, WEIGHT), (values * WEIGHT).mean())


# -- masks -------------------------------------------------------------------------------------------------------------


def masked(values, mask):
    values = values.detach().clone().requires_grad_()
    values._keras_mask = mask
    return values


KEPT = torch.tensor([True, True, False, True])
BESIDE_MASKS = [
    (losses.MeanSquaredError(), SOFT, LOGITS),
    (losses.MeanSquaredError(), SOFT[:, 0], LOGITS[:, 0]),
    (losses.CategoricalCrossentropy(from_logits=True), SOFT, LOGITS),
    (losses.CosineSimilarity(), SOFT, LOGITS),
    (losses.SparseCategoricalCrossentropy(from_logits=True), LABELS, LOGITS),
    (losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=1), LABELS, LOGITS),
    (nn.CrossEntropyLoss(), LABELS, LOGITS),
    (nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 3.0])), LABELS, LOGITS),
    (nn.CrossEntropyLoss(), SOFT, LOGITS),
    (nn.MultiMarginLoss(), LABELS, LOGITS),
    (nn.KLDivLoss(reduction="batchmean"), SOFT, LOGITS),
    (nn.MSELoss(), SOFT, LOGITS),
    (nn.MSELoss(reduction="none"), SOFT, LOGITS),
    (losses.Dice(), SOFT, SOFT.flip(0)),
    (losses.Tversky(axis=-1), SOFT, SOFT.flip(0)),
    (lambda y_true, y_pred: (y_true - y_pred).square().mean(-1), SOFT, LOGITS),
]


@pytest.mark.parametrize("nothing", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize(("loss", "y_true", "y_pred"), BESIDE_MASKS)
def test_what_the_mask_leaves_out_may_be_anything(loss, y_true, y_pred, nothing):
    loss = resolve_loss(loss)
    rows = KEPT.reshape(-1, *(1 for _ in y_pred.shape[1:]))
    spoilt = masked(torch.where(rows, y_pred, nothing), KEPT)
    if y_true.is_floating_point():
        y_true = torch.where(rows, y_true, nothing)
    else:
        y_true = torch.where(KEPT, y_true, 77)
    value = loss(y_true, spoilt)
    value.backward()
    torch.testing.assert_close(value.detach(), loss(y_true[KEPT], y_pred[KEPT]))
    assert torch.isfinite(spoilt.grad).all()
    assert (spoilt.grad[2] == 0).all()


@pytest.mark.parametrize("mask", [KEPT, KEPT.float(), KEPT.numpy(), KEPT[:, None], KEPT[:, None].expand(4, 5)])
@pytest.mark.parametrize("weight", [WEIGHT, WEIGHT[:, None], torch.rand(4, 5), torch.rand(4, 5, 1)])
@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean_with_sample_weight", "sum"])
def test_masks_go_with_weights(mask, weight, reduction):
    y_pred, loss = torch.rand(4, 5, 2), losses.MeanSquaredError(reduction=reduction)
    prediction = masked(y_pred, mask)
    spread = weight.reshape(4, -1).expand(4, 5)
    total = (y_pred.square().mean(-1) * spread)[KEPT].sum()
    divisor = {"sum": 1.0, "sum_over_batch_size": 15.0, "mean_with_sample_weight": spread[KEPT].sum()}[reduction]
    torch.testing.assert_close(loss(torch.zeros(4, 5, 2), prediction, weight).detach(), total / divisor)


def test_masks_of_places_go_where_torch_has_the_classes():
    logits, labels, mask = torch.randn(4, 5, 5), torch.randint(0, 5, (4, 5)), torch.rand(4, 5) > 0.3
    values = F.cross_entropy(logits, labels, reduction="none")
    spoilt = torch.where(mask[:, None], logits, torch.nan)
    for y_true in (labels, torch.where(mask, labels, -7)):
        value = resolve_loss(nn.CrossEntropyLoss())(y_true, masked(spoilt, mask))
        torch.testing.assert_close(value.detach(), values[mask].mean())


def test_a_mask_of_places_leaves_them_out_of_an_overlap():
    y_true, y_pred, mask = torch.rand(2, 6).round(), torch.rand(2, 6), torch.rand(2, 6) > 0.4
    value = losses.Dice()(y_true, masked(y_pred, mask))
    torch.testing.assert_close(value.detach(), losses.Dice()(y_true[mask][None], y_pred[mask][None]))


def test_a_valid_nan_is_not_hidden():
    y_pred = torch.full((4, 3), torch.nan)
    assert losses.MeanSquaredError()(torch.zeros(4, 3), masked(y_pred, KEPT)).isnan()


def test_a_mask_that_fits_nothing_is_refused():
    with pytest.raises(ValueError, match="the mask of y_pred must be"):
        losses.MeanSquaredError()(torch.zeros(4, 3), masked(torch.ones(4, 3), torch.ones(3)))
