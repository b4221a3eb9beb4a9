"""Names of modules in subclasses of `Model`: those that `Model` uses itself are refused, all others work."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import torchfit

X, Y = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)), torch.ones(40, 2)
EVERY_NAME = sorted(
    name
    for name in {*dir(torchfit.Model), *vars(torchfit.Model(nn.Identity())), "run_eagerly"} - {"module"}
    if not name.startswith("_") and name != "training"
)


class Empty(torchfit.Model):
    def forward(self, x):
        return x


class Scaled(torchfit.Model):
    def forward(self, x):
        return 100 + self.module(x)


class Network(torchfit.Model):
    """Parts under any names, one after the other."""

    def __init__(self, *names):
        super().__init__(device="cpu")
        torch.manual_seed(0)
        sizes = [6, *[4] * (len(names) - 1), 2]
        for name, inputs, outputs in zip(names, sizes, sizes[1:]):
            setattr(self, name, nn.Linear(inputs, outputs))
        self.names = names

    def forward(self, x):
        for name in self.names:
            x = getattr(self, name)(x).tanh()
        return x


@pytest.mark.parametrize("part", [nn.Linear(1, 1), nn.Parameter(torch.ones(1))], ids=["module", "parameter"])
@pytest.mark.parametrize("name", EVERY_NAME)
def test_a_name_that_every_model_has_is_refused_at_the_assignment(name, part):
    model = Empty()
    with pytest.raises(AttributeError, match=f"`{name}` is .* every Model has.*another name"):
        setattr(model, name, part)
    assert list(model.parameters()) == []


@pytest.mark.parametrize("method", ["add_module", "register_module"])
@pytest.mark.parametrize("name", ["metrics", "loss", "module"])
def test_add_module_refuses_such_names_too(method, name):
    with pytest.raises(KeyError, match=name):
        getattr(Empty(), method)(name, nn.Linear(1, 1))


def test_a_subclass_with_forward_has_no_part_called_module():
    with pytest.raises(AttributeError, match=r"`module` is the name .* Network wraps none.*`self\.net`"):
        Network("module", "head")


def test_a_subclass_with_forward_wraps_no_module():
    with pytest.raises(TypeError, match=r"Scaled defines `forward` and wraps a module.*`self\.net = module`"):
        Scaled(nn.Linear(6, 2))
    assert Scaled().module is not None


def test_a_class_above_may_define_the_forward():
    class Below(Scaled):
        """Inherits `forward`."""

    with pytest.raises(TypeError, match="Below defines `forward`"):
        Below(nn.Linear(6, 2))


@pytest.mark.parametrize("names", [("net", "head"), ("layers", "inputs", "own_loss"), ("encoder", "model", "net")])
def test_other_names_are_trained_like_in_the_plain_loop(names):
    model, plain = Network(*names), Network(*names)
    model.compile(torch.optim.SGD(model.parameters(), 0.1), "mse")
    history = model.fit(X, Y, batch_size=20, epochs=2, shuffle=False, verbose=0)
    optimizer, losses = torch.optim.SGD(plain.parameters(), 0.1), []
    for start in (0, 20, 0, 20):
        loss = F.mse_loss(plain.forward(X[start : start + 20]), Y[start : start + 20])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    expected = [np.mean(losses[:2]), np.mean(losses[2:])]
    np.testing.assert_allclose(history.history["loss"], expected, rtol=1e-5)
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor)
    assert {name.split(".")[0] for name in model.state_dict()} == set(names)


def test_a_model_around_a_module_may_wrap_another_one():
    model, other = torchfit.Model(nn.Linear(6, 2), device="cpu"), nn.Linear(6, 3)
    model.module = other
    assert model.module is other
    np.testing.assert_allclose(model.predict(X), other(X).detach(), rtol=1e-6, atol=1e-6)


def test_values_that_are_no_modules_may_be_set():
    model = Empty()
    model.loss, model.history, model.stop_training = "mse", None, True
    assert (model.loss, model.history, model.stop_training) == ("mse", None, True)


def test_a_loss_that_is_a_module_can_be_compiled_and_read():
    model, loss = Network("net"), nn.MSELoss()
    model.compile("sgd", loss)
    assert model.loss is loss
    assert loss not in list(model.modules())


def test_a_compiled_forward_may_set_attributes():
    class Counting(Network):
        last = 0

        def forward(self, x):
            self.last = x.sum()
            return super().forward(x)

    compiled = torch.compile(Counting("net").forward, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(X), Network("net").forward(X))
