"""Loops inside of loops, loops after interrupted ones, and what a model keeps alive."""

import gc
import weakref

import numpy as np
import pytest
import torch
from torch import nn

import torchfit
from torchfit import callbacks, optimizers

X = np.random.default_rng(0).normal(size=(23, 5)).astype("float32")
Y = np.arange(23) % 4


def make_model(**options):
    torch.manual_seed(0)
    model = torchfit.Model(nn.Linear(5, 4))
    model.compile(**{"optimizer": "sgd", "loss": nn.CrossEntropyLoss(), "metrics": ["accuracy"], **options})
    return model


class Evaluates(callbacks.Callback):
    def on_test_batch_end(self, batch, logs=None):
        self.model.evaluate(X[:4], Y[:4], verbose=0)


def test_an_evaluation_inside_an_evaluation_leaves_its_metrics_alone():
    model = make_model()
    alone = model.evaluate(X, Y, batch_size=8, verbose=0)
    assert model.evaluate(X, Y, batch_size=8, callbacks=[Evaluates()], verbose=0) == alone


class Interrupts(callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        raise KeyboardInterrupt


def test_an_interrupted_fit_leaves_no_accumulated_gradients_to_the_next():
    weights = []
    for interrupted in (False, True):
        model = make_model(optimizer=optimizers.SGD(0.5, gradient_accumulation_steps=3))
        if interrupted:
            with pytest.raises(KeyboardInterrupt):
                model.fit(X, Y, batch_size=4, shuffle=False, callbacks=[Interrupts()], verbose=0)
        model.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
        weights.append(model.module.weight.detach().clone())
    torch.testing.assert_close(*weights, rtol=0, atol=0)


class Doubles(torchfit.Model):
    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return {**super().compute_metrics(x, y, y_pred, sample_weight), "two": 2.0}


def test_microbatches_call_an_overridden_compute_metrics():
    model = Doubles(nn.Linear(5, 4))
    model.compile("sgd", nn.CrossEntropyLoss(), metrics=["accuracy"], microbatch=3)
    assert model.fit(X, Y, verbose=0).history["two"] == [2.0]


class OwnStep(torchfit.Model):
    def train_step(self, data):
        return super().train_step(data)


def test_microbatches_of_an_overridden_step_are_refused():
    model = OwnStep(nn.Linear(5, 4))
    model.compile("sgd", nn.CrossEntropyLoss(), microbatch=3)
    with pytest.raises(ValueError, match=r"`microbatch` splits the batches of the built-in `train_step`"):
        model.fit(X, Y, verbose=0)


@pytest.mark.parametrize("method", ["fit", "evaluate", "predict", "train_on_batch", "predict_on_batch"])
def test_a_model_is_freed_with_its_last_name(method):
    model = make_model()
    data = (X,) if method.startswith("predict") else (X, Y)
    getattr(model, method)(*data, **({} if method.endswith("on_batch") else {"verbose": 0}))
    reference = weakref.ref(model)
    gc.disable()
    try:
        del model
        assert reference() is None
    finally:
        gc.enable()
