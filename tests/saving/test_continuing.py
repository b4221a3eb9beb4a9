"""A model that is saved, resumed or copied continues like the original, with every optimizer and configuration."""

import copy
import functools
import itertools
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import torchfit
from tests.support import Interrupt, InterruptedHereError
from torchfit import callbacks, optimizers
from torchfit.models import load_model

X = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
Y = X.sum(1, keepdims=True)
HALF, WHOLE = 2, 4


class Scaled(nn.Module):
    """A loss that learns the scale of its errors."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, y_pred, y_true):
        return (y_pred - y_true).square().mean() * self.scale + self.scale.square()


RATE = {"learning_rate": 0.01}
OWN: dict[str, Any] = {  # what each rule takes, and what concerns all parameters together
    "SGD": (optimizers.SGD, {**RATE, "momentum": 0.9, "nesterov": True}, {}),
    "Adam": (optimizers.Adam, {**RATE, "amsgrad": True}, {"use_ema": True}),
    "AdamW": (optimizers.AdamW, {**RATE, "weight_decay": 0.1}, {"gradient_accumulation_steps": 3}),
    "Adafactor": (optimizers.Adafactor, RATE, {}),
    "Muon": (optimizers.Muon, RATE, {}),
    "ScheduleFreeAdamW": (optimizers.ScheduleFreeAdamW, RATE, {}),
    "LossScaleOptimizer": (optimizers.Nadam, RATE, {}),
    "Lamb": (optimizers.Lamb, {"learning_rate": optimizers.schedules.ExponentialDecay(0.01, 3, 0.9)}, {}),
}
TORCH = {
    "torch SGD": functools.partial(torch.optim.SGD, lr=0.01, momentum=0.9),
    "torch AdamW": functools.partial(torch.optim.AdamW, lr=0.01, amsgrad=True),
    "torch RMSprop": functools.partial(torch.optim.RMSprop, lr=0.01, centered=True, momentum=0.5),
    "torch LBFGS": functools.partial(torch.optim.LBFGS, lr=0.1, max_iter=2),
}


def own(name, with_groups=False):
    kind, arguments, common = OWN[name]
    if with_groups:
        biases = {".*bias": optimizers.SGD(0.05, momentum=0.5)}
        made = optimizers.MultiOptimizer(biases, default=kind(**arguments), **common)
    else:
        made = kind(**arguments, **common)
    return optimizers.LossScaleOptimizer(made, initial_scale=8.0) if name == "LossScaleOptimizer" else made


def plain(name, net, loss):
    return own(name) if name in OWN else TORCH[name]


def groups(name, net, loss):
    """The biases have a rate of their own."""
    if name in OWN:
        return own(name, with_groups=True)
    biases = [parameter for parameter in net.parameters() if parameter.ndim == 1]
    weights = [parameter for parameter in net.parameters() if parameter.ndim > 1]
    return TORCH[name]([{"params": weights}, {"params": biases, "lr": 0.05, "weight_decay": 0.0}])


def part(name, net, loss):
    """The first layer is not frozen, but the optimizer does not hold it."""
    if name in TORCH:
        return TORCH[name](net[2].parameters())
    optimizer = own(name)
    optimizer.build(net[2].named_parameters())
    return optimizer


def unfrozen(name, net, loss):
    """The first layer is frozen in the first epoch."""
    return own(name) if name in OWN else TORCH[name](net.parameters())


def loss_parameters(name, net, loss):
    return own(name) if name in OWN else TORCH[name]([*net.parameters(), *loss.parameters()])


class Unfreeze(callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            self.model.module[0].requires_grad_(True)


def compiled(name, setup):
    torch.manual_seed(0)
    net, loss = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1)), Scaled()
    net[0].requires_grad_(setup is not unfrozen)
    model = torchfit.Model(net, device="cpu")
    model.compile(setup(name, net, loss), loss if setup is loss_parameters else "mse")
    return model


def fit(model, begin, end, *more):
    used = [Unfreeze(), *more]
    model.fit(X, Y, batch_size=4, epochs=end, initial_epoch=begin, shuffle=False, verbose=0, callbacks=used)


def assert_same(model, other):
    for one, two in zip(states(model), states(other)):
        torch.testing.assert_close(one, two, rtol=0, atol=0)


def states(model):
    return [model.module.state_dict(), model.loss_modules.state_dict(), {"n": torch.tensor(model.optimizer.iterations)}]


def saved_and_loaded(name, setup, folder):
    model = compiled(name, setup)
    fit(model, 0, HALF)
    model.save(folder / "model")
    loaded = load_model(folder / "model", custom_objects={"Scaled": Scaled})
    fit(loaded, HALF, WHOLE)
    return loaded


def backed_up_and_resumed(name, setup, folder):
    backup = callbacks.BackupAndRestore(folder)
    with pytest.raises(InterruptedHereError):
        fit(compiled(name, setup), 0, WHOLE, backup, Interrupt(HALF))
    model = compiled(name, setup)
    fit(model, 0, WHOLE, backup)
    return model


def copied(name, setup, folder, copies=copy.deepcopy):
    model = compiled(name, setup)
    fit(model, 0, HALF)
    twin = copies(model)
    before = copy.deepcopy(states(model))
    fit(twin, HALF, WHOLE)
    for one, other in zip(states(model), before):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    return twin


def pickled(name, setup, folder):
    return copied(name, setup, folder, copies=lambda model: pickle.loads(pickle.dumps(model)))


@functools.cache
def left_in_peace(name, setup, in_one_go):
    model = compiled(name, setup)
    for begin, end in [(0, WHOLE)] if in_one_go else [(0, HALF), (HALF, WHOLE)]:
        fit(model, begin, end)
    return model


SETUPS = (plain, groups, part, unfrozen, loss_parameters)
WAYS = (saved_and_loaded, backed_up_and_resumed, copied, pickled)
CELLS = [
    pytest.param(name, setup, way, id=f"{name}-{setup.__name__}-{way.__name__}")
    for name, setup, way in itertools.product([*OWN, *TORCH], SETUPS, WAYS)
    if (name, setup) != ("torch LBFGS", groups)  # which it refuses
]


@pytest.mark.filterwarnings("ignore:`gradient_accumulation_steps`. the loss of .* is one number")
@pytest.mark.parametrize(("name", "setup", "way"), CELLS)
def test_it_goes_on_as_if_nothing_had_happened(name, setup, way, tmp_path):
    assert_same(way(name, setup, tmp_path), left_in_peace(name, setup, in_one_go=way is backed_up_and_resumed))
