import numpy as np
import pytest
import torch

from torchfit._trainer import logs as module
from torchfit._trainer.logs import LazyLogs, to_python


class Counted:
    """Results that count how often they are asked for."""

    def __init__(self, **values):
        self.values, self.asked = values, 0

    def __call__(self):
        self.asked += 1
        return self.values


def test_nothing_is_asked_for_before_a_read():
    results = Counted(loss=torch.tensor(0.5))
    logs = LazyLogs(results)
    logs["lr"] = 0.1
    logs.update({"val_loss": 2.0})
    assert bool(logs)
    assert results.asked == 0


def test_reads_are_python_floats_from_one_fetch():
    results = Counted(loss=torch.tensor(0.5), rows=torch.tensor(3), done=True)
    logs = LazyLogs(results)
    assert dict(logs) == {"loss": 0.5, "rows": 3.0, "done": 1.0}
    assert [type(value) for value in logs.values()] == [float, float, float]
    assert results.asked == 1


def test_all_scalars_come_in_one_transfer(monkeypatch):
    transfers = []
    fetch = module._fetch
    monkeypatch.setattr(module, "_fetch", lambda scalars: transfers.append(len(scalars)) or fetch(scalars))
    values = {"a": torch.tensor(1.0), "b": torch.tensor([2]), "c": torch.tensor(3.0, dtype=torch.bfloat16)}
    assert to_python(values) == {"a": 1.0, "b": 2.0, "c": 3.0}
    assert transfers == [3]


def test_what_is_written_stands_after_the_results():
    logs = LazyLogs(lambda: {"loss": torch.tensor(1.0)})
    logs["lr"] = 0.1
    assert list(logs.items()) == [("loss", 1.0), ("lr", 0.1)]


def test_writing_over_a_result_and_deleting():
    logs = LazyLogs(lambda: {"loss": 1.0, "acc": 0.5})
    logs["loss"] = 9.0
    del logs["acc"]
    assert dict(logs) == {"loss": 9.0}
    assert repr(logs) == "{'loss': 9.0}"
    assert len(logs) == 1


def test_values_move_with_the_metric_until_they_are_settled():
    state = torch.tensor(1.0)
    moving, settled = LazyLogs(lambda: {"m": state}), LazyLogs(lambda: {"m": state}).snapshot()
    state.add_(1)
    assert (moving["m"], settled["m"]) == (2.0, 1.0)


def test_values_stay_once_read():
    state = torch.tensor(1.0)
    logs = LazyLogs(lambda: {"m": state})
    assert logs["m"] == 1.0
    state.add_(1)
    assert logs["m"] == 1.0


def test_results_that_are_dictionaries_put_their_own_names():
    logs = LazyLogs(lambda: {"f1": {"f1_micro": torch.tensor(0.25), "f1_macro": 0.5}, "loss": 1})
    assert dict(logs) == {"f1_micro": 0.25, "f1_macro": 0.5, "loss": 1.0}


def test_arrays_come_as_numpy():
    found = to_python({"matrix": torch.ones(2, 2)})["matrix"]
    np.testing.assert_array_equal(found, np.ones((2, 2)))


@pytest.mark.parametrize("results", [None, {}, {"loss": 1.0}])
def test_what_a_step_of_the_user_returned(results):
    logs = LazyLogs.wrap(results)
    assert LazyLogs.wrap(logs) is logs
    assert dict(logs) == (results or {})


@pytest.mark.parametrize("is_read", [False, True])
def test_what_a_step_wrote_is_a_result_and_what_callbacks_wrote_is_not(is_read):
    results = Counted(loss=torch.tensor(0.5))
    written = LazyLogs(results)
    if is_read:
        assert len(written) == 1
    written["twice"] = torch.tensor(1.0)
    logs = LazyLogs.wrap(written)
    logs["lr"] = 0.1
    others = LazyLogs.without_written(logs)
    others["val_loss"] = 2.0
    assert results.asked == is_read
    assert logs == {"loss": 0.5, "twice": 1.0, "lr": 0.1}
    assert others == {"loss": 0.5, "twice": 1.0, "val_loss": 2.0}


def test_values_that_were_read_are_not_asked_for_again():
    results = Counted(loss=torch.tensor(0.5))
    logs = LazyLogs(results)
    assert logs["loss"] == 0.5
    assert LazyLogs.without_written(logs) == {"loss": 0.5}
    assert results.asked == 1


def test_gradients_do_not_hold_the_graph():
    loss = torch.tensor(2.0, requires_grad=True) * 3
    assert LazyLogs.wrap({"loss": loss})["loss"] == 6.0
