"""Fine-tuning in two phases, first the head and then everything, is what two loops do."""

import copy
import functools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import torchfit
from torchfit import callbacks, optimizers

X = torch.tensor(np.random.default_rng(0).normal(size=(32, 5)).astype("float32"))
Y = X.sum(1, keepdim=True)
EPSILON = 1e-12  # Keras and torch add it in different places

BY_HAND: dict[str, Any] = {
    "SGD": functools.partial(torch.optim.SGD, momentum=0.9),
    "Adam": functools.partial(torch.optim.Adam, eps=EPSILON),
    "AdamW": functools.partial(torch.optim.AdamW, eps=EPSILON, weight_decay=0.1),
}
OWN: dict[str, Any] = {
    "SGD": functools.partial(optimizers.SGD, momentum=0.9),
    "Adam": functools.partial(optimizers.Adam, epsilon=EPSILON),
    "AdamW": functools.partial(optimizers.AdamW, epsilon=EPSILON, weight_decay=0.1),
}
FAMILIES = {
    "torchfit": lambda name, net, rate: OWN[name](rate),
    "class of torch": lambda name, net, rate: functools.partial(BY_HAND[name], lr=rate),
    "instance of torch": lambda name, net, rate: BY_HAND[name](net.parameters(), lr=rate),
}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))


def train(model, epochs=2, **options):
    model.fit(X, Y, batch_size=8, epochs=epochs, shuffle=False, verbose=0, **options)


def loop(net, optimizer, epochs=2):
    for x, y in zip(X.split(8) * epochs, Y.split(8) * epochs):
        net.zero_grad()
        F.mse_loss(net(x), y).backward()
        optimizer.step()


def assert_same(net, twin):
    for (name, one), other in zip(net.named_parameters(), twin.parameters()):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0, msg=name)


each_optimizer = pytest.mark.parametrize("name", BY_HAND)
each_family = pytest.mark.parametrize("family", FAMILIES)
each_execution = pytest.mark.parametrize(
    "jit_compile", [pytest.param(False, id="eager"), pytest.param(True, id="compiled", marks=pytest.mark.slow)]
)


@each_execution
@each_family
@each_optimizer
def test_with_the_same_optimizer(name, family, jit_compile):
    net, twin = network(), network()
    model = torchfit.Model(net, device="cpu")
    model.compile(FAMILIES[family](name, net, 0.01), "mse", jit_compile=jit_compile)
    optimizer = BY_HAND[name](twin.parameters(), lr=0.01)
    for trains in (False, True):
        net[0].requires_grad_(trains)
        twin[0].requires_grad_(trains)
        train(model)
        loop(twin, optimizer)
        assert_same(net, twin)


@each_family
@each_optimizer
def test_with_a_new_optimizer_and_a_smaller_rate(name, family):
    net, twin = network(), network()
    model = torchfit.Model(net, device="cpu")
    for trains, rate in ((False, 0.01), (True, 0.001)):
        net[0].requires_grad_(trains)
        twin[0].requires_grad_(trains)
        model.compile(FAMILIES[family](name, net, rate), "mse")
        train(model)
        loop(twin, BY_HAND[name](twin.parameters(), lr=rate))
        assert_same(net, twin)


@each_family
@each_optimizer
def test_by_a_callback_within_one_call(name, family):
    net, twin = network(), network()
    model = torchfit.Model(net, device="cpu")
    model.compile(FAMILIES[family](name, net, 0.01), "mse")
    train(model, epochs=4, callbacks=[callbacks.FineTuning({2: "0"})])
    optimizer = BY_HAND[name](twin.parameters(), lr=0.01)
    for trains in (False, True):
        twin[0].requires_grad_(trains)
        loop(twin, optimizer)
    assert_same(net, twin)


@each_optimizer
def test_with_an_optimizer_for_the_head_alone_first(name):
    """The gradients of what is not held do not gather."""
    net, twin = network(), network()
    model = torchfit.Model(net, device="cpu")
    for part, its_twin in ((net[2], twin[2]), (net, twin)):
        model.compile(BY_HAND[name](part.parameters(), lr=0.01), "mse")
        train(model)
        loop(twin, BY_HAND[name](its_twin.parameters(), lr=0.01))
        assert_same(net, twin)


def test_a_layer_that_is_frozen_for_a_phase_keeps_its_momentum():
    net, twin = network(), network()
    model = torchfit.Model(net, device="cpu")
    model.compile(OWN["SGD"](0.01), "mse")
    optimizer = BY_HAND["SGD"](twin.parameters(), lr=0.01)
    for trains in (True, False, True):
        net[0].requires_grad_(trains)
        twin[0].requires_grad_(trains)
        train(model)
        loop(twin, optimizer)
    assert_same(net, twin)


@pytest.mark.parametrize("builds", [True, False])
def test_a_layer_that_is_replaced_within_an_epoch_is_trained_as_the_warning_says(builds):
    net, twin, trained = network(), network(), []
    model = torchfit.Model(net, device="cpu")
    model.compile(optimizers.SGD(0.1), "mse")
    new = network()[2]

    def replace(batch, logs):
        if batch == 2:
            net[2] = copy.deepcopy(new)
            if builds:
                model.build_optimizer()

    def look(epoch, logs):
        trained.append(not torch.equal(net[2].weight, new.weight))

    replacing = callbacks.LambdaCallback(on_train_batch_begin=replace, on_epoch_end=look)
    if not builds:
        with pytest.warns(UserWarning, match=r"from the next epoch on, or after model.build_optimizer\(\)"):
            train(model, 1, callbacks=[replacing])
        train(model, 1, callbacks=[callbacks.LambdaCallback(on_epoch_end=look)])
        assert trained == [False, True]
        return
    train(model, 1, callbacks=[replacing])
    for number, (x, y) in enumerate(zip(X.split(8), Y.split(8))):
        if number == 2:
            twin[2] = copy.deepcopy(new)
        twin.zero_grad()
        F.mse_loss(twin(x), y).backward()
        torch.optim.SGD(twin.parameters(), 0.1).step()
    assert_same(net, twin)
