"""What goes wrong in the middle leaves a model that can be trained on."""

import copy
import gc
import pickle
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from torchfit import Model, callbacks, metrics, utils

X, Y = np.random.default_rng(0).random((12, 3)), np.arange(12.0).reshape(-1, 1)


class Fragile(nn.Module):
    """Fails when it is told to."""

    def __init__(self):
        super().__init__()
        self.linear, self.error = nn.Linear(3, 1), None

    def forward(self, x):
        if self.error is not None:
            raise self.error
        return self.linear(x)


def compiled(module=None, **options):
    model = Model(module or nn.Linear(3, 1), device="cpu")
    model.compile("adam", "mse", metrics=["mae"], **options)
    return model


class Raises(callbacks.Callback):
    def __init__(self, event, error):
        self.count = 0
        setattr(self, event, self.hook)
        self.error = error

    def hook(self, index, logs=None):
        self.count += 1
        if self.count == 3:
            raise self.error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("mine")], ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("event", ["on_train_batch_begin", "on_train_batch_end", "on_epoch_begin", "on_test_batch_end"])
def test_a_callback_that_fails(event, error):
    model = compiled()
    model.module.eval()
    with pytest.raises(type(error)) as caught:
        model.fit(X, Y, validation_data=(X, Y), epochs=4, batch_size=6, verbose=0, callbacks=[Raises(event, error)])
    assert caught.value is error
    assert not model.module.training
    finished = {"on_epoch_begin": [0, 1]}.get(event, [0])
    assert model.history.epoch == finished
    assert [len(values) for values in model.history.history.values()] == [len(finished)] * 4
    assert model.fit(X, Y, epochs=2, verbose=0).epoch == [0, 1]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("size of mine"), KeyError("x")], ids=repr)
@pytest.mark.parametrize("method", ["fit", "evaluate", "predict", "train_on_batch", "test_on_batch"])
def test_a_module_that_fails(method, error):
    """What the user's own code raises comes out as it is, whatever it says."""
    module = Fragile()
    model = compiled(module)
    arguments = (X,) if method == "predict" else (X, Y)
    getattr(model, method)(*arguments)
    module.linear.eval()
    module.error = error
    with pytest.raises(type(error)) as caught:
        getattr(model, method)(*arguments)
    assert caught.value is error
    assert (module.training, module.linear.training) == (True, False)
    module.error = None
    getattr(model, method)(*arguments)


class RichError(Exception):
    def __init__(self, code, *, place):
        super().__init__(f"rich {code} at {place}")
        self.code, self.place = code, place


class Items(Dataset):
    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 12

    def __getitem__(self, index):
        if index == 5:
            raise self.error
        return X[index], Y[index]


class Batches(utils.Sequence):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def __len__(self):
        return 3

    def __getitem__(self, index):
        raise self.error


class Transformed(Items):
    """Applies a layer of torch to samples, whose errors are no matter of the model."""

    def __getitem__(self, index):
        try:
            nn.Linear(7, 7)(torch.ones(3))
        except RuntimeError as error:
            self.error = error
            raise


def generator(error):
    yield X, Y
    raise error


