"""Loops inside of loops, loops after interrupted ones, and what a model keeps alive."""

import gc
import weakref

import numpy as np
import pytest
import torch
from torch import nn

import torchfit
from torchfit import callbacks, optimizers
from torchfit._data.adapters.arrays import ArrayBatches

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


def calls_of(model, targets):
    far = 100 * X, targets
    inner = callbacks.LambdaCallback(on_test_batch_end=lambda *_: model.evaluate(*far, verbose=0))
    return {
        "evaluate": lambda: model.evaluate(*far, verbose=0),
        "test_on_batch": lambda: model.test_on_batch(*far),
        "test_on_batch, adding up": lambda: model.test_on_batch(*far, reset_metrics=False),
        "predict": lambda: model.predict(100 * X),
        "fit": lambda: model.fit(*far, initial_epoch=1, verbose=0),
        "evaluate in evaluate": lambda: model.evaluate(*far, verbose=0, callbacks=[inner]),
    }


class Several(nn.Module):
    """Two outputs, a loss and a value of its own."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 4), nn.Linear(5, 4)

    def forward(self, x):
        return {"a": self.a(x), "b": self.b(x)}


def one_output():
    return make_model(metrics=["accuracy", torchfit.metrics.TopKCategoricalAccuracy(2, name="top")])


def added_terms():
    model = make_model()
    model.add_loss(lambda output: output.square().mean(), on="")
    model.add_metric(lambda output: output.mean(), name="mean", on="")
    return model


def two_outputs():
    torch.manual_seed(0)
    model = torchfit.Model(Several(), device="cpu")
    loss = nn.CrossEntropyLoss()
    model.compile("sgd", loss={"a": loss, "b": loss}, metrics={"a": ["accuracy"], "b": ["accuracy"]})
    return model


@pytest.mark.parametrize("call", calls_of(None, Y))
@pytest.mark.parametrize("hook", ["on_train_begin", "on_epoch_begin", "on_train_batch_begin", "on_train_batch_end"])
@pytest.mark.parametrize("make", [one_output, added_terms, two_outputs])
def test_calls_inside_of_the_first_epoch_leave_its_metrics_alone(make, hook, call):
    """Metrics may be created by the call, which is then the first to update them."""
    alone, model = make(), make()
    targets = {"a": Y, "b": Y} if make is two_outputs else Y
    if make is one_output:
        targets = np.eye(4, dtype="float32")[Y]
    options = {"batch_size": 8, "epochs": 2, "shuffle": False, "verbose": 0, "validation_data": (X, targets)}
    expected = alone.fit(X, targets, **options).history
    nested = callbacks.LambdaCallback(**{hook: lambda *_: calls_of(model, targets)[call]()})
    assert model.fit(X, targets, callbacks=[nested], **options).history == expected


def test_a_fit_inside_of_a_fit_trains_as_two_loops_would():
    model, twin = make_model(), make_model()
    inner = callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: model.fit(X[:8], Y[:8], batch_size=8, shuffle=False, verbose=0)
    )
    model.fit(X, Y, batch_size=8, epochs=2, shuffle=False, verbose=0, callbacks=[inner])
    for _ in range(2):
        twin.train_on_batch(X[:8], Y[:8])
        for x, y in zip(np.split(X, [8, 16]), np.split(Y, [8, 16])):
            twin.train_on_batch(x, y)
    torch.testing.assert_close(model.state_dict(), twin.state_dict(), rtol=0, atol=1e-6)


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


def fit_with_callbacks(model, folder):
    some = [
        callbacks.BackupAndRestore(folder / "backup", save_freq=2),
        callbacks.ModelCheckpoint(folder / "model", save_freq=2),
        callbacks.CSVLogger(folder / "log.csv"),
        callbacks.EarlyStopping(restore_best_weights=True),
    ]
    model.fit(X, Y, epochs=2, batch_size=4, validation_split=0.2, callbacks=some, verbose=0)


def fit_what_does_not_fit(model, folder):
    with pytest.raises(ValueError, match="`x` does not fit the model"):
        model.fit(X[:, :2], Y, verbose=0)


def add_terms(model, folder):
    model.add_loss(lambda output: output.square().mean(), on="")
    model.fit(X, Y, verbose=0)
    model(torch.from_numpy(X), training=False)


USES = {
    "fit": lambda model, folder: model.fit(X, Y, verbose=0),
    "fit with validation": lambda model, folder: model.fit(X, Y, validation_data=(X, Y), verbose=0),
    "fit with callbacks": fit_with_callbacks,
    "fit that is refused": fit_what_does_not_fit,
    "fit with added terms": add_terms,
    "evaluate": lambda model, folder: model.evaluate(X, Y, verbose=0),
    "predict": lambda model, folder: model.predict(X),
    "predict_iter": lambda model, folder: next(model.predict_iter(X)),
    "train_on_batch": lambda model, folder: model.train_on_batch(X, Y),
    "test_on_batch": lambda model, folder: model.test_on_batch(X, Y),
    "predict_on_batch": lambda model, folder: model.predict_on_batch(X),
    "save": lambda model, folder: model.save(folder / "model"),
    "summary": lambda model, folder: model.summary(print_fn=str, input_shape=(5,)),
}


@pytest.mark.parametrize("use", USES)
def test_a_model_is_freed_with_its_last_name(use, tmp_path):
    USES[use](make_model(), tmp_path / "first")  # What is imported at the first use may keep the frames that did.
    model = make_model()
    reference = weakref.ref(model)
    gc.collect()
    gc.disable()
    try:
        USES[use](model, tmp_path / "second")
        del model
        assert reference() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("defers", [True, False])
def test_copies_of_the_data_are_freed(defers):
    """They may be as large as the data, on the device."""
    batches = ArrayBatches((torch.from_numpy(X), torch.from_numpy(Y), None), 4, order=lambda *_: torch.arange(len(X)))
    if defers:
        batches.defer_indexing()
    assert len(list(batches.epoch(0))) == 6
    reference = weakref.ref(batches)
    gc.disable()
    try:
        del batches
        assert reference() is None
    finally:
        gc.enable()
