import re

import numpy as np
import pytest
import torch
from torch import nn

from torchfit import Model
from torchfit._trainer.error_context import translate_errors


def message_of(net, x):
    with pytest.raises(ValueError, match="does not fit") as caught:
        Model(net, device="cpu").predict(x)
    return str(caught.value)


def test_the_layer_and_the_shapes_are_named():
    net = nn.Sequential()
    net.add_module("encoder", nn.Sequential(nn.Linear(4, 3), nn.ReLU()))
    net.add_module("head", nn.Linear(2, 1))
    told = message_of(net, np.ones((5, 4)))
    assert told.startswith(
        "`x` does not fit the model: layer `head`, Linear(in_features=2, out_features=1, bias=True), was called with "
        "a tensor of shape (5, 3) and dtype float32."
    )
    assert "torch says: mat1 and mat2 shapes cannot be multiplied (5x3 and 2x1)" in told


@pytest.mark.parametrize(
    ("net", "x", "words"),
    [
        (nn.Conv2d(3, 1, 2), np.ones((2, 1, 8, 8)), r"Conv2d\(3, 1.*shape \(2, 1, 8, 8\)"),
        (nn.BatchNorm1d(3), np.ones((2, 4)), r"BatchNorm1d\(3.*shape \(2, 4\)"),
        (nn.Embedding(3, 2), np.array([[3]]), r"Embedding\(3, 2\).*shape \(1, 1\) and dtype int64"),
        (nn.Embedding(3, 2), np.array([[1.0]]), r"Embedding\(3, 2\).*dtype float32"),
        (nn.Linear(2, 1), np.ones((2, 2), dtype=int), r"Linear.*dtype int64"),
        (nn.LSTM(3, 2), np.ones((2, 5, 4)), r"LSTM\(3, 2\).*shape \(2, 5, 4\)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_layers_of_torch(net, x, words):
    assert re.search(words, message_of(net, x))


class Mine(nn.Module):
    def forward(self, x):
        return x @ torch.ones(7, 7)


def test_code_of_users_speaks_for_itself():
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes"):
        Model(Mine(), device="cpu").predict(np.ones((2, 3)))


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("size"), KeyboardInterrupt(), RuntimeError("shape")], ids=repr
)
def test_other_errors_pass(error):
    with pytest.raises(type(error)) as caught, translate_errors(nn.Linear(1, 1)):
        raise error
    assert caught.value is error