ERRORS = [
    RichError(7, place="disk"),
    FileNotFoundError(2, "No such", "/data/a.png"),
    KeyError("colour"),
    OSError(28, "full"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("method", ["fit", "evaluate", "predict"])
@pytest.mark.parametrize("make", [Items, Batches, generator, Transformed], ids=lambda make: make.__name__)
def test_what_the_data_raise_is_the_very_object(make, method, error):
    """Class, attributes and arguments are the user's; the place in the data is a note."""
    data = make(error)
    with pytest.raises(Exception) as caught:  # noqa: PT011
        getattr(compiled(), method)(data, verbose=0)
    assert caught.value is getattr(data, "error", error)
    assert caught.value.__cause__ is None
    assert "Raised while reading" in caught.value.__notes__[-1]
    assert (ERRORS[0].code, ERRORS[1].errno, ERRORS[1].filename, ERRORS[2].args) == (7, 2, "/data/a.png", ("colour",))  # type: ignore[attr-defined]


def test_files_and_bars_are_released(tmp_path, capsys):
    model = compiled()
    log = callbacks.CSVLogger(tmp_path / "log.csv")
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y, epochs=3, verbose=1, callbacks=[log, Raises("on_epoch_begin", KeyboardInterrupt())])
    assert (tmp_path / "log.csv").read_text().count("\n") == 3  # the names, and two epochs
    assert "\r" not in capsys.readouterr().out


def test_modes_are_restored_one_by_one():
    """Submodules that a user froze stay frozen after fit, and after validation inside of it."""
    seen = []

    class Sees(callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            seen.append(self.model.module[1].training)

    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(), nn.Linear(3, 1))
    net.train()
    net[2].eval()
    model = compiled(net)
    model.fit(X, Y, validation_data=(X, Y), epochs=2, verbose=0, callbacks=[Sees()])
    assert seen == [True, True]
    assert [layer.training for layer in net] == [True, True, False, True]


def test_evaluation_and_prediction_inside_of_fit_disturb_nothing():
    class Looks(callbacks.Callback):
        found = ()

        def on_train_batch_end(self, batch, logs=None):
            if batch == 0:
                self.found = (*self.found, self.model.evaluate(X[:3], Y[:3] + 100, verbose=0)[0])  # type: ignore[assignment]
                self.model.predict(X[:2])
                assert self.model.module.training

    looks, plain, watched = Looks(), compiled(), compiled()
    watched.set_weights(plain.get_weights())
    arguments: dict[str, Any] = {
        "epochs": 2,
        "batch_size": 4,
        "shuffle": False,
        "verbose": 0,
        "validation_data": (X, Y),
    }
    expected = plain.fit(X, Y, **arguments).history
    assert watched.fit(X, Y, callbacks=[looks], **arguments).history == expected
    assert len(looks.found) == 2
    assert min(looks.found) > 1000


def test_evaluation_inside_of_fit_leaves_the_stop_flags():
    class Stops(callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True
            self.model.evaluate(X, Y, verbose=0)

    assert compiled().fit(X, Y, epochs=5, verbose=0, callbacks=[Stops()]).epoch == [0]


def test_many_fits_leave_nothing_behind():
    model = compiled()

    def run(times):
        for _ in range(times):
            model.fit(X, Y, validation_data=(X, Y), batch_size=12, verbose=0)
            model.predict(X)
        gc.collect()
        return len(gc.get_objects())

    run(3)
    assert run(100) - run(100) in range(-20, 21)


def test_a_module_outlives_nothing_it_does_not_need():
    """The model goes with its last name: nothing but the collector's own cycles keeps it."""
    module = nn.Linear(3, 1)
    freed = weakref.ref(module)
    model = compiled(module)
    model.fit(X, Y, verbose=0)
    del module, model
    gc.collect()
    assert freed() is None


@pytest.mark.parametrize(
    "again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"]
)
@pytest.mark.parametrize("state", ["new", "compiled", "trained"])
def test_copies_and_pickles(again, state):
    model = Model(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1)), device="cpu")
    if state != "new":
        model.compile("adam", "mse", metrics=["mae", metrics.MeanSquaredError()])
    if state == "trained":
        model.fit(X, Y, verbose=0)
    twin = again(model)
    np.testing.assert_array_equal(twin.predict(X), model.predict(X))
    if state != "new":
        arguments: dict[str, Any] = {"epochs": 2, "shuffle": False, "verbose": 0}
        assert twin.fit(X, Y, **arguments).history == model.fit(X, Y, **arguments).history
        np.testing.assert_array_equal(twin.get_weights()[0], model.get_weights()[0])
        twin.set_weights([0 * weight for weight in twin.get_weights()])
        assert model.get_weights()[0].any()


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu"), "auto", None])
def test_devices(device):
    model = Model(nn.Linear(3, 1), device=device)
    is_there = torch.accelerator.is_available()  # A build of torch for CUDA names it without a device, too.
    expected = torch.accelerator.current_accelerator() if is_there else torch.device("cpu")
    assert model.module.weight.device.type == ("cpu" if device in ("cpu", torch.device("cpu")) else expected.type)


def test_a_module_without_parameters():
    model = Model(nn.Flatten(), device="cpu")
    model.compile("sgd", "mse")
    assert model.evaluate(X, X, verbose=0) == 0.0
    assert model.predict(X).shape == (12, 3)


def test_compiling_again_starts_the_optimizer_anew():
    model = compiled()
    model.fit(X, Y, epochs=3, batch_size=4, verbose=0)
    assert model.optimizer.iterations == 9
    model.compile("sgd", "mae")
    assert (model.optimizer.iterations, list(model.fit(X, Y, verbose=0).history)) == (0, ["loss"])


def test_layers_frozen_between_fits():
    model = compiled(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1)))
    model.fit(X, Y, verbose=0)
    frozen = model.module[0].requires_grad_(False)
    before = frozen.weight.clone()
    model.compile("sgd", "mse")
    model.fit(X, Y, verbose=0)
    assert torch.equal(frozen.weight, before)


def test_results_gather_over_calls_on_request():
    model = compiled()
    apart = [model.test_on_batch(X[rows], Y[rows])[0] for rows in (slice(8), slice(8, 12))]
    model.reset_metrics()
    model.test_on_batch(X[:8], Y[:8], reset_metrics=False)
    together = model.test_on_batch(X[8:], Y[8:], reset_metrics=False)[0]
    assert together == pytest.approx((8 * apart[0] + 4 * apart[1]) / 12, rel=1e-5)
