import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import torchfit
from torchfit.utils import worst_samples

X = np.random.default_rng(0).normal(size=(50, 4)).astype("float32")
Y = np.arange(50) % 3


def compiled(module, loss, **arguments):
    model = torchfit.Model(module, device="cpu")
    model.compile("adam", loss, **arguments)
    return model


@pytest.mark.parametrize(
    "loss", [nn.CrossEntropyLoss(), torchfit.losses.SparseCategoricalCrossentropy(from_logits=True), "cross_entropy"]
)
def test_the_losses_are_those_of_each_sample_alone(loss):
    model = compiled(nn.Linear(4, 3), loss)
    expected = nn.functional.cross_entropy(torch.tensor(model.predict(X)), torch.tensor(Y), reduction="none").numpy()
    found = worst_samples(model, X, Y, k=5)
    np.testing.assert_array_equal(found.indices, np.argsort(-expected)[:5])
    np.testing.assert_allclose(found.losses, np.sort(expected)[::-1][:5], rtol=1e-6)
    np.testing.assert_array_equal(found.predictions, model.predict(X)[found.indices])


def test_a_dataset_has_its_targets():
    model = compiled(nn.Linear(4, 3), nn.CrossEntropyLoss())
    found = worst_samples(model, TensorDataset(torch.tensor(X), torch.tensor(Y)), k=3)
    np.testing.assert_array_equal(found.indices, worst_samples(model, X, Y, k=3).indices)


class Two(nn.Linear):
    def forward(self, x):
        return {"a": super().forward(x), "b": x}


@pytest.mark.parametrize("k", [4, 100])
def test_the_losses_of_several_outputs_are_added_by_their_weights(k):
    model = compiled(Two(4, 2), {"a": "mse", "b": "mae"}, loss_weights={"a": 2.0, "b": 0.5})
    y = {"a": X[:, :2], "b": np.zeros_like(X)}
    outputs = model.predict(X)
    expected = 2 * ((outputs["a"] - y["a"]) ** 2).mean(1) + 0.5 * np.abs(outputs["b"]).mean(1)
    found = worst_samples(model, X, y, k=k)
    np.testing.assert_allclose(found.losses, np.sort(expected)[::-1][:k], rtol=1e-5)
    assert found.predictions["b"].shape == (min(k, 50), 4)


def test_values_along_other_axes_are_averaged():
    model = compiled(nn.Linear(4, 4), "mse")
    x = np.random.default_rng(0).normal(size=(6, 5, 4)).astype("float32")
    expected = ((model.predict(x) - x) ** 2).mean((1, 2))
    np.testing.assert_allclose(worst_samples(model, x, x, k=6).losses, np.sort(expected)[::-1], rtol=1e-5)


def test_what_is_missing_is_told():
    with pytest.raises(ValueError, match="needs a loss"):
        worst_samples(torchfit.Model(nn.Linear(4, 3), device="cpu"), X, Y)
    with pytest.raises(ValueError, match=r"`y` is missing.*\(50, 4\)"):
        worst_samples(compiled(nn.Linear(4, 3), "mse"), X)
    with pytest.raises(ValueError, match="`k` must be"):
        worst_samples(compiled(nn.Linear(4, 3), "mse"), X, X, k=0)
