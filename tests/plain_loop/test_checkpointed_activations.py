"""Added losses and metrics of modules whose activations are computed again in the backward pass, to save memory."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import torchfit
from torchfit import Model, optimizers

X, Y = torch.randn(24, 4, generator=torch.Generator().manual_seed(0)), torch.linspace(-1, 1, 24)[:, None]


class _Net(nn.Module):
    """Computes the activations of `encode` again in the backward pass, or stores them."""

    def __init__(self, is_checkpointed, adds=False, dropout=0.2):
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Dropout(dropout))
        self.head = nn.Linear(3, 1)
        self.is_checkpointed, self.adds = is_checkpointed, adds

    def _encoded(self, x):
        hidden = self.encode(x)
        if self.adds:
            torchfit.add_loss(0.1 * hidden.square().mean())
            torchfit.add_metric(hidden.abs().sum(), name="size", aggregation="sum")
        return hidden

    def forward(self, x):
        if self.is_checkpointed:
            return self.head(checkpoint(self._encoded, x, use_reentrant=False))
        return self.head(self._encoded(x))


def _trained_by_hand(net):
    """Train on the loss plus a penalty of activations; return the means of the losses, and the sum of activations."""
    hidden = []
    net.encode.register_forward_hook(lambda module, inputs, output: hidden.append(output))
    optimizer, losses, size = torch.optim.SGD(net.parameters(), 0.1), [], 0.0
    for rows in torch.arange(24).split(8):
        hidden.clear()
        loss = F.mse_loss(net(X[rows]), Y[rows]) + 0.1 * hidden[0].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        size += hidden[0].abs().sum().item()
    return {"loss": [pytest.approx(sum(losses) / 3, rel=1e-5)], "size": [pytest.approx(size, rel=1e-5)]}


class _OwnStep(Model):
    def train_step(self, batch):
        x, y = batch
        outputs = self(x, training=True)
        loss = self.compute_loss(x, y, outputs)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return self.compute_metrics(x, y, outputs)


def _penalty(hidden):
    return 0.1 * hidden.square().mean()


def _size(hidden):
    return hidden.abs().sum()


@pytest.mark.parametrize("kind", [Model, _OwnStep])
@pytest.mark.parametrize("adds", [False, True], ids=["to the model", "in forward"])
def test_what_is_added_counts_once(kind, adds):
    torch.manual_seed(0)
    net = _Net(is_checkpointed=True, adds=adds)
    by_hand = _Net(is_checkpointed=False)
    by_hand.load_state_dict(copy.deepcopy(net.state_dict()))
    model = kind(net)
    if not adds:
        model.add_loss(_penalty, on="encode")
        model.add_metric(_size, name="size", on="encode", aggregation="sum")
    model.compile(optimizers.SGD(0.1), "mse")
    torch.manual_seed(1)
    history = model.fit(X, Y, batch_size=8, shuffle=False, verbose=0).history
    torch.manual_seed(1)
    expected = _trained_by_hand(by_hand)
    assert history["size"] == expected["size"]
    if kind is Model:  # The other one does not update the mean loss.
        assert history == expected
    for parameter, other in zip(net.parameters(), by_hand.parameters()):
        torch.testing.assert_close(parameter, other)


@pytest.mark.parametrize(
    "options",
    [{"microbatch": 4}, {"optimizer": optimizers.SGD(0.1, gradient_accumulation_steps=3)}, {"jit_compile": True}],
    ids=["microbatch", "accumulation", "compiled"],
)
def test_every_form_of_a_step(options):
    found = []
    for is_checkpointed in (False, True):
        torch.manual_seed(0)
        net = _Net(is_checkpointed, dropout=0.0)  # Compiled code draws other random numbers.
        model = Model(net)
        model.add_loss(_penalty, on="encode.1")
        model.add_metric(_size, name="size", on="encode.0", aggregation="sum")
        model.compile(**copy.deepcopy({"optimizer": optimizers.SGD(0.1), "loss": "mse", **options}))
        history = model.fit(X, Y, batch_size=8, epochs=2, shuffle=False, verbose=0).history
        found.append((history, [parameter.detach() for parameter in net.parameters()]))
    assert found[1][0] == {name: pytest.approx(values, rel=1e-5) for name, values in found[0][0].items()}
    torch.testing.assert_close(found[1][1], found[0][1])


def test_a_step_that_calls_the_module_itself():
    class CallsModule(_OwnStep):
        def train_step(self, batch):
            x, y = batch
            loss = self.compute_loss(x, y, self.module(x))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            return {"loss": loss}

    model = CallsModule(_Net(is_checkpointed=True))
    model.add_loss(_penalty, on="encode")
    model.compile("sgd", "mse")
    assert model.fit(X, Y, batch_size=8, verbose=0).history["loss"][0] > 0
