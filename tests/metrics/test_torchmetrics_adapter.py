import pytest
import torch

from torchfit.metrics.identifiers import as_metric

torchmetrics = pytest.importorskip("torchmetrics", exc_type=ImportError)

LABELS, SCORES = torch.tensor([0, 1, 1]), torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])


def test_predictions_come_first():
    metric = as_metric(torchmetrics.classification.MulticlassAccuracy(2, average="micro"))
    assert metric(LABELS, SCORES).item() == pytest.approx(2 / 3)
    assert (metric.name, metric.mode) == ("multiclass_accuracy", "max")


def test_a_class_and_a_function_are_taken_too():
    assert as_metric(torchmetrics.MeanSquaredError)([1.0, 2.0], [1.0, 4.0]).item() == 2.0
    assert as_metric(torchmetrics.MeanSquaredError).mode == "min"


def several():
    return torchmetrics.MetricCollection([torchmetrics.MeanSquaredError(), torchmetrics.MeanAbsoluteError()])


@pytest.mark.filterwarnings("ignore:.*save all targets and predictions")
@pytest.mark.parametrize("kind", [torchmetrics.MeanSquaredError, torchmetrics.SpearmanCorrCoef, several])
def test_state_is_copied_out_and_back(kind):
    metric = as_metric(kind())
    metric.update_state(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 4.0, 2.0]))
    expected = metric.result()
    snapshot = metric.snapshot_state()
    metric.reset_state()
    metric.update_state(torch.tensor([1.0, 5.0]), torch.tensor([7.0, 4.0]))
    metric.restore_state(snapshot)
    assert metric.result() == expected


def test_a_mask_leaves_samples_out():
    metric = as_metric(torchmetrics.MeanSquaredError())
    predictions = torch.tensor([[1.0, 5.0], [2.0, float("nan")]])
    predictions._keras_mask = torch.tensor([[True, False], [True, False]])  # type: ignore[attr-defined]
    metric.update_state(torch.zeros(2, 2), predictions)
    assert metric.result() == 2.5


def test_sample_weights_are_refused():
    metric = as_metric(torchmetrics.MeanSquaredError())
    with pytest.raises(ValueError, match="torchmetrics has no sample weights"):
        metric.update_state([1.0], [2.0], sample_weight=[1.0])
