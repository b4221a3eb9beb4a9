import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

import torchfit
from torchfit.utils import worst_samples

X = np.random.default_rng(0).normal(size=(50, 4)).astype("float32")
Y = np.arange(50) % 3
YT = torch.tensor(Y)
WEIGHT = torch.tensor([1.0, 3.0, 0.5])


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


YB = (X[:, 0] > 0).astype("int64")


@pytest.mark.parametrize(
    ("units", "loss", "y", "by_hand"),
    [
        (1, nn.MSELoss(), X[:, 0], lambda out: (out[:, 0] - torch.tensor(X[:, 0])) ** 2),
        (1, nn.L1Loss(reduction="sum"), X[:, 0], lambda out: (out[:, 0] - torch.tensor(X[:, 0])).abs()),
        (
            1,
            nn.BCEWithLogitsLoss(),
            YB,
            lambda out: F.binary_cross_entropy_with_logits(out[:, 0], torch.tensor(YB).float(), reduction="none"),
        ),
        (3, nn.CrossEntropyLoss(), Y.astype("int32"), lambda out: F.cross_entropy(out, YT, reduction="none")),
        (3, nn.CrossEntropyLoss(), Y[:, None], lambda out: F.cross_entropy(out, YT, reduction="none")),
        (3, nn.CrossEntropyLoss(), list(map(int, Y)), lambda out: F.cross_entropy(out, YT, reduction="none")),
        (
            3,
            nn.CrossEntropyLoss(weight=WEIGHT, ignore_index=2),
            Y,
            lambda out: F.cross_entropy(out, YT, weight=WEIGHT, ignore_index=2, reduction="none"),
        ),
    ],
)
def test_targets_are_read_as_evaluate_reads_them(units, loss, y, by_hand):
    net = nn.Linear(4, units)
    found = worst_samples(compiled(net, loss), X, y, k=50)
    expected = by_hand(net(torch.tensor(X))).detach().numpy()
    np.testing.assert_allclose(found.losses, np.sort(expected)[::-1], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(expected[found.indices], found.losses, rtol=1e-5, atol=1e-7)


def test_losses_of_tokens_are_averaged_with_those_of_ignored_ones():
    y = torch.tensor(np.random.default_rng(1).integers(0, 3, (6, 5)))
    net, x = nn.Sequential(nn.Linear(4, 3), nn.Flatten(1), nn.Unflatten(1, (5, 3))), torch.randn(6, 5, 4)
    net.append(Transposed())
    found = worst_samples(compiled(net, nn.CrossEntropyLoss(ignore_index=0)), x, y, k=6)
    expected = F.cross_entropy(net(x), y, ignore_index=0, reduction="none").mean(1).detach().numpy()
    np.testing.assert_allclose(found.losses, np.sort(expected)[::-1], rtol=1e-5)


class Transposed(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2)


class WithHidden(nn.Linear):
    def forward(self, x):
        return {"logits": super().forward(x), "hidden": x}


def test_one_loss_is_that_of_the_main_output():
    net = WithHidden(4, 3)
    found = worst_samples(compiled(net, nn.CrossEntropyLoss()), X, Y, k=5)
    expected = F.cross_entropy(net(torch.tensor(X))["logits"], YT, reduction="none").detach().numpy()
    np.testing.assert_array_equal(found.indices, np.argsort(-expected)[:5])


class Pair(nn.Linear):
    def forward(self, x):
        return super().forward(x), x


def test_outputs_have_the_names_of_the_model():
    model = torchfit.Model(Pair(4, 3), device="cpu", output_names=["a", "b"])
    model.compile("sgd", {"a": nn.CrossEntropyLoss(), "b": "mse"})
    assert model.output_names == ["a", "b"]
    found = worst_samples(model, X, {"a": Y, "b": X + 1}, k=50)
    expected = F.cross_entropy(torch.tensor(model.predict(X)[0]), YT, reduction="none").numpy() + 1
    np.testing.assert_allclose(found.losses, np.sort(expected)[::-1], rtol=1e-5)


def test_losses_that_are_nan_are_the_worst():
    x = X.copy()
    x[7] = np.nan
    assert worst_samples(compiled(nn.Linear(4, 3), "mse"), x, X[:, :3], k=2).indices[0] == 7


@pytest.mark.parametrize(
    "loss",
    [lambda y_true, y_pred: (y_true - y_pred).square().mean(), torchfit.losses.Dice(axis=0)],
    ids=["own", "Dice"],
)
def test_losses_of_batches_are_refused(loss):
    with pytest.raises(ValueError, match=r"needs a loss of each sample, but the loss of 'output_1' is one number"):
        worst_samples(compiled(nn.Sequential(nn.Linear(4, 3), nn.Sigmoid()), loss), X, X[:, :3])


def test_numbers_of_samples_that_differ_are_refused():
    with pytest.raises(ValueError, match="`x` has 50, `y` has 49"):
        worst_samples(compiled(nn.Linear(4, 3), "cross_entropy"), X, Y[1:])


def test_what_is_missing_is_told():
    with pytest.raises(ValueError, match="needs a loss"):
        worst_samples(torchfit.Model(nn.Linear(4, 3), device="cpu"), X, Y)
    with pytest.raises(ValueError, match=r"`y` is missing.*\(50, 4\)"):
        worst_samples(compiled(nn.Linear(4, 3), "mse"), X)
    with pytest.raises(ValueError, match="`k` must be"):
        worst_samples(compiled(nn.Linear(4, 3), "mse"), X, X, k=0)
