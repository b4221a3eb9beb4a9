"""What trains twins: by torchfit, and by the loop as PyTorch's tutorials write it."""

import numpy as np
import torch

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
