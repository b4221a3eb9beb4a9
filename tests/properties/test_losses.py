"""Laws that hold for every loss that is computed sample by sample."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from torchfit import losses

CLASSES = 3
OF_NUMBERS = [
    "MeanSquaredError",
    "MeanAbsoluteError",
    "MeanAbsolutePercentageError",
    "MeanSquaredLogarithmicError",
    "Huber",
    "LogCosh",
    "CosineSimilarity",
    "KLDivergence",
    "Poisson",
    "BinaryCrossentropy",
    "BinaryFocalCrossentropy",
    "CategoricalCrossentropy",
    "CategoricalFocalCrossentropy",
    "CategoricalHinge",
]
OF_LABELS = ["SparseCategoricalCrossentropy", "CategoricalGeneralizedCrossEntropy"]
OF_SIGNS = ["Hinge", "SquaredHinge"]
MEMBERS = [*OF_NUMBERS, *OF_LABELS, *OF_SIGNS]

unit = st.floats(0.015625, 1, width=16)


@st.composite
def batches(draw, name):
    """Draw `(y_true, y_pred, sample_weight)` of an even number of rows."""
    rows = 2 * draw(st.integers(1, 4))
    y_pred = draw(arrays("float32", (rows, CLASSES), elements=unit))
    weight = draw(arrays("float32", (rows,), elements=st.floats(0, 4, width=16)))
    if name in OF_LABELS:
        y_true = draw(arrays("int64", (rows,), elements=st.integers(0, CLASSES - 1)))
    elif name in OF_SIGNS:
        y_true = draw(arrays("float32", (rows, CLASSES), elements=st.sampled_from([-1.0, 1.0])))
        y_true[:, 0] = -1  # labels of 0 and 1 only would be read as binary, which is decided by batch
    else:
        y_true = draw(arrays("float32", (rows, CLASSES), elements=unit))
    return tuple(torch.from_numpy(array) for array in (y_true, y_pred, weight))


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def law(test):
    """Run a law for every member, on drawn batches."""

    @pytest.mark.parametrize("name", MEMBERS)
    @settings(max_examples=15, deadline=None, derandomize=True)
    @given(data=st.data())
    def run(name, data):
        test(getattr(losses, name), *data.draw(batches(name)))

    return run


@law
def test_two_halves_make_a_batch(loss, y_true, y_pred, weight):
    half = len(weight) // 2
    for reduction, factor in (("sum", 1.0), ("sum_over_batch_size", 0.5)):
        whole = loss(reduction=reduction)(y_true, y_pred, weight)
        halves = [loss(reduction=reduction)(y_true[p], y_pred[p], weight[p]) for p in (slice(half), slice(half, None))]
        close(whole, factor * (halves[0] + halves[1]))


@law
def test_a_weight_of_two_is_the_sample_twice(loss, y_true, y_pred, weight):
    for reduction in ("sum", "mean_with_sample_weight"):
        counted = loss(reduction=reduction)(y_true, y_pred, torch.tensor([2.0] + [1.0] * (len(weight) - 1)))
        repeated = loss(reduction=reduction)(torch.cat([y_true[:1], y_true]), torch.cat([y_pred[:1], y_pred]))
        close(counted, repeated)


@law
def test_a_mask_is_a_weight_of_zero_for_sums(loss, y_true, y_pred, weight):
    masked = y_pred.clone()
    masked._keras_mask = weight > 1
    close(loss(reduction="sum")(y_true, masked), loss(reduction="sum")(y_true, y_pred, (weight > 1).float()))


@law
def test_order_does_not_matter(loss, y_true, y_pred, weight):
    order = torch.from_numpy(np.random.permutation(len(weight)))
    close(loss()(y_true, y_pred, weight), loss()(y_true[order], y_pred[order], weight[order]))
    values = loss(reduction=None)(y_true, y_pred)
    close(loss(reduction=None)(y_true[order], y_pred[order]), values[order])


@law
def test_the_short_way_is_the_mean_of_the_values(loss, y_true, y_pred, weight):
    close(loss()(y_true, y_pred), loss(reduction=None)(y_true, y_pred).mean())
    close(loss()(y_true, y_pred), loss()(y_true, y_pred, torch.ones_like(weight)))


@law
def test_configs_round_trip(loss, y_true, y_pred, weight):
    first = loss(reduction="sum", name="own")
    second = loss.from_config(first.get_config())
    assert second.get_config() == first.get_config() == losses.deserialize(losses.serialize(first)).get_config()
    assert torch.equal(first(y_true, y_pred, weight), second(y_true, y_pred, weight))
