"""A loss module of torch whose settings change during training: the next batch is computed with the new ones."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import torchfit
from torchfit import callbacks, losses

ROWS, BATCH = 48, 16
X = torch.tensor(np.random.default_rng(0).normal(size=(ROWS, 6)).astype("float32"))
CLASSES = torch.arange(ROWS) % 3
VALUES = X[:, :3].clone()
BITS = (VALUES > 0).float()
WEIGHTS = torch.tensor([0.2, 1.0, 4.0])


class Scaled(nn.MSELoss):
    """A loss of torch with a setting of the user's."""

    scale = 1.0

    def forward(self, outputs, targets):
        return self.scale * super().forward(outputs, targets)


# The loss, the settings that change, the targets.
CHANGES = {
    "first class weights": (nn.CrossEntropyLoss(), {"weight": WEIGHTS}, CLASSES),
    "other class weights": (nn.CrossEntropyLoss(torch.ones(3)), {"weight": WEIGHTS}, CLASSES),
    "no class weights": (nn.CrossEntropyLoss(WEIGHTS), {"weight": None}, CLASSES),
    "label smoothing": (nn.CrossEntropyLoss(), {"label_smoothing": 0.3}, CLASSES),
    "more label smoothing": (nn.CrossEntropyLoss(label_smoothing=0.1), {"label_smoothing": 0.5}, CLASSES),
    "ignored class": (nn.CrossEntropyLoss(), {"ignore_index": 1}, CLASSES),
    "positive weight": (nn.BCEWithLogitsLoss(), {"pos_weight": WEIGHTS}, BITS),
    "weights of outputs": (nn.BCEWithLogitsLoss(), {"weight": WEIGHTS}, BITS),
    "beta": (nn.SmoothL1Loss(), {"beta": 0.1}, VALUES),
    "delta": (nn.HuberLoss(), {"delta": 0.1}, VALUES),
    "margin": (nn.MultiMarginLoss(), {"margin": 0.5, "p": 2}, CLASSES),
    "own setting": (Scaled(), {"scale": 3.0}, VALUES),
}


@pytest.fixture(params=CHANGES)
def change(request):
    loss, settings, targets = CHANGES[request.param]
    return copy.deepcopy(loss), settings, targets


def network():
    torch.manual_seed(0)
    return nn.Linear(6, 3)


def apply(loss, settings):
    for name, value in settings.items():
        setattr(loss, name, value)


def by_hand(loss, settings, targets, sample_weight=None):
    """Train for an epoch, change the settings, and train for another."""
    loss, net = copy.deepcopy(loss), network()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for epoch in range(2):
        if epoch:
            apply(loss, settings)
        for first in range(0, ROWS, BATCH):
            rows = slice(first, first + BATCH)
            optimizer.zero_grad()
            loss(net(X[rows]), targets[rows]).backward()
            optimizer.step()
    return net, loss


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("when", ["between fits", "in a callback"])
def test_training(change, when, jit_compile):
    loss, settings, targets = change
    if jit_compile and type(loss) not in (nn.CrossEntropyLoss, nn.HuberLoss, Scaled):
        pytest.skip("The others are compiled in the same way.")
    expected, changed = by_hand(loss, settings, targets)
    net = network()
    model = torchfit.Model(net, device="cpu")
    model.compile(torch.optim.SGD(net.parameters(), 0.1), loss, jit_compile=jit_compile)

    def fit(epochs=1, listening=()):
        model.fit(X, targets, BATCH, epochs, verbose=0, callbacks=list(listening), shuffle=False)

    if when == "between fits":
        fit()
        apply(loss, settings)
        fit()
    else:
        fit(2, [callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: epoch and apply(loss, settings))])
    torch.testing.assert_close(net.weight, expected.weight, rtol=0, atol=1e-5)
    evaluated = model.evaluate(X, targets, batch_size=ROWS, verbose=0)
    assert evaluated == pytest.approx(changed(expected(X), targets).item(), abs=1e-5)


def test_with_sample_weights(change):
    loss, settings, targets = change
    weights = torch.linspace(0, 2, ROWS)
    model = torchfit.Model(network(), device="cpu")
    model.compile("sgd", loss)

    def evaluate():
        return model.evaluate(X, targets, batch_size=ROWS, verbose=0, sample_weight=weights)

    before = evaluate()
    apply(loss, settings)
    after = evaluate()
    model.compile("sgd", loss)
    assert after == evaluate() != before


def test_copies_have_settings_of_their_own():
    loss = losses.TorchLoss(nn.CrossEntropyLoss())
    other = copy.deepcopy(loss)
    loss.fn.weight = WEIGHTS
    outputs = network()(X)
    assert loss(CLASSES, outputs) != other(CLASSES, outputs)
    other.fn.weight = WEIGHTS
    assert loss(CLASSES, outputs) == other(CLASSES, outputs)
