import pytest
import torch

from torchfit import losses

LOGITS = torch.tensor([[2.0, -1.0], [0.5, 3.0]])
PROBABILITIES = LOGITS.softmax(-1)
SIGMOIDS = torch.tensor([[0.9, 0.8], [0.1, 0.3]])


@pytest.mark.parametrize("name", ["SparseCategoricalCrossentropy", "CategoricalCrossentropy", "BinaryCrossentropy"])
def test_logits_are_noticed(name):
    problem = losses.probability_problem(getattr(losses, name)(), LOGITS)
    assert "outside [0, 1]" in problem
    assert f"{name}(from_logits=True)" in problem
    assert "\n" not in problem


def test_rows_that_do_not_sum_to_one_are_noticed():
    assert "do not sum to 1" in losses.probability_problem(losses.CategoricalCrossentropy(), SIGMOIDS)
    assert losses.probability_problem(losses.BinaryCrossentropy(), SIGMOIDS) is None


@pytest.mark.parametrize("name", ["SparseCategoricalCrossentropy", "CategoricalCrossentropy", "BinaryCrossentropy"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_probabilities_are_fine(name, dtype):
    assert losses.probability_problem(getattr(losses, name)(), PROBABILITIES.to(dtype)) is None


def test_logits_are_fine_where_they_are_expected():
    assert losses.probability_problem(losses.BinaryCrossentropy(from_logits=True), LOGITS) is None
    assert losses.probability_problem(losses.MeanSquaredError(), LOGITS) is None
    assert losses.probability_problem(losses.as_loss(torch.nn.CrossEntropyLoss()), LOGITS) is None


def test_losses_without_from_logits():
    assert losses.probability_problem(losses.Dice(), LOGITS).endswith("End the model with a sigmoid.")
    assert "softmax" in losses.probability_problem(losses.KLDivergence(), LOGITS)
    assert "sigmoid" in losses.probability_problem(losses.as_loss(torch.nn.BCELoss()), LOGITS)


def test_nan_is_no_evidence():
    assert losses.probability_problem(losses.BinaryCrossentropy(), torch.full((2, 1), torch.nan)) is None


def test_classes_on_another_axis():
    loss = losses.CategoricalCrossentropy(axis=1)
    assert losses.probability_problem(loss, torch.rand(2, 3, 4).softmax(1)) is None
