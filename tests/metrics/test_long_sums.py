"""Sums and counts stay exact however many batches there are, and far from zero."""

import numpy as np
import pytest
import torch

from torchfit import metrics


def resume(metric, **state):
    """Set variables to what they would be after many batches."""
    for name, value in state.items():
        getattr(metric, name).fill_(value)
    return metric


def test_a_mean_of_equal_values_is_that_value_after_a_hundred_million():
    value = torch.tensor(0.1)
    metric = resume(metrics.Mean(), total=1e8 * value.item(), count=1e8)
    for _ in range(1000):
        metric.update_state(value, 64)
    assert metric.result().item() == pytest.approx(value.item(), rel=1e-7)
    assert metric.count.item() == 1e8 + 64_000


@pytest.mark.parametrize("name", ["TruePositives", "Sum"])
def test_single_samples_are_counted_beyond_the_integers_of_float32(name):
    metric = getattr(metrics, name)()
    state = resume(metric, **{"accumulator" if name == "TruePositives" else "total": 2.0**24})
    for _ in range(3):
        state.update_state([1.0], [1.0])
    assert metric.result().item() == 2**24 + 3


def test_accuracy_counts_single_samples():
    metric = resume(metrics.SparseCategoricalAccuracy(), total=2.0**25, count=2.0**25)
    for _ in range(5):
        metric.update_state(torch.tensor([1]), torch.tensor([[1.0, 0.0]]))
    assert metric.count.item() - metric.total.item() == 5


def test_a_curve_counts_more_in_one_bucket_than_float32_holds():
    metric = metrics.AUC(num_thresholds=3)
    resume(metric, true_positives=2.0**24, false_negatives=0.0)
    metric.update_state(torch.ones(3), torch.full((3,), 0.7))
    assert metric.true_positives.tolist() == [2**24 + 3, 2**24 + 3, 2**24]


@pytest.mark.parametrize("dtype", [None, "int", "int32", "float32"])
@pytest.mark.parametrize("kind", ["MeanIoU", "IoU", "OneHotMeanIoU", "BinaryIoU"])
def test_intersection_over_union_counts_more_than_an_int32_holds(kind, dtype):
    arguments = {"MeanIoU": (2,), "IoU": (2, [0, 1]), "OneHotMeanIoU": (2,), "BinaryIoU": ()}[kind]
    metric = getattr(metrics, kind)(*arguments, dtype=dtype)
    metric.total_confusion_matrix.copy_(torch.tensor([[2**31, 0], [2**30, 2**31]]))
    labels, predictions = np.array([0, 1]), np.array([0, 1])
    if kind.startswith("OneHot"):
        labels, predictions = np.eye(2)[labels], np.eye(2)[predictions]
    metric.update_state(labels, predictions)
    assert metric.result().item() == pytest.approx(2 / 3, abs=1e-6)
    assert metric.total_confusion_matrix[0, 0] == 2**31 + 1


@pytest.mark.parametrize("aggregation", [None, "uniform_average", "variance_weighted_average"])
@pytest.mark.parametrize("offset", [0.0, 2000.0, 1e6, 1e9])
def test_r2_does_not_depend_on_where_the_targets_lie(aggregation, offset):
    draw = np.random.default_rng(0)
    y_true, weights = draw.normal(size=(50, 2)) * [1, 3], draw.random(50)
    y_pred = y_true + draw.normal(size=(50, 2))
    metric, shifted = (metrics.R2Score(aggregation) for _ in range(2))
    for rows in np.split(np.arange(50), [7, 8, 31]):
        metric.update_state(y_true[rows], y_pred[rows], weights[rows])
        shifted.update_state(y_true[rows] + offset, y_pred[rows] + offset, weights[rows])
    np.testing.assert_allclose(shifted.result(), metric.result(), rtol=1e-5)


def test_adjusted_r2_counts_rows():
    sklearn = pytest.importorskip("sklearn.metrics")
    draw = np.random.default_rng(0)
    y_true = draw.normal(size=(20, 3))
    y_pred = y_true + draw.normal(size=(20, 3)) / 2
    metric = metrics.R2Score(num_regressors=4)
    metric.update_state(y_true, y_pred)
    expected = 1 - (1 - sklearn.r2_score(y_true, y_pred)) * 19 / 15
    assert metric.result().item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("scale", [1.0, 1e20])
def test_correlations_of_large_numbers(scale):
    y_true = np.array([[1.0, 2.0, 3.0, 5.0]]) * scale
    y_pred = np.array([[1.0, 2.0, 4.0, 4.0]]) * scale
    expected = np.corrcoef(y_true[0], y_pred[0])[0, 1]
    assert metrics.PearsonCorrelation()(y_true, y_pred).item() == pytest.approx(expected, rel=1e-6)
    assert metrics.PearsonCorrelation()(y_true.T + 1e6 * scale, y_pred.T).item() == pytest.approx(expected, rel=1e-4)


def test_a_state_of_r2_without_an_origin_is_loaded():
    """As files of version 0.1 have it: sums measured from zero."""
    metric = metrics.R2Score()
    sums = {"squared_sum": [26.0], "sum": [8.0], "residual": [2.0], "count": [3.0]}
    state = {name: torch.tensor(value) for name, value in sums.items()}
    metric.load_state_dict({**state, "num_samples": torch.tensor(3.0)})
    assert metric.result().item() == pytest.approx(1 - 2 / (26 - 64 / 3), rel=1e-6)
    metric.update_state([[5.0]], [[5.0]])
    assert metric.result().item() == pytest.approx(1 - 2 / (51 - 169 / 4), rel=1e-6)
