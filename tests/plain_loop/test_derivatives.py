"""Modules and losses that compute derivatives, as physics-informed ones do, compared with loops by hand."""

import contextlib
import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchfit import Model, optimizers

X, Y = torch.linspace(0, 1, 20)[:, None], torch.linspace(-1, 1, 40).reshape(20, 2)


class _WithDerivative(nn.Module):
    """Returns a function of its input and the derivative."""

    def __init__(self, enabled=contextlib.nullcontext):
        super().__init__()
        torch.manual_seed(0)
        self.net, self.enabled = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)), enabled

    def forward(self, x):
        with self.enabled():
            x = x.detach().requires_grad_()
            y = self.net(x)
            (derivative,) = torch.autograd.grad(y.sum(), x, create_graph=True)
            return torch.cat([y, derivative], 1)


def _compiled(net):
    model = Model(net)
    model.compile(optimizers.SGD(0.1), "mse")
    return model


def test_derivatives_in_forward():
    net = _WithDerivative(torch.enable_grad)
    by_hand = copy.deepcopy(net)
    optimizer = torch.optim.SGD(by_hand.parameters(), 0.1)
    for rows in torch.arange(20).split(5):
        optimizer.zero_grad()
        F.mse_loss(by_hand(X[rows]), Y[rows]).backward()
        optimizer.step()
    expected = by_hand(X).detach()
    model = _compiled(net)
    history = model.fit(X, Y, batch_size=5, shuffle=False, validation_data=(X, Y), verbose=0).history
    assert history["val_loss"] == [pytest.approx(F.mse_loss(expected, Y).item(), rel=1e-5)]
    np.testing.assert_allclose(model.predict(X), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.predict_on_batch(X), expected, rtol=1e-5, atol=1e-6)


class _OwnTestStep(Model):
    def test_step(self, batch):
        x, y = batch
        loss = self.compute_loss(x, y, self(x.clone().requires_grad_()))
        loss.backward()
        return {"loss": loss}


CALLS = {
    "evaluate": lambda net: _compiled(net).evaluate(X, Y, verbose=0),
    "validation": lambda net: _compiled(net).fit(X, Y, validation_data=(X, Y), verbose=0),
    "test_on_batch": lambda net: _compiled(net).test_on_batch(X, Y),
    "predict": lambda net: _compiled(net).predict(X),
    "predict_on_batch": lambda net: _compiled(net).predict_on_batch(X),
    "predict_iter": lambda net: next(_compiled(net).predict_iter(X)),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_derivatives_without_gradients_are_refused_with_the_way_out(call):
    with pytest.raises(ValueError, match=r"Gradients are off in validation.*torch\.enable_grad"):
        call(_WithDerivative())


def test_derivatives_in_a_step_of_evaluation():
    model = _OwnTestStep(nn.Linear(1, 2))
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"Gradients are off in validation.*torch\.enable_grad"):
        model.evaluate(X, Y, verbose=0)


def test_a_loss_without_gradients_in_training_is_still_one_that_depends_on_no_parameter():
    class Detached(nn.Linear):
        def forward(self, x):
            return super().forward(x).detach()

    with pytest.raises(ValueError, match="depends on no trainable parameter"):
        _compiled(Detached(1, 2)).fit(X, Y, verbose=0)
