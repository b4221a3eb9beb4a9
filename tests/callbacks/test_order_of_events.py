"""The order in which the hooks of callbacks are called, as in Keras 3."""

import numpy as np
import pytest
import torch

import torchfit
from torchfit.callbacks import Callback
from torchfit.callbacks.base import HOOKS

X, Y = np.ones((10, 2), "float32"), np.ones((10, 1), "float32")


class Recorder(Callback):
    """Writes down every event with its index, and does something at one of them."""

    def __init__(self, at=None, act=None):
        self.heard = []
        self.at, self.act = at, act

    def note(self, event, *arguments):
        index = f" {arguments[0]}" if len(arguments) == 2 else ""
        self.heard.append(event.removeprefix("on_") + index)
        if self.heard[-1] == self.at:
            self.act(self.model)


for event in HOOKS:
    setattr(Recorder, event, lambda self, *arguments, event=event: self.note(event, *arguments))


def model(**options):
    made = torchfit.Model(torch.nn.Linear(2, 1))
    made.compile("sgd", "mse", **options)
    return made


def test_fit_with_validation():
    recorder = Recorder()
    model().fit(X, Y, batch_size=5, epochs=2, verbose=0, validation_data=(X, Y), callbacks=recorder)
    validation = ["test_begin", "test_batch_begin 0", "test_batch_end 0", "test_batch_begin 1", "test_batch_end 1"]
    assert recorder.heard == [
        "train_begin",
        "epoch_begin 0",
        "train_batch_begin 0",
        "train_batch_end 0",
        "train_batch_begin 1",
        "train_batch_end 1",
        *validation,
        "test_end",
        "epoch_end 0",
        "epoch_begin 1",
        "train_batch_begin 0",
        "train_batch_end 0",
        "train_batch_begin 1",
        "train_batch_end 1",
        *validation,
        "test_end",
        "epoch_end 1",
        "train_end",
    ]


def test_evaluate_and_predict():
    recorder, trained = Recorder(), model()
    trained.evaluate(X, Y, batch_size=5, verbose=0, callbacks=recorder)
    trained.predict(X, batch_size=5, callbacks=recorder)
    assert recorder.heard == [
        "test_begin",
        "test_batch_begin 0",
        "test_batch_end 0",
        "test_batch_begin 1",
        "test_batch_end 1",
        "test_end",
        "predict_begin",
        "predict_batch_begin 0",
        "predict_batch_end 0",
        "predict_batch_begin 1",
        "predict_batch_end 1",
        "predict_end",
    ]


def test_several_steps_in_a_call():
    recorder = Recorder()
    model(steps_per_execution=4).fit(X, Y, batch_size=1, verbose=0, callbacks=recorder)
    assert recorder.heard == [
        "train_begin",
        "epoch_begin 0",
        "train_batch_begin 0",
        "train_batch_end 3",
        "train_batch_begin 4",
        "train_batch_end 7",
        "train_batch_begin 8",
        "train_batch_end 9",
        "epoch_end 0",
        "train_end",
    ]


def test_stopped_at_the_end_of_an_epoch():
    recorder = Recorder("epoch_end 0", lambda model: setattr(model, "stop_training", True))
    model().fit(X, Y, batch_size=10, epochs=3, verbose=0, callbacks=recorder)
    assert recorder.heard == [
        "train_begin",
        "epoch_begin 0",
        "train_batch_begin 0",
        "train_batch_end 0",
        "epoch_end 0",
        "train_end",
    ]


def test_stopped_in_the_middle_of_an_epoch():
    recorder = Recorder("train_batch_end 0", lambda model: setattr(model, "stop_training", True))
    validation = {"validation_data": (X, Y), "validation_batch_size": 10}
    model().fit(X, Y, batch_size=2, epochs=3, verbose=0, callbacks=recorder, **validation)
    assert recorder.heard == [
        "train_begin",
        "epoch_begin 0",
        "train_batch_begin 0",
        "train_batch_end 0",
        "test_begin",
        "test_batch_begin 0",
        "test_batch_end 0",
        "test_end",
        "epoch_end 0",
        "train_end",
    ]


def test_broken_off_by_an_exception():
    def interrupt(model):
        raise KeyboardInterrupt

    recorder = Recorder("train_batch_end 1", interrupt)
    with pytest.raises(KeyboardInterrupt):
        model().fit(X, Y, batch_size=5, epochs=3, verbose=0, callbacks=recorder)
    assert recorder.heard == [
        "train_begin",
        "epoch_begin 0",
        "train_batch_begin 0",
        "train_batch_end 0",
        "train_batch_begin 1",
        "train_batch_end 1",
    ]
