"""Training computes gradients wherever it is called, and only steps of evaluation and prediction compute none."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import torchfit
from torchfit import callbacks

X = torch.tensor(np.random.default_rng(0).normal(size=(24, 5)).astype("float32"))
Y = X[:, :2] * 2
HOOKS = [f"on_{mode}_{when}" for mode in ("test", "predict") for when in ("begin", "batch_begin", "batch_end", "end")]
MODES = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}


def make_model():
    torch.manual_seed(0)
    model = torchfit.Model(nn.Linear(5, 2), device="cpu")
    model.compile(torch.optim.SGD(model.module.parameters(), 0.1), "mse")
    return model


def trained_by_hand(batches):
    torch.manual_seed(0)
    net = nn.Linear(5, 2)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for x, y in batches:
        optimizer.zero_grad()
        F.mse_loss(net(x), y).backward()
        optimizer.step()
    return net


def assert_same(model, net):
    torch.testing.assert_close(model.state_dict(), net.state_dict(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("data", [lambda: (X, Y), lambda: (X.numpy(), Y.numpy())], ids=["tensors", "arrays"])
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_training_where_gradients_are_disabled(mode, data):
    model = make_model()
    with mode():
        model.fit(*data(), batch_size=8, shuffle=False, verbose=0, validation_data=(X, Y))
        model.train_on_batch(*data())
        assert not torch.is_grad_enabled()
        assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
    assert_same(model, trained_by_hand([*zip(X.split(8), Y.split(8)), (X, Y)]))


class TrainsAnother(callbacks.Callback):
    """Trains another model in one of the hooks, at the first call."""

    def __init__(self, hook, other):
        super().__init__()
        self.other, self.is_done = other, False
        setattr(self, hook, self.train)

    def train(self, *arguments):
        assert torch.is_grad_enabled()
        if not self.is_done:
            self.is_done = True
            self.other.train_on_batch(X, Y)
            loss = F.mse_loss(self.other.module(X), Y)  # as a loop does
            self.other.module.zero_grad()
            loss.backward()
            with torch.no_grad():
                for parameter in self.other.module.parameters():
                    parameter.sub_(0.1 * parameter.grad)


@pytest.mark.parametrize("hook", HOOKS)
def test_hooks_of_evaluation_and_prediction_may_train_another_model(hook):
    other, model, modes = make_model(), make_model(), []
    model.module.register_forward_hook(lambda *_: modes.append(torch.is_grad_enabled()))
    trains = TrainsAnother(hook, other)
    if "test" in hook:
        model.fit(X, Y, batch_size=8, verbose=0, validation_data=(X, Y), callbacks=[trains])
        assert modes == [True] * 3 + [False] * 3
    else:
        model.predict(X, batch_size=8, callbacks=[trains])
        assert modes == [False] * 3
    assert trains.is_done
    assert_same(other, trained_by_hand([(X, Y)] * 2))


@pytest.mark.parametrize("call", ["evaluate", "predict"])
def test_hooks_keep_the_mode_that_the_caller_has_chosen(call):
    model, modes = make_model(), []
    hooks = {hook: lambda *_: modes.append(torch.is_grad_enabled()) for hook in HOOKS}
    with torch.no_grad():
        getattr(model, call)(*((X, Y) if call == "evaluate" else (X,)), callbacks=[callbacks.LambdaCallback(**hooks)])
    assert modes == [False] * 4
