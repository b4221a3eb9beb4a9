"""What trains twins: by torchfit, and by the loop as PyTorch's tutorials write it."""

import numpy as np
import torch
import torch.nn.functional as F

import torchfit
from torchfit import optimizers


def compiled(net, loss, rate=0.0, **options):
    model = torchfit.Model(net, device="cpu", **options)
    model.compile(optimizers.SGD(rate), loss)
    return model


def trained_by_hand(net, batches, loss, rate):
    """The state after a loop over the batches as PyTorch's tutorials write it."""
    optimizer = torch.optim.SGD(net.parameters(), rate)
    for inputs, targets in batches:
        optimizer.zero_grad()
        loss(net(*inputs) if type(inputs) is tuple else net(inputs), targets).backward()
        optimizer.step()
    return net.state_dict()


def fit_over(x, y):
    """A function that fits a model to batches of eight rows, in their order."""

    def fit(model, epochs=1, **options):
        return model.fit(x, y, batch_size=8, epochs=epochs, shuffle=False, verbose=0, **options)

    return fit


def loop_over(x, y):
    """The loop of PyTorch's tutorials over the same batches, as a function."""

    def loop(net, optimizer, epochs=1):
        for _ in range(epochs):
            for inputs, targets in zip(x.split(8), y.split(8)):
                net.zero_grad()
                F.mse_loss(net(inputs), targets).backward()
                optimizer.step()

    return loop


def twins(make):
    """Two modules with the same weights."""
    one, other = make(), make()
    other.load_state_dict(one.state_dict())
    return one, other


def assert_same(state, other):
    for name, value in state.items():
        assert torch.allclose(value, other[name], atol=1e-5), name


X = np.random.default_rng(0).normal(size=(24, 4)).astype("float32")
Y = np.arange(24) % 3
