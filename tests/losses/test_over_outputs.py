"""Losses over all outputs of a module at once."""

import logging

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import torchfit
from torchfit import losses, optimizers

X = np.random.default_rng(0).normal(size=(20, 4)).astype("float32")


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode, self.decode = nn.Linear(4, 4), nn.Linear(2, 4)

    def forward(self, x):
        mean, log_variance = self.encode(x).chunk(2, -1)
        return {"image": self.decode(mean), "mean": mean, "log_variance": log_variance}


def bound(y_true, outputs):
    error = (outputs["image"] - y_true).square().sum(-1)
    return error + 0.5 * (outputs["mean"].square() + outputs["log_variance"].exp() - outputs["log_variance"]).sum(-1)


def model_of(net, loss, metrics=None, **arguments):
    model = torchfit.Model(net, device="cpu")
    model.compile(optimizers.SGD(0.05), loss, metrics, **arguments)
    return model


def copy_of(net):
    twin = type(net)()
    twin.load_state_dict(net.state_dict())
    return twin


@pytest.mark.parametrize("weight", [None, np.arange(20) % 3])
def test_the_update_and_the_loss_are_those_of_a_loop(weight):
    net = Encoder()
    twin = copy_of(net)
    optimizer = torch.optim.SGD(twin.parameters(), 0.05)
    total = 0.0
    for start in range(0, 20, 8):
        part = slice(start, start + 8)
        x = torch.from_numpy(X[part])
        values = bound(x, twin(x)) * (1 if weight is None else torch.from_numpy(weight[part]))
        total += values.sum().item()
        optimizer.zero_grad()
        values.mean().backward()
        optimizer.step()
    model = model_of(net, losses.OverOutputs(bound), {"image": ["mae"]})
    history = model.fit(X, X, batch_size=8, shuffle=False, sample_weight=weight, verbose=0).history
    assert list(history) == ["loss", "image_mae"]
    assert history["loss"] == [pytest.approx(total / 20, rel=1e-5)]
    for one, other in zip(net.parameters(), twin.parameters()):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("batch_size", [1, 7, 20])
def test_the_loss_of_an_evaluation_does_not_depend_on_the_batch_size(batch_size):
    net = Encoder()
    expected = bound(torch.from_numpy(X), net(torch.from_numpy(X))).mean().item()
    found = model_of(net, losses.OverOutputs(bound)).evaluate(X, X, batch_size=batch_size, verbose=0)
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("arguments", [{"microbatch": 3}, {"jit_compile": True}, {"loss_weights": 0.5}])
def test_parts_graphs_and_weights_of_the_loss(arguments):
    net = Encoder()
    plain = model_of(copy_of(net), losses.OverOutputs(bound)).fit(X, X, epochs=2, shuffle=False, verbose=0)
    other = model_of(net, losses.OverOutputs(bound), **arguments).fit(X, X, epochs=2, shuffle=False, verbose=0)
    factor = arguments.get("loss_weights", 1.0)
    assert other.history["loss"][0] == pytest.approx(factor * plain.history["loss"][0], rel=1e-5)


class Triplet(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(4, 2)

    def forward(self, anchor, positive, negative):
        return self.embed(anchor), self.embed(positive), self.embed(negative)


def test_a_function_of_the_outputs_alone_needs_no_targets():
    net = Triplet()
    twin, x = copy_of(net), [X, X + 0.1, X[::-1].copy()]
    F.triplet_margin_loss(*twin(*map(torch.from_numpy, x))).backward()
    torch.optim.SGD(twin.parameters(), 0.05).step()
    model = model_of(net, losses.OverOutputs(lambda outputs: nn.TripletMarginLoss()(*outputs)))
    model.fit(x, batch_size=20, shuffle=False, verbose=0)
    torch.testing.assert_close(net.embed.weight, twin.embed.weight)
    assert np.isfinite(model.evaluate(x, verbose=0))


def test_outputs_that_are_no_tensors_reach_the_function():
    class Predictive(nn.Linear):
        def forward(self, x):
            return torch.distributions.Normal(super().forward(x), 1.0)

    model = model_of(Predictive(4, 1), losses.OverOutputs(lambda y_true, outputs: -outputs.log_prob(y_true)))
    history = model.fit(X, X[:, :1], epochs=5, verbose=0).history["loss"]
    assert history[-1] < history[0]


def test_targets_that_the_function_needs_are_missed():
    model = model_of(Encoder(), losses.OverOutputs(bound))
    with pytest.raises(ValueError, match="`x` came without targets `y`"):
        model.fit(X, verbose=0)


def test_a_model_is_saved_with_its_loss(tmp_path):
    model = model_of(Encoder(), losses.OverOutputs(bound, reduction="sum"))
    expected = model.evaluate(X, X, verbose=0)
    model.save(tmp_path / "vae.torchfit")
    objects = {"bound": bound, "Encoder": Encoder}
    again = torchfit.models.load_model(tmp_path / "vae.torchfit", custom_objects=objects)
    assert isinstance(again.loss, losses.OverOutputs)
    assert again.evaluate(X, X, verbose=0) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda: losses.OverOutputs(nn.TripletMarginLoss()), r"needs anchor, positive, negative"),
        (lambda: losses.OverOutputs("mse"), "takes a function"),  # type: ignore[arg-type]
        (lambda: losses.OverOutputs(None), "takes a function"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_function_of_outputs_is_refused(loss, message):
    with pytest.raises((TypeError, ValueError), match=message):
        loss()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": {"image": losses.OverOutputs(bound), "mean": "mse"}}, "Pass it alone"),
        ({"loss": losses.OverOutputs(bound), "loss_weights": {"image": 2.0}}, "`loss_weights` must be a number"),
    ],
)
def test_losses_of_single_outputs_do_not_stand_beside_it(arguments, message):
    with pytest.raises(ValueError, match=message):
        torchfit.Model(Encoder(), device="cpu").compile("sgd", **arguments)


