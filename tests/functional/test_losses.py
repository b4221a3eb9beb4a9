"""Values that can be worked out by hand; tests/parity compares all of them with Keras."""

import math

import pytest
import torch

from torchfit import functional

LOG_2 = math.log(2.0)


@pytest.mark.parametrize(
    ("name", "y_true", "y_pred", "expected"),
    [
        ("mean_squared_error", [[0, 1]], [[1, 3]], 2.5),
        ("mean_absolute_error", [[0, 1]], [[1, 3]], 1.5),
        ("mean_absolute_percentage_error", [[2, 4]], [[1, 4]], 25.0),
        ("mean_squared_logarithmic_error", [[1, 0]], [[3, 0]], LOG_2**2 / 2),
        ("huber", [[0, 0]], [[1, 3]], 1.5),
        ("log_cosh", [[0.0]], [[100.0]], 100 - LOG_2),
        ("cosine_similarity", [[0, 1]], [[1, 1]], -math.sqrt(0.5)),
        ("cosine_similarity", [[0, 0]], [[1, 1]], 0.0),
        ("kl_divergence", [[1.0, 0.0]], [[0.5, 0.5]], LOG_2),
        ("poisson", [[2.0]], [[1.0]], 1.0),
        ("binary_crossentropy", [[1, 0]], [[0.5, 0.5]], LOG_2),
        ("categorical_crossentropy", [[0, 1]], [[1, 1]], LOG_2),
        ("sparse_categorical_crossentropy", [1], [[1, 1]], LOG_2),
        ("binary_focal_crossentropy", [[1.0]], [[0.5]], LOG_2 / 4),
        ("categorical_focal_crossentropy", [[0, 1]], [[0.5, 0.5]], LOG_2 / 16),
        ("hinge", [[0, 1]], [[0.5, 0.5]], 1.0),
        ("squared_hinge", [[-1, 1]], [[0.5, 0.5]], 1.25),
        ("categorical_hinge", [[0, 1]], [[0.5, 0.25]], 1.25),
        ("dice", [[0, 1]], [[0, 1]], 0.0),
        ("tversky", [[0, 1]], [[1, 1]], 1 / 3),
        ("ctc", [[1]], [[[0, 0]]], LOG_2),
    ],
)
def test_values(name, y_true, y_pred, expected):
    result = getattr(functional, name)(y_true, y_pred)
    assert result.dtype == torch.float32
    assert result.flatten().tolist() == pytest.approx([expected], abs=2e-6)


def test_generalized_crossentropy():
    assert functional.categorical_generalized_cross_entropy([1], [[0.75, 0.25]], q=0.5).tolist() == [1.0]


def test_circle_of_references():
    rows = torch.eye(2)
    alone = functional.circle([0, 1], rows, ref_labels=[0, 1], ref_embeddings=rows)
    assert alone.tolist() == [0, 0]
    kept = functional.circle([0, 1], rows, [0, 1], rows, remove_diagonal=False, gamma=1.0)
    assert kept._keras_mask.all()  # type: ignore[attr-defined]


@pytest.mark.parametrize(("y_true", "y_pred"), [((2, 3), (2, 5)), ((2,), (2, 4, 5)), ((3, 2), (2, 4, 5))])
def test_shapes_of_ctc(y_true, y_pred):
    with pytest.raises(ValueError, match=r"y_pred must be logits \(batch, steps, classes\)"):
        functional.ctc(torch.ones(y_true), torch.zeros(y_pred))


@pytest.mark.parametrize(("labels", "embeddings"), [((3,), (2, 4)), ((2, 3), (2, 4)), ((2,), (2, 3, 4))])
def test_shapes_of_circle(labels, embeddings):
    with pytest.raises(ValueError, match="one class index for each row"):
        functional.circle(torch.zeros(labels), torch.zeros(embeddings))


def test_half_precision_stays_finite():
    y_pred = torch.tensor([[0.0, 1.0]], dtype=torch.float16)
    assert functional.binary_crossentropy([[1, 0]], y_pred).isfinite().all()
    assert functional.categorical_crossentropy([[1, 0]], y_pred).isfinite().all()
