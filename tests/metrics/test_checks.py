import pytest
import torch
from torch import nn

import torchfit
from torchfit import losses, metrics
from torchfit.metrics.checks import metric_problem

LABELS = torch.tensor([[0], [1], [1], [0]])
LOGITS = torch.tensor([[-1.0], [0.3], [2.0], [-2.0]])


@pytest.mark.parametrize(
    "metric",
    [
        metrics.BinaryAccuracy(),
        metrics.Precision(),
        metrics.Recall(thresholds=[0.3, 0.7]),
        metrics.AUC(),
        metrics.FalsePositives(),
        metrics.F1Score(threshold=0.5),
        metrics.RecallAtPrecision(0.5),
        metrics.BinaryIoU(),
        metrics.BinaryCrossentropy(),
    ],
    ids=lambda metric: type(metric).__name__,
)
def test_logits_in_place_of_probabilities(metric):
    problem = metric_problem(metric, nn.BCEWithLogitsLoss(), LABELS, LOGITS)
    assert f"Use {type(metric).__name__}(from_logits=True)" in problem
    assert metric_problem(metric, nn.BCELoss(), LABELS, LOGITS.sigmoid()) is None


@pytest.mark.parametrize(
    "metric",
    [
        metrics.BinaryAccuracy(threshold=0.0),
        metrics.BinaryAccuracy(from_logits=True),
        metrics.Precision(thresholds=0.0),
        metrics.Precision(top_k=1),
        metrics.AUC(from_logits=True),
        metrics.F1Score(),
        metrics.MeanSquaredError(),
    ],
    ids=repr,
)
def test_metrics_that_read_logits(metric):
    assert metric_problem(metric, nn.BCEWithLogitsLoss(), LABELS, LOGITS) is None


def test_outputs_of_a_regression_are_no_logits():
    assert metric_problem(metrics.BinaryAccuracy(), "mse", LABELS, LOGITS) is None


@pytest.mark.parametrize("metric", [metrics.AUC(), metrics.Precision(), metrics.BinaryAccuracy()], ids=repr)
def test_labels_above_one(metric):
    assert "expects labels of 0 and 1" in metric_problem(metric, None, LABELS * 2, LOGITS.sigmoid())
    assert metric_problem(metric, None, LABELS * 2 - 1, LOGITS.sigmoid()) is None


def test_classes_on_another_dimension_than_those_of_the_loss():
    labels, outputs = torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 3, 3)
    problem = metric_problem(metrics.SparseCategoricalAccuracy(), nn.CrossEntropyLoss(), labels, outputs)
    assert "Pass axis=1 to the metric" in problem
    matching = metrics.SparseCategoricalAccuracy(axis=1)
    assert metric_problem(matching, nn.CrossEntropyLoss(), labels, outputs) is None
    assert metric_problem(metrics.SparseCategoricalAccuracy(), nn.CrossEntropyLoss(), labels[:, 0], outputs[0]) is None


def test_labels_that_only_the_loss_ignores():
    labels, outputs = torch.tensor([0, -100]), torch.zeros(2, 3)
    problem = metric_problem(metrics.SparseCategoricalAccuracy(), nn.CrossEntropyLoss(), labels, outputs)
    assert "Pass ignore_class=-100 to the metric" in problem
    ignoring = metrics.SparseCategoricalAccuracy(ignore_class=-100)
    assert metric_problem(ignoring, nn.CrossEntropyLoss(), labels, outputs) is None
    assert metric_problem(ignoring, losses.SparseCategoricalCrossentropy(), labels.abs(), outputs) is None


def test_a_model_warns_once():
    model = torchfit.Model(nn.Linear(1, 1), device="cpu")
    model.compile("sgd", nn.BCEWithLogitsLoss(), [metrics.Recall()])
    with pytest.warns(UserWarning, match=r"Use Recall\(from_logits=True\)") as seen:
        model.fit(LOGITS, LABELS, validation_data=(LOGITS, LABELS), batch_size=2, epochs=2, verbose=0)
    model.evaluate(LOGITS, LABELS, verbose=0)
    assert len(seen) == 1
