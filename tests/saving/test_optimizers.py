"""A loaded model trains on with its optimizer as the saved one does, or a warning says what starts afresh."""

import functools

import numpy as np
import pytest
import torch
from torch import nn

import torchfit
from torchfit import optimizers
from torchfit.models import load_model

X = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
Y = (X @ np.arange(6.0, dtype="float32"))[:, None]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Linear(6, 1))


def fit(model):
    return model.fit(X, Y, shuffle=False, verbose=0).history


def groups(net):
    weights = [parameter for parameter in net.parameters() if parameter.ndim > 1]
    biases = [parameter for parameter in net.parameters() if parameter.ndim == 1]
    return [{"params": weights, "weight_decay": 0.1}, {"params": biases, "lr": 0.001}]


def without_decay(**excluded):
    optimizer = optimizers.SGD(0.01, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(**excluded)
    return optimizer


OPTIMIZERS = {
    "another order": lambda net: torch.optim.Adam([*net[3].parameters(), *net[:3].parameters()], 0.01),
    "groups": lambda net: torch.optim.AdamW(groups(net), lr=0.01),
    "a part of the parameters": lambda net: torch.optim.Adam(net[3].parameters(), 0.01),
    "a function": lambda net: lambda parameters: torch.optim.Adam(parameters, lr=0.02),
    "a partial": lambda net: functools.partial(torch.optim.SGD, lr=0.01, momentum=0.9),
    "names without decay": lambda net: without_decay(var_names=["bias"]),
}


@pytest.mark.parametrize("epochs", [0, 2])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_the_optimizer_comes_back(tmp_path, make, epochs):
    net = network()
    model = torchfit.Model(net, device="cpu")
    model.compile(make(net), "mse")
    for _ in range(epochs):
        fit(model)
    model.save(tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert fit(loaded) == fit(model)
    for one, other in zip(model.weights, loaded.weights, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    "make", ["adam", torch.optim.Adam, optimizers.Adam(use_ema=True)], ids=["name", "class", "ema"]
)
def test_a_model_that_was_frozen_after_its_training_is_loaded(tmp_path, make):
    model = torchfit.Model(network(), device="cpu")
    model.compile(make, "mse")
    fit(model)
    torchfit.utils.freeze(model, "0")
    model.save(tmp_path / "model")
    for options in ({}, {"module": network()}):
        loaded = load_model(tmp_path / "model", **options)
        np.testing.assert_array_equal(loaded.predict(X), model.predict(X))
        assert loaded.optimizer.iterations == model.optimizer.iterations


def test_what_has_no_state_in_the_file_starts_afresh_with_a_warning(tmp_path):
    net = network()
    net[0].requires_grad_(False)
    model = torchfit.Model(net, device="cpu")
    model.compile("adam", "mse")
    fit(model)
    net[0].requires_grad_(True)
    model.save(tmp_path / "model")
    with pytest.warns(UserWarning, match=r"there is none for \['0.weight', '0.bias'\], which start afresh"):
        loaded = load_model(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))


class Odd(torch.optim.SGD):
    """An optimizer with an argument that is no plain data."""

    def __init__(self, parameters, lr=0.01, callback=None):
        super().__init__(parameters, lr)
        self.defaults["callback"] = callback


def test_an_optimizer_that_cannot_be_saved_is_told_of(tmp_path):
    model = torchfit.Model(network(), device="cpu")
    model.compile(functools.partial(Odd, callback=lambda: None), "mse")
    with pytest.warns(UserWarning, match=r"`optimizer`.*\nWhen loading it, pass compile=False"):
        model.save(tmp_path / "model")
    assert not load_model(tmp_path / "model", compile=False).compiled
