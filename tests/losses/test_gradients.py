"""Gradients are finite where outputs are extreme, on both sides of every limit."""

import pytest
import torch

from torchfit import losses

LOGITS = torch.tensor([0.0, 1.0, 10.0, 17.0, 40.0, 90.0, 100.0, 104.0, 1e4])
LOGITS = torch.cat([LOGITS, -LOGITS])
UNITS = torch.tensor([0.0, 1e-45, 1e-38, 1e-30, 1e-8, 1e-7, 1e-3, 0.5, 0.999, 1 - 1e-6, 1 - 6e-8, 1.0])
GAMMAS = [0.0, 0.2, 0.5, 1.0, 2.0]

SINGLE = [
    *(losses.BinaryFocalCrossentropy(gamma=gamma) for gamma in GAMMAS),
    losses.BinaryFocalCrossentropy(gamma=0.5, label_smoothing=0.1, apply_class_balancing=True),
    losses.BinaryCrossentropy(),
    losses.BinaryCrossentropy(label_smoothing=0.1),
    losses.Dice(axis=-1),
    losses.Tversky(axis=-1),
    losses.MeanSquaredError(),
    losses.MeanAbsoluteError(),
    losses.MeanAbsolutePercentageError(),
    losses.MeanSquaredLogarithmicError(),
    losses.Huber(),
    losses.LogCosh(),
    losses.Poisson(),
    losses.Hinge(),
    losses.SquaredHinge(),
]
OF_CLASSES = [
    *(losses.CategoricalFocalCrossentropy(gamma=gamma) for gamma in GAMMAS),
    losses.CategoricalCrossentropy(),
    losses.CategoricalCrossentropy(label_smoothing=0.1),
    losses.SparseCategoricalCrossentropy(),
    *(losses.CategoricalGeneralizedCrossEntropy(q) for q in (0.01, 0.1, 0.5, 0.9)),
    losses.KLDivergence(),
    losses.CategoricalHinge(),
    losses.CosineSimilarity(),
]
OF_LOGITS = [
    losses.BinaryCrossentropy(from_logits=True),
    *(losses.BinaryFocalCrossentropy(from_logits=True, gamma=gamma) for gamma in GAMMAS),
]
OF_CLASS_LOGITS = [
    losses.CategoricalCrossentropy(from_logits=True),
    losses.SparseCategoricalCrossentropy(from_logits=True),
    *(losses.CategoricalFocalCrossentropy(from_logits=True, gamma=gamma) for gamma in GAMMAS),
]


def described(loss):
    return f"{type(loss).__name__} {loss.get_config()}"


def assert_finite(loss, y_true, outputs, activation=lambda outputs: outputs):
    outputs = outputs.clone().requires_grad_()
    value = loss(y_true, activation(outputs))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(outputs.grad).all()


@pytest.mark.parametrize("label", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("loss", SINGLE, ids=described)
def test_single_probabilities(loss, label):
    assert_finite(loss, torch.full((len(LOGITS), 1), label), LOGITS[:, None], torch.sigmoid)
    assert_finite(loss, torch.full((len(UNITS), 1), label), UNITS[:, None])


@pytest.mark.parametrize("label", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("loss", OF_LOGITS, ids=described)
def test_single_logits(loss, label):
    assert_finite(loss, torch.full((len(LOGITS), 1), label), LOGITS[:, None])


def of_classes(loss, label, rows):
    sparse = isinstance(loss, (losses.SparseCategoricalCrossentropy, losses.CategoricalGeneralizedCrossEntropy))
    return torch.full((rows,), label) if sparse else torch.eye(3)[label].expand(rows, 3)


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("loss", OF_CLASSES, ids=described)
def test_probabilities_of_classes(loss, label):
    logits = torch.stack([LOGITS, torch.zeros_like(LOGITS), -LOGITS], -1)
    assert_finite(loss, of_classes(loss, label, len(LOGITS)), logits, lambda logits: logits.softmax(-1))
    certain = torch.eye(3).expand(2, 3, 3).reshape(6, 3)
    assert_finite(loss, of_classes(loss, label, 6), certain)


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("loss", OF_CLASS_LOGITS, ids=described)
def test_logits_of_classes(loss, label):
    logits = torch.stack([LOGITS, torch.zeros_like(LOGITS), -LOGITS], -1)
    assert_finite(loss, of_classes(loss, label, len(LOGITS)), logits)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize(
    "make",
    [
        losses.BinaryCrossentropy,
        lambda **dtype: losses.BinaryFocalCrossentropy(gamma=0.5, **dtype),
        lambda **dtype: losses.CategoricalFocalCrossentropy(gamma=0.5, **dtype),
        lambda **dtype: losses.CategoricalGeneralizedCrossEntropy(0.2, **dtype),
    ],
    ids=["binary", "binary focal", "categorical focal", "generalized"],
)
def test_powers_in_other_dtypes(make, dtype):
    loss = make(dtype=dtype)
    assert_finite(loss, of_classes(loss, 0, 3), torch.eye(3, dtype=getattr(torch, dtype)))


def test_a_surely_right_sample_has_no_gradient_and_a_surely_wrong_one_keeps_its_value():
    logit = torch.tensor([[40.0]], requires_grad=True)
    losses.BinaryFocalCrossentropy(gamma=0.2, from_logits=True)([[1.0]], logit).backward()
    assert logit.grad.item() == pytest.approx(0.0, abs=1e-6)
    assert losses.CategoricalGeneralizedCrossEntropy(0.5)([1], [[1.0, 0.0]]).item() == 2.0


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2], [0, 0, 1]])
def test_circle_of_rows_without_pairs(labels):
    embeddings = torch.nn.functional.normalize(torch.randn(3, 4), dim=-1)
    assert_finite(losses.Circle(), torch.tensor(labels), embeddings)


def test_a_sequence_too_long_for_its_steps_leaves_the_others_their_gradients():
    labels, outputs = torch.tensor([[1, 1, 2], [1, 0, 0]]), torch.zeros(2, 2, 3, requires_grad=True)
    values = losses.CTC(reduction=None)(labels, outputs)
    values.sum().backward()
    assert values[0].item() == float("inf")
    assert torch.isfinite(outputs.grad).all()  # type: ignore[arg-type]
    assert outputs.grad[1].abs().sum() > 0
    repeated = losses.CTC(reduction=None)([[1, 1]], torch.zeros(1, 2, 3))  # a blank would have to stand between them
    assert repeated.item() == float("inf")