def test_weights_of_single_outputs_do_not_stand_beside_it():
    with pytest.raises(ValueError, match="Pass one array of weights"):
        model_of(Encoder(), losses.OverOutputs(bound)).fit(X, X, sample_weight={"image": X[:, 0]}, verbose=0)


class OwnLoss(nn.Module):
    """A classifier that computes its loss, as those of transformers."""

    def __init__(self, pack=lambda loss, logits: {"loss": loss, "logits": logits}):
        super().__init__()
        self.layer, self.pack = nn.Linear(4, 3), pack

    def forward(self, x, labels=None):
        logits = self.layer(x)
        return self.pack(None if labels is None else F.cross_entropy(logits, labels), logits)


LABELS = np.arange(20) % 3


@pytest.mark.parametrize(
    "pack",
    [
        lambda loss, logits: {"loss": loss, "logits": logits},
        lambda loss, logits: (logits, loss),
        lambda loss, logits: loss,
    ],
)
@pytest.mark.parametrize("jit_compile", [None, pytest.param(True, marks=pytest.mark.slow)])
def test_a_module_is_trained_on_the_loss_that_it_returns(pack, jit_compile, caplog):
    net, twin = OwnLoss(pack), OwnLoss()
    twin.load_state_dict(net.state_dict())
    optimizer = torch.optim.SGD(twin.parameters(), 0.05)
    expected = []
    for start in (0, 8, 16):
        x, y = torch.from_numpy(X[start : start + 8]), torch.from_numpy(LABELS[start : start + 8])
        optimizer.zero_grad()
        loss = twin(x, y)["loss"]
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    model = model_of(net, None, jit_compile=jit_compile)
    with caplog.at_level(logging.WARNING, "torchfit"):
        history = model.fit({"x": X, "labels": LABELS}, batch_size=8, shuffle=False, verbose=0).history
        model.fit({"x": X, "labels": LABELS}, epochs=0, verbose=0)
    assert history == {"loss": [pytest.approx(np.average(expected, weights=[8, 8, 4]), rel=1e-5)]}
    torch.testing.assert_close(net.layer.weight, twin.layer.weight)
    assert sum("No loss was compiled" in record.message for record in caplog.records) == 1


def test_a_loss_that_was_compiled_or_added_comes_before_the_own_one():
    x = {"x": X, "labels": LABELS}
    compiled = model_of(OwnLoss(), {"logits": nn.CrossEntropyLoss()})
    with pytest.raises(ValueError, match="came without targets"):
        compiled.fit(x, verbose=0)
    added = model_of(OwnLoss(), None)
    added.add_loss(lambda outputs: 2.0 * outputs["loss"], on="")
    doubled = added.evaluate(x, verbose=0)
    assert doubled == pytest.approx(2 * model_of(added.module, None).evaluate(x, verbose=0), rel=1e-5)


def test_a_module_without_any_loss_is_told_the_ways_to_have_one():
    with pytest.raises(ValueError, match=r"There is no loss to compute.*add_loss\(lambda.*on=.*its output `loss`"):
        model_of(OwnLoss(), None).fit({"x": X}, verbose=0)
