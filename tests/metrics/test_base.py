import copy
import pickle
from typing import Any

import pytest
import torch

from torchfit import metrics


class CategoricalTruePositives(metrics.Metric):
    def __init__(self, name="categorical_true_positives", **kwargs):
        super().__init__(name=name, **kwargs)
        self.true_positives = self.add_weight(name="ctp", initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        y_pred = torch.reshape(torch.argmax(y_pred, dim=1), (-1, 1))
        values = (y_true.int() == y_pred.int()).float()
        if sample_weight is not None:
            values = values * sample_weight
        self.true_positives.assign_add(torch.sum(values))

    def result(self):
        return self.true_positives

    def reset_state(self):
        self.true_positives.assign(0.0)


class Family(metrics.Metric):
    def __init__(self):
        self.note = "before"
        self.early = metrics.Mean(name="early")
        super().__init__()
        self.listed: list[Any] = [metrics.Sum(), {"deep": metrics.Mean()}]
        self.start = self.add_weight(name="start", initializer="ones", shape=(2,))

    def update_state(self, values):
        self.early.update_state(values)
        self.listed[0].update_state(values)
        self.listed[1]["deep"].update_state(values)
        self.start.assign_add([1, 1])

    def result(self):
        return {"early": self.early.result(), "sum": self.listed[0].result()}


LABELS, SCORES = torch.tensor([[1], [0]]), torch.tensor([[0.2, 0.8], [0.4, 0.6]])


def test_the_metric_of_the_guide():
    metric = CategoricalTruePositives()
    assert metric(LABELS, SCORES).item() == 1.0
    assert metric(LABELS, SCORES).item() == 2.0
    assert metric.result() is metric.true_positives
    metric.reset_state()
    assert metric.result().item() == 0.0
    assert metric.name == "categorical_true_positives"


@pytest.mark.graphs
def test_the_metric_of_the_guide_is_one_graph():
    metric = CategoricalTruePositives()
    torch.compile(metric.update_state, backend="eager", fullgraph=True)(LABELS, SCORES)
    assert metric.result().item() == 1.0


def test_nested_metrics_belong_to_the_state():
    metric = Family()
    metric.update_state([1.0, 2.0])
    assert [variable.name for variable in metric.variables] == ["start", "total", "count", "total", "total", "count"]
    assert list(metric.state_dict()) == [
        "start",
        "early.total",
        "early.count",
        "listed_0.total",
        "listed_1_deep.total",
        "listed_1_deep.count",
    ]
    metric.reset_state()
    assert [variable.tolist() for variable in metric.variables] == [[1.0, 1.0], 0.0, 0.0, 0.0, 0.0, 0.0]


def test_metrics_appended_later_belong_to_the_state():
    metric = Family()
    metric.listed.append(metrics.Sum(name="late"))
    assert len(metric.variables) == 7
    metric.listed.pop()
    assert len(metric.variables) == 6


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda metric: pickle.loads(pickle.dumps(metric))])
def test_copies_keep_names_and_attributes_together(copied):
    metric = Family()
    metric.update_state([1.0, 2.0])
    other = copied(metric)
    other.update_state([3.0])
    assert other.start.tolist() == [3.0, 3.0]
    assert other.state_dict()["start"].tolist() == [3.0, 3.0]
    assert metric.start.tolist() == [2.0, 2.0]
    assert other.start.name == "start"


def test_a_snapshot_of_nested_metrics_is_brought_back():
    metric = Family()
    metric.update_state([1.0])
    snapshot = metric.snapshot_state()
    metric.update_state([5.0])
    metric.restore_state(snapshot)
    assert [variable.tolist() for variable in metric.variables] == [[2.0, 2.0], 1.0, 1.0, 1.0, 1.0, 1.0]


def test_what_was_made_after_the_snapshot_is_reset():
    metric = metrics.F1Score()
    snapshot = metric.snapshot_state()
    metric.update_state([[1, 0]], [[0.9, 0.1]])
    metric.restore_state(snapshot)
    assert metric.result().tolist() == [0.0, 0.0]


def test_moving_keeps_the_variables_and_their_dtype():
    metric = metrics.Mean()
    total = metric.total
    metric.half()
    metric.to(torch.float64)
    assert metric.total is total
    assert dict(metric.named_buffers())["total"] is total
    assert total.dtype == torch.float64


def test_sums_are_float32_on_devices_without_float64():
    """As on Apple's GPUs, where moving a float64 tensor is a TypeError."""

    def move(tensor):
        if tensor.dtype == torch.float64:
            raise TypeError("Cannot convert a float64 tensor")
        return tensor.clone()

    metric = metrics.Mean()
    metric.update_state([1.0, 3.0])
    total = metric.total
    metric._apply(move)
    metric.update_state([5.0])
    assert metric.total is total
    assert (total.dtype, metric.result().item()) == (torch.float32, 3.0)


def test_assigning_a_tensor_writes_into_the_variable():
    metric = metrics.Mean()
    total = metric.total
    metric.total = metric.total + 3  # type: ignore[assignment]
    assert metric.total is total
    assert metric.state_dict()["total"].item() == 3.0


def test_variables_of_one_name_are_numbered():
    metric = metrics.Metric()
    metric.add_weight(name="a")
    metric.add_weight(name="a")
    assert list(metric.state_dict()) == ["a", "a_1"]


def test_operations_on_variables_give_plain_tensors():
    assert type(metrics.Mean().total + 1) is torch.Tensor


def test_an_initializer_may_be_a_function_or_a_number():
    metric = metrics.Metric()
    assert metric.add_weight((2,), torch.ones).tolist() == [1.0, 1.0]
    variable = metric.add_variable((2,), 3)
    variable.assign_sub(1)
    assert variable.tolist() == [2.0, 2.0]
    variable.reset()
    assert variable.tolist() == [3.0, 3.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": "ctp"}, "`shape` must be a tuple of sizes. Received: 'ctp'"),
        ({"initializer": "glorot"}, "`initializer` must be 'zeros', 'ones'"),
        ({"dtype": "flot32"}, "`dtype` must be the name of a dtype.*Did you mean 'float32'"),
    ],
)
def test_bad_arguments_of_add_weight(arguments, message):
    with pytest.raises(ValueError, match=message):
        metrics.Metric().add_weight(**arguments)


def test_a_metric_says_what_it_lacks():
    with pytest.raises(NotImplementedError, match="Metric must define update_state"):
        metrics.Metric().update_state()
    with pytest.raises(NotImplementedError, match="Metric must define result"):
        metrics.Metric().result()


def test_metrics_are_modules():
    model = torch.nn.Module()
    model.metric = metrics.Mean()
    model.metric.update_state([1.0, 3.0])
    assert sorted(model.state_dict()) == ["metric.count", "metric.total"]
    assert not list(model.parameters())
