"""The logs that callbacks get are dictionaries, as in Keras, whose values are only read when somebody looks at them."""

import collections
import copy
import json
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import torchfit
from torchfit import callbacks

keras = pytest.importorskip("keras")

X = np.random.default_rng(0).normal(size=(24, 5)).astype("float32")
Y = X[:, :2] * 2


def ours():
    model = torchfit.Model(nn.Linear(5, 2), device="cpu")
    model.compile("sgd", "mse", metrics=["mae"])
    return model, callbacks.LambdaCallback


def theirs():
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse", metrics=["mae"])
    return model, keras.callbacks.LambdaCallback


def fit(make, epochs=1, validation=False, **hooks):
    model, callback = make()
    data = (X, Y) if validation else None
    options = {"batch_size": 8, "epochs": epochs, "validation_data": data, "verbose": 0}
    return model.fit(X, Y, callbacks=[callback(**hooks)], **options).history


LINES = {
    "copy": lambda logs: logs.copy(),
    "copy.copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "union": lambda logs: logs | {"a": 1.0},
    "union of another": lambda logs: {"a": 1.0} | logs,
    "update": lambda logs: logs.update({"a": 1.0}, b=2.0) or logs,
    "update by pairs": lambda logs: logs.update([("a", 1.0)]) or logs,
    "in-place union": lambda logs: logs.__ior__({"a": 1.0}),
    "unpacking": lambda logs: {**logs},
    "arguments": lambda logs: dict(**logs),
    "dict": dict,
    "OrderedDict": collections.OrderedDict,
    "other.update": lambda logs: (found := {}).update(logs) or found,
    "json": json.dumps,
    "indented json": lambda logs: json.dumps(logs, indent=1),
    "sorted json": lambda logs: json.dumps(logs, sort_keys=True),
    "pickle": lambda logs: pickle.loads(pickle.dumps(logs)),
    "isinstance": lambda logs: isinstance(logs, dict),
    "%": lambda logs: "%(loss)s" % logs,  # noqa: UP031
    "format_map": lambda logs: "{loss} {mae}".format_map(logs),
    "repr": repr,
    "keys": lambda logs: list(logs.keys()),
    "reversed": lambda logs: list(reversed(logs)),
    "items": lambda logs: list(logs.items()),
    "len": len,
    "get": lambda logs: logs.get("loss") is not None and logs.get("other", 3.0),
    "in": lambda logs: ("loss" in logs, "other" in logs),
    "equal": lambda logs: (logs == {}, logs == dict(logs), dict(logs) == logs, logs != {}),
    "pop": lambda logs: (logs.pop("mae") > 0, logs.pop("other", 1.0), list(logs)),
    "popitem": lambda logs: logs.popitem()[0],
    "setdefault": lambda logs: (logs.setdefault("a", 1.0), list(logs)),
    "del": lambda logs: logs.__delitem__("mae") or list(logs),
    "clear": lambda logs: logs.clear() or logs,
}


def shape_of(value):
    """What a line gave, without its numbers, which depend on initial weights."""
    if isinstance(value, str):
        return "".join(letter for letter in value if letter not in "0123456789.e-+")
    if isinstance(value, dict):
        return list(value)
    return [shape_of(item) for item in value] if isinstance(value, (list, tuple)) else type(value)


@pytest.mark.parametrize(
    "hook", ["on_train_batch_end", "on_epoch_end", "on_test_batch_end", "on_test_end", "on_train_end"]
)
@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_lines_of_callbacks_work_as_in_keras(line, hook):
    found = []
    for make in (theirs, ours):
        results = []

        def run(index=None, logs=None, results=results):
            results.append(shape_of(line(index if logs is None else logs)))

        fit(make, validation=True, **{hook: run})
        found.append(results)
    assert found[1] == found[0]


def test_copies_are_plain_dictionaries_of_numbers():
    found = []
    fit(ours, on_epoch_end=lambda epoch, logs: found.extend([logs.copy(), logs | {}, pickle.loads(pickle.dumps(logs))]))
    assert [type(each) for each in found] == [dict] * 3
    assert found[0] == found[1] == found[2]
    assert {type(value) for value in found[0].values()} == {float}


@pytest.mark.parametrize("kept", ["on_train_batch_end", "on_test_batch_end"])
def test_the_logs_of_a_batch_stay_as_they_are(kept):
    found = []
    for make in (theirs, ours):
        logs_of_batches = []
        history = fit(
            make,
            validation=True,
            **{kept: lambda batch, logs, kept=logs_of_batches: kept.append(logs)},
            on_epoch_end=lambda epoch, logs: logs.update(added=1.0),
            on_test_end=lambda logs: logs.update(tested=1.0),
        )
        found.append(([sorted(logs) for logs in logs_of_batches], "added" in history))
    assert found[1][0] == found[0][0] == [["loss", "mae"]] * 3
    assert found[1][1]


def test_what_a_callback_writes_into_the_logs_of_a_batch_is_not_that_of_the_epoch():
    for make in (theirs, ours):
        assert "added" not in fit(make, on_train_batch_end=lambda batch, logs: logs.update(added=1.0))


class Writes(torchfit.Model):
    """Writes into the logs of the step that it overrides."""

    def train_step(self, batch):
        logs = super().train_step(batch)
        if self.reads:
            assert logs["loss"] > 0
        logs["twice"] = 2 * logs["loss"] if self.reads else torch.tensor(2.0)
        return logs


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("reads", [False, True])
def test_what_a_step_writes_into_its_logs_is_that_of_the_epoch(reads, watched):
    model, seen = Writes(nn.Linear(5, 2), device="cpu"), []
    model.reads = reads
    model.compile("sgd", "mse")
    hooks = {"on_train_batch_end": lambda batch, logs: seen.append(json.dumps(logs))} if watched else {}
    history = model.fit(X, Y, epochs=2, verbose=0, callbacks=[callbacks.LambdaCallback(**hooks)]).history
    assert history["twice"] == (pytest.approx([2 * loss for loss in history["loss"]]) if reads else [2.0, 2.0])
    assert ["twice" in logs for logs in seen] == [True] * len(seen)


def test_nothing_is_read_before_somebody_looks():
    read = []

    class Counts(torchfit.metrics.Mean):
        def result(self):
            read.append(1)
            return super().result()

        def update_state(self, y_true, y_pred, sample_weight=None):
            super().update_state((y_true - y_pred).abs())

    model = torchfit.Model(nn.Linear(5, 2), device="cpu")
    model.compile("sgd", "mse", metrics=[Counts(name="counts")])

    class Glances(callbacks.Callback):
        reads_logs_synchronously = True

        def on_train_batch_end(self, batch, logs=None):
            logs = logs or {}
            logs["a"] = 1.0
            logs.update(b=2.0)
            assert isinstance(logs, dict)
            assert read == []

    model.fit(X, Y, batch_size=8, verbose=0, callbacks=[Glances()])
    assert read == [1]
