"""Calls of a model under a dtype policy, in overridden steps and outside of them, compared with autocast."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchfit import Model, optimizers

X, Y = torch.randn(24, 4, generator=torch.Generator().manual_seed(1)), torch.linspace(-1, 1, 24)[:, None]


class _OwnSteps(Model):
    """A model whose steps call the model itself, as Keras' guides do."""

    def train_step(self, batch):
        x, y = batch
        outputs = self(x, training=True)
        loss = self.compute_loss(x, y, outputs)
        self.optimizer.zero_grad()
        self.optimizer.scale_loss(loss).backward()
        self.optimizer.step()
        return {"loss": loss, "bits": float(torch.finfo(outputs.dtype).bits)}

    def test_step(self, batch):
        x, y = batch
        return {"loss": self.compute_loss(x, y, self([x]))}

    def predict_step(self, batch):
        return self(batch)


class _OwnForward(_OwnSteps):
    def __init__(self, net, dtype_policy):
        super().__init__(dtype_policy=dtype_policy)
        self.net = net

    def forward(self, x):
        return self.net(x)


def _make_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


def _trained_by_hand(net, dtype):
    """Train for two epochs in batches of 8 under autocast, and return the loss on all data and the outputs for them."""
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for rows in [*torch.arange(24).split(8)] * 2:
        with torch.autocast("cpu", dtype):
            outputs = net(X[rows])
        optimizer.zero_grad()
        F.mse_loss(outputs.float(), Y[rows]).backward()
        optimizer.step()
    with torch.no_grad(), torch.autocast("cpu", dtype):
        outputs = net(X).float()
    return F.mse_loss(outputs, Y).item(), outputs


@pytest.mark.parametrize("kind", [_OwnSteps, _OwnForward])
@pytest.mark.parametrize(("policy", "dtype"), [("mixed_bfloat16", torch.bfloat16), ("mixed_float16", torch.float16)])
def test_steps_that_call_the_model_compute_as_under_autocast(kind, policy, dtype):
    net = _make_net()
    by_hand = copy.deepcopy(net)
    loss, outputs = _trained_by_hand(by_hand, dtype)
    model = kind(net, dtype_policy=policy)
    model.compile(optimizers.SGD(0.1), "mse")
    history = model.fit(X, Y, batch_size=8, epochs=2, shuffle=False, verbose=0).history
    assert history["bits"] == [16.0, 16.0]
    for parameter, other in zip(net.parameters(), by_hand.parameters()):
        torch.testing.assert_close(parameter, other, rtol=1e-5, atol=1e-6)
    assert model.evaluate(X, Y, batch_size=24, verbose=0) == pytest.approx(loss, rel=1e-4)
    np.testing.assert_array_equal(model.predict(X, batch_size=24), outputs)
    np.testing.assert_array_equal(model.predict_on_batch(X), outputs)


@pytest.mark.parametrize("policy", [None, "float32", "mixed_bfloat16", "bfloat16"])
def test_a_call_of_a_model_returns_what_predict_does(policy):
    net = _make_net()
    model = Model(net, dtype_policy=policy)
    with torch.no_grad():
        direct = model(X.numpy())
    assert direct.dtype == (torch.float32 if policy in (None, "float32") else torch.bfloat16)
    np.testing.assert_array_equal(direct.float(), model.predict(X, batch_size=24))


def test_a_call_of_the_module_is_not_under_the_policy():
    net = _make_net()
    model = Model(net, dtype_policy="mixed_bfloat16")
    assert (net(X).dtype, model.module(X).dtype) == (torch.float32, torch.float32)


def test_a_model_within_another_keeps_its_policy():
    inner = Model(_make_net(), dtype_policy="mixed_bfloat16")
    outer = Model(nn.Sequential(inner))
    np.testing.assert_array_equal(outer.predict(X, batch_size=24), inner.predict(X, batch_size=24))


def test_an_overridden_compute_loss_calls_the_model_under_the_policy():
    dtypes = []

    class Consistent(Model):
        def compute_loss(self, x, y, y_pred, sample_weight=None):
            again = self(x)
            dtypes.append((y_pred.dtype, again.dtype))
            return super().compute_loss(x, y, y_pred, sample_weight) + (again - y_pred).float().square().mean()

    model = Consistent(_make_net(), dtype_policy="mixed_bfloat16")
    model.compile("sgd", "mse")
    model.train_on_batch(X, Y)
    assert dtypes == [(torch.bfloat16, torch.bfloat16)]
