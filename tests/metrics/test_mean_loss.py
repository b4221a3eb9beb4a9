import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchfit import losses, metrics
from torchfit.metrics.identifiers import as_metric

LOGITS, LABELS = torch.randn(7, 3), torch.tensor([0, 1, 2, -100, 1, -100, -100])


@pytest.mark.parametrize(
    "loss", [nn.MSELoss(), F.mse_loss, losses.MeanSquaredError(), "mse"], ids=["module", "function", "loss", "name"]
)
def test_batches_count_by_their_samples(loss):
    metric = as_metric(loss)
    for predictions in ([[1.0], [2.0], [3.0]], [[10.0]]):
        metric.update_state([[0.0]] * len(predictions), predictions)
    assert metric.result().item() == pytest.approx(28.5)


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 2.0])),
        nn.CrossEntropyLoss(reduction="sum"),
        nn.NLLLoss(),
    ],
    ids=str,
)
def test_ignored_labels_and_class_weights_count_as_in_the_loss(loss):
    metric = as_metric(loss)
    for rows in (slice(0, 2), slice(2, 6), slice(6, 7)):
        metric.update_state(LABELS[rows], LOGITS[rows])
    assert metric.result().item() == pytest.approx(loss(LOGITS, LABELS).item(), abs=1e-6)


def test_a_module_of_users_is_called_with_the_predictions_first():
    class Ratio(nn.Module):
        def forward(self, predictions, targets):
            return (predictions / targets).mean()

    assert as_metric(Ratio())([[2.0]], [[6.0]]).item() == 3.0


def test_a_loss_is_not_taken_for_the_metric_of_its_name():
    again = metrics.deserialize(metrics.serialize(losses.BinaryCrossentropy(from_logits=True)))
    assert again([[1.0]], [[0.0]]).item() == pytest.approx(0.6931472)


def test_weights_apply():
    metric = as_metric(nn.L1Loss())
    metric.update_state([[0.0], [0.0]], [[1.0], [3.0]], sample_weight=[1.0, 2.0])
    assert metric.result().item() == pytest.approx(3.5)


@pytest.mark.parametrize("given", [as_metric, lambda loss: loss], ids=["metric", "loss"])
def test_it_is_serialized_with_its_loss(given):
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    metric, again = as_metric(loss), metrics.deserialize(metrics.serialize(given(loss)))
    again.update_state(LABELS, LOGITS)
    metric.update_state(LABELS, LOGITS)
    assert (again.name, again.result()) == ("cross_entropy_loss", metric.result())
