import numpy as np
import pytest
import torch
from torch import nn

from torchfit import Model
from torchfit.callbacks import Callback

X, Y = np.ones((4, 2)), np.ones((4, 1))


class Diary(Callback):
    """Writes every event down, with the names in its logs."""

    def __init__(self):
        self.entries = []


def _note(event):
    def batch_or_epoch(self, index, logs=None):
        self.entries.append(f"{event} {index}: {', '.join(logs)}")

    def edge(self, logs=None):
        self.entries.append(f"{event}: {', '.join(logs)}")

    return batch_or_epoch if "batch" in event or "epoch" in event else edge


for event in [name for name in vars(Callback) if name.startswith("on_")]:
    if event not in ("on_batch_begin", "on_batch_end"):
        setattr(Diary, event, _note(event.removeprefix("on_")))


@pytest.fixture
def model():
    model = Model(nn.Linear(2, 1), device="cpu")
    model.compile("sgd", "mse", metrics=["mae"])
    return model


def told(run):
    diary = Diary()
    run(callbacks=[diary], batch_size=2, verbose=0)
    return [entry.rstrip(": ") for entry in diary.entries]


def test_fit(model):
    assert told(lambda **options: model.fit(X, Y, epochs=2, validation_data=(X, Y), validation_freq=2, **options)) == [
        "train_begin",
        "epoch_begin 0",
        "train_batch_begin 0",
        "train_batch_end 0: loss, mae",
        "train_batch_begin 1",
        "train_batch_end 1: loss, mae",
        "epoch_end 0: loss, mae",
        "epoch_begin 1",
        "train_batch_begin 0",
        "train_batch_end 0: loss, mae",
        "train_batch_begin 1",
        "train_batch_end 1: loss, mae",
        "test_begin",
        "test_batch_begin 0",
        "test_batch_end 0: loss, mae",
        "test_batch_begin 1",
        "test_batch_end 1: loss, mae",
        "test_end: loss, mae",
        "epoch_end 1: loss, mae, val_loss, val_mae",
        "train_end: loss, mae, val_loss, val_mae",
    ]


def test_evaluate(model):
    assert told(lambda **options: model.evaluate(X, Y, **options)) == [
        "test_begin",
        "test_batch_begin 0",
        "test_batch_end 0: loss, mae",
        "test_batch_begin 1",
        "test_batch_end 1: loss, mae",
        "test_end: loss, mae",
    ]


def test_predict(model):
    assert told(lambda **options: model.predict(X, **options)) == [
        "predict_begin",
        "predict_batch_begin 0",
        "predict_batch_end 0: outputs",
        "predict_batch_begin 1",
        "predict_batch_end 1: outputs",
        "predict_end",
    ]


def test_stopping_in_a_batch_ends_the_epoch(model):
    class Stops(Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = True

    stopped = told(lambda callbacks, **options: model.fit(X, Y, epochs=9, callbacks=[Stops(), *callbacks], **options))
    assert stopped == [
        "train_begin",
        "epoch_begin 0",
        "train_batch_begin 0",
        "train_batch_end 0: loss, mae",
        "epoch_end 0: loss, mae",
        "train_end: loss, mae",
    ]


@pytest.mark.parametrize(("method", "flag"), [("evaluate", "stop_evaluating"), ("predict", "stop_predicting")])
def test_evaluation_and_prediction_stop_as_well(model, method, flag):
    class Stops(Callback):
        def on_test_batch_end(self, batch, logs=None):
            setattr(self.model, flag, True)

        on_predict_batch_end = on_test_batch_end

    entries = told(
        lambda callbacks, **options: (
            getattr(model, method)(X, callbacks=[Stops(), *callbacks], **options)
            if method == "predict"
            else model.evaluate(X, Y, callbacks=[Stops(), *callbacks], **options)
        )
    )
    assert sum("batch_begin" in entry for entry in entries) == 1
    assert len(model.predict(X)) == 4  # the next call starts afresh


def test_no_epochs(model):
    assert told(lambda **options: model.fit(X, Y, epochs=0, **options)) == ["train_begin", "train_end"]
    assert told(lambda **options: model.fit(X, Y, epochs=2, initial_epoch=2, **options)) == ["train_begin", "train_end"]


def test_initial_epoch_counts_on(model):
    assert model.fit(X, Y, epochs=5, initial_epoch=3, verbose=0).epoch == [3, 4]


def test_what_callbacks_write_into_logs_is_recorded(model):
    class Writes(Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["twice"] = 2 * logs["loss"]

    history = model.fit(X, Y, verbose=0, callbacks=[Writes()]).history
    assert history["twice"] == [2 * history["loss"][0]]


def test_logs_of_batches_are_floats_of_their_own(model):
    class Keeps(Callback):
        kept = ()

        def on_train_batch_end(self, batch, logs=None):
            self.kept = (*self.kept, logs)  # type: ignore[assignment]

    keeps = Keeps()
    history = model.fit(torch.rand(4, 2), Y, batch_size=2, verbose=0, callbacks=[keeps]).history
    first, last = (logs["loss"] for logs in keeps.kept)
    assert type(first) is float
    assert first != last
    assert last == history["loss"][0]
