"""One sample without the axis of a batch is refused, and nothing else."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from torchfit import Model


def ones(*shape):
    return np.ones(shape, "float32")


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(x)


@pytest.mark.parametrize(
    ("net", "x"),
    [
        (nn.Linear(8, 3), ones(8)),
        (nn.Linear(8, 8), ones(8)),
        (nn.Linear(8, 3), torch.ones(8)),
        (nn.Linear(40, 3), ones(40)),
        (nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3)), ones(8)),
        (Own(), ones(8)),
        (nn.Conv1d(3, 2, 3), ones(3, 8)),
        (nn.Conv2d(3, 2, 3), ones(3, 8, 8)),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()), ones(1, 8, 8)),
    ],
)
def test_one_sample_is_refused_with_the_way_to_make_it_a_batch(net, x):
    model = Model(net, device="cpu")
    for call in (model.predict, model.predict_on_batch, lambda x: next(iter(model.predict_iter(x)))):
        with pytest.raises(ValueError, match=r"`x` does not fit the model: layer .*x\[None\]"):
            call(x)
    assert not any(layer._forward_pre_hooks for layer in net.modules())
    assert model.predict(x[None]).shape[0] == 1


def test_fit_and_evaluate_refuse_it_as_well():
    model = Model(nn.Linear(8, 3), device="cpu")
    model.compile("sgd", "mse")
    for call in (model.fit, model.evaluate, model.train_on_batch, model.test_on_batch):
        with pytest.raises(ValueError, match=r"x\[None\]"):
            call(ones(8), ones(8))


class Embedded(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(4, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.table(x))


class Column(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(1, 3)

    def forward(self, x):
        return self.head(x[:, None])


class Generated(nn.Module):
    """Weights that a layer computes from a vector of one axis."""

    def __init__(self):
        super().__init__()
        self.code, self.layer = nn.Parameter(torch.ones(8)), nn.Linear(8, 3)

    def forward(self, x):
        return x[:, None] * self.layer(self.code)


@pytest.mark.parametrize("net", [Embedded(), Column(), Generated()], ids=lambda net: type(net).__name__)
def test_inputs_of_one_axis_that_the_model_wants_are_taken(net):
    x = np.arange(8) % 4 if isinstance(net, Embedded) else ones(8)
    assert Model(net, device="cpu").predict(x).shape == (8, 3)


def test_batches_of_a_loader_are_the_users():
    loader = DataLoader([ones(8)] * 3, batch_size=None)  # type: ignore[arg-type]
    assert Model(nn.Linear(8, 3), device="cpu").predict(loader).shape == (9,)
