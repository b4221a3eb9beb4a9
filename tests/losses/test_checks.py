import warnings

import pytest
import torch
from torch import nn

from torchfit import losses
from torchfit.losses.checks import check_targets, find_probability_problem
from torchfit.losses.identifiers import resolve_loss

LOGITS = torch.tensor([[2.0, -1.0, 0.0], [0.0, 3.0, -1.0]])
PROBABILITIES = LOGITS.softmax(-1)
SPARSE = losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.mark.parametrize(
    ("loss", "labels", "message"),
    [
        (SPARSE, [1, 3], "from 1 to 3, and the outputs have 3 classes"),
        (SPARSE, [[-1], [2]], "from -1 to 2"),
        (SPARSE, [1.0, 3.0], "from 1 to 3"),
        (SPARSE, [0.5, 1.0], "not all are whole numbers"),
        (SPARSE, [1.0, float("nan")], r"some are missing \(NaN\)"),
        (nn.CrossEntropyLoss(), [0, 3], "from 0 to 3"),
        (nn.NLLLoss(), [0, 3], "from 0 to 3"),
    ],
)
def test_numbers_without_a_class_are_refused(loss, labels, message):
    with pytest.raises(ValueError, match=message):
        check_targets(resolve_loss(loss), torch.tensor(labels), LOGITS)


@pytest.mark.parametrize(
    ("loss", "targets", "outputs", "message"),
    [
        ("bce", [[0.0], [2.0]], [[0.2], [0.4]], "takes targets from 0 to 1"),
        (nn.BCEWithLogitsLoss(), [[-1.0], [1.0]], [[0.2], [0.4]], "takes targets from 0 to 1"),
        (SPARSE, [0, 0], [[0.2], [0.4]], "the outputs have one"),
        (SPARSE, [0, 1], PROBABILITIES, "expects logits"),
        (nn.CrossEntropyLoss(), [0, 1], PROBABILITIES, "Remove it\\."),
        (
            losses.BinaryCrossentropy(from_logits=True),
            [[0.0]],
            torch.ones(1, 1, requires_grad=True).sigmoid(),
            "logits",
        ),
    ],
)
def test_what_is_probably_wrong_is_told(loss, targets, outputs, message):
    with pytest.warns(UserWarning, match=message):
        check_targets(resolve_loss(loss), torch.tensor(targets), torch.as_tensor(outputs))


@pytest.mark.parametrize(
    ("loss", "targets", "outputs"),
    [
        (SPARSE, [0, 2], LOGITS),
        (SPARSE, [[0], [2]], LOGITS),
        (SPARSE, [True, False], LOGITS),
        (losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1), [-1, 2], LOGITS),
        (nn.CrossEntropyLoss(ignore_index=255), [255, 2], LOGITS),
        (nn.CrossEntropyLoss(), [[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]], LOGITS),
        (nn.CrossEntropyLoss(), [[0, 2]], torch.zeros(1, 3, 2)),
        ("bce", [True, False], [[0.2], [0.4]]),
        (losses.BinaryCrossentropy(from_logits=True), [[0.0], [1.0]], [[0.2], [0.4]]),
        ("mse", [5.0, -3.0], [[0.2], [0.4]]),
        ("kld", [[0.5, 0.5]], [[0.5, 0.5]]),
        (SPARSE, [], torch.zeros(0, 3)),
    ],
)
def test_what_fits_passes_in_silence(loss, targets, outputs):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_targets(resolve_loss(loss), torch.tensor(targets), torch.as_tensor(outputs))


# -- probabilities where they are expected --

OUTPUTS = torch.tensor([[2.0, -1.0], [0.5, 3.0]])
SIGMOIDS = torch.tensor([[0.9, 0.8], [0.1, 0.3]])


@pytest.mark.parametrize("name", ["SparseCategoricalCrossentropy", "CategoricalCrossentropy", "BinaryCrossentropy"])
def test_logits_are_noticed(name):
    problem = find_probability_problem(getattr(losses, name)(), OUTPUTS)
    assert "outside [0, 1]" in problem
    assert f"{name}(from_logits=True)" in problem
    assert "\n" not in problem


def test_rows_that_do_not_sum_to_one_are_noticed():
    assert "do not sum to 1" in find_probability_problem(losses.CategoricalCrossentropy(), SIGMOIDS)
    assert find_probability_problem(losses.BinaryCrossentropy(), SIGMOIDS) is None


@pytest.mark.parametrize("name", ["SparseCategoricalCrossentropy", "CategoricalCrossentropy", "BinaryCrossentropy"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_probabilities_are_fine(name, dtype):
    assert find_probability_problem(getattr(losses, name)(), OUTPUTS.softmax(-1).to(dtype)) is None


def test_logits_are_fine_where_they_are_expected():
    assert find_probability_problem(losses.BinaryCrossentropy(from_logits=True), OUTPUTS) is None
    assert find_probability_problem(losses.MeanSquaredError(), OUTPUTS) is None
    assert find_probability_problem(resolve_loss(torch.nn.CrossEntropyLoss()), OUTPUTS) is None


def test_losses_without_from_logits():
    assert find_probability_problem(losses.Dice(), OUTPUTS).endswith("End the model with a sigmoid.")
    assert "softmax" in find_probability_problem(losses.KLDivergence(), OUTPUTS)
    assert "sigmoid" in find_probability_problem(resolve_loss(torch.nn.BCELoss()), OUTPUTS)


def test_nan_is_no_evidence():
    assert find_probability_problem(losses.BinaryCrossentropy(), torch.full((2, 1), torch.nan)) is None


def test_classes_on_another_axis():
    loss = losses.CategoricalCrossentropy(axis=1)
    assert find_probability_problem(loss, torch.rand(2, 3, 4).softmax(1)) is None


def test_crossentropy_by_shapes_expects_probabilities():
    loss = resolve_loss("crossentropy")
    assert "CategoricalCrossentropy(from_logits=True)" in find_probability_problem(loss, OUTPUTS)
    assert "BinaryCrossentropy(from_logits=True)" in find_probability_problem(loss, OUTPUTS[:, :1])
    with pytest.raises(ValueError, match="the outputs have 2 classes"):
        check_targets(loss, torch.tensor([0, 2]), OUTPUTS.softmax(-1))
