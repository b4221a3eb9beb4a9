"""Outputs `(batch,)` are one value per sample, or, where a loss compares the values of a sample, an error."""

import pytest
import torch
from torch import nn

from torchfit import functional, losses
from torchfit.losses.identifiers import resolve_loss

Y_TRUE, Y_PRED = torch.tensor([0.0, 1.0, 1.0, 0.0]), torch.tensor([0.3, 0.8, 0.4, 0.1])
WEIGHT = torch.tensor([1.0, 2.0, 0.0, 3.0])
OF_NUMBERS = [
    "mean_squared_error",
    "mean_absolute_error",
    "mean_absolute_percentage_error",
    "mean_squared_logarithmic_error",
    "huber",
    "log_cosh",
    "binary_crossentropy",
    "binary_focal_crossentropy",
    "poisson",
    "hinge",
    "squared_hinge",
]
OF_VECTORS = {
    "cosine_similarity": "no direction",
    "kl_divergence": "no distribution",
    "categorical_hinge": "use hinge",
    "categorical_crossentropy": "use binary_crossentropy",
    "categorical_focal_crossentropy": "use binary_crossentropy",
    "sparse_categorical_crossentropy": "use a binary loss",
}


@pytest.mark.parametrize("name", OF_NUMBERS)
def test_functions_return_a_value_per_sample(name):
    function = getattr(functional, name)
    values = function(Y_TRUE, Y_PRED)
    assert values.shape == (4,)
    torch.testing.assert_close(values, function(Y_TRUE[:, None], Y_PRED[:, None]))


@pytest.mark.parametrize("name", OF_NUMBERS)
@pytest.mark.parametrize("weight", [None, WEIGHT, WEIGHT[:, None], 2.0])
@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean_with_sample_weight", "sum"])
def test_flat_outputs_are_weighted_like_columns(name, weight, reduction):
    loss = type(resolve_loss(name))(reduction=reduction)
    flat, column = (loss.with_denominator(Y_TRUE, y_pred, weight) for y_pred in (Y_PRED, Y_PRED[:, None]))
    torch.testing.assert_close(flat, column)
    torch.testing.assert_close(flat, loss.with_denominator(Y_TRUE[:, None], Y_PRED, weight))


@pytest.mark.parametrize("name", OF_NUMBERS)
def test_flat_outputs_are_masked_like_columns(name):
    loss = resolve_loss(name)
    mask = torch.tensor([True, False, True, True])
    y_pred = Y_PRED.clone()
    y_pred._keras_mask = mask  # type: ignore[attr-defined]
    torch.testing.assert_close(loss(Y_TRUE, y_pred), loss(Y_TRUE[mask], Y_PRED[mask]))


def test_values_without_a_reduction():
    assert losses.MeanSquaredError(reduction=None)(Y_TRUE, Y_PRED).tolist() == pytest.approx([0.09, 0.04, 0.36, 0.01])


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("name", OF_VECTORS)
def test_losses_that_need_vectors_say_so(name, rows):
    for loss in (getattr(functional, name), resolve_loss(name)):
        with pytest.raises(ValueError, match=rf"y_pred must be \(batch, …, .*{OF_VECTORS[name]}"):
            loss(Y_TRUE[:rows], Y_PRED[:rows])


@pytest.mark.parametrize("targets", [Y_TRUE, Y_TRUE.long()])
@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), nn.NLLLoss()])
def test_torchs_losses_of_classes_need_classes(loss, targets):
    with pytest.raises(ValueError, match=r"y_pred must be \(batch, classes, …\).*use BCEWithLogitsLoss"):
        resolve_loss(loss)(targets, Y_PRED)


@pytest.mark.parametrize("loss", [nn.MSELoss(), nn.BCELoss(), nn.SmoothL1Loss(), nn.SoftMarginLoss()])
def test_torchs_losses_of_numbers(loss):
    adapted = resolve_loss(loss)
    torch.testing.assert_close(adapted(Y_TRUE, Y_PRED, WEIGHT), (adapted.call(Y_TRUE, Y_PRED) * WEIGHT).mean())
