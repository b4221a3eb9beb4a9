"""Which modules are in evaluation mode when, compared with loops that call `eval()` and `train()` by hand."""

import copy
import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchfit import Model, losses, optimizers

_RANDOM = torch.Generator().manual_seed(0)
X, Y = torch.randn(24, 5, generator=_RANDOM), torch.randn(24, 2, generator=_RANDOM)
X_HELD, Y_HELD = X + 100, Y - 1


class _Criterion(nn.Module):
    """A loss with everything that depends on the mode."""

    def __init__(self):
        super().__init__()
        self.norm, self.dropout = nn.BatchNorm1d(2), nn.Dropout(0.5)
        self.register_buffer("num_batches", torch.zeros(()))
        self.register_buffer("center", torch.zeros(2))

    def forward(self, outputs, targets):
        if self.training:
            self.num_batches.add_(1)
            self.center.lerp_(targets.mean(0), 0.1)
        return F.mse_loss(self.dropout(self.norm(outputs)) - self.center, targets)


class _Own(losses.Loss):
    """A loss of torchfit with such a module in an attribute."""

    def __init__(self, criterion):
        super().__init__()
        self.criterion = criterion

    def call(self, y_true, y_pred):
        return self.criterion(y_pred, y_true)


def _make(seed=0):
    torch.manual_seed(seed)
    return nn.Linear(5, 2), _Criterion()


def _trained_by_hand(net, criterion, epochs):
    """Train with a validation after each epoch, and return the losses of the validations."""
    optimizer = torch.optim.SGD([*net.parameters(), *criterion.parameters()], 0.1)
    validations = []
    for _ in range(epochs):
        net.train()
        criterion.train()
        for rows in torch.arange(24).split(8):
            optimizer.zero_grad()
            criterion(net(X[rows]), Y[rows]).backward()
            optimizer.step()
        net.eval()
        criterion.eval()
        with torch.no_grad():
            validations.append(criterion(net(X_HELD), Y_HELD).item())
    return validations


def _assert_same_state(one, other):
    for name, value in other.state_dict().items():
        torch.testing.assert_close(one.state_dict()[name], value, msg=name)


@pytest.mark.parametrize("wrap", [lambda loss: loss, _Own, lambda loss: losses.OverOutputs(_over_outputs(loss))])
def test_the_modules_of_a_loss_are_in_evaluation_mode_in_validation(wrap):
    (net, criterion), (by_hand, by_hand_criterion) = _make(), _make()
    torch.manual_seed(1)
    expected = _trained_by_hand(by_hand, by_hand_criterion, epochs=2)
    model = Model(net)
    model.compile(optimizers.SGD(0.1), wrap(criterion))
    torch.manual_seed(1)
    held = X_HELD, Y_HELD
    history = model.fit(X, Y, 8, 2, 0, validation_data=held, validation_batch_size=24, shuffle=False)
    assert history.history["val_loss"] == pytest.approx(expected, rel=1e-5)
    assert criterion.training
    _assert_same_state(net, by_hand)
    _assert_same_state(criterion, by_hand_criterion)


def _over_outputs(criterion):
    return functools.partial(_call_swapped, criterion=criterion)


def _call_swapped(targets, outputs, criterion):
    return criterion(outputs, targets)


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("jit", [False, True])
def test_an_evaluation_does_not_depend_on_the_mode_of_the_loss_and_leaves_it(mode, jit):
    net, criterion = _make()
    before = copy.deepcopy(criterion).eval()
    expected = before(net(X), Y).item()
    criterion.train(mode)
    criterion.norm.eval()
    model = Model(net)
    model.compile("sgd", criterion, jit_compile=jit)
    assert model.test_on_batch(X, Y) == pytest.approx(expected, rel=1e-5)
    assert model.evaluate(X, Y, batch_size=24, verbose=0) == pytest.approx(expected, rel=1e-5)
    _assert_same_state(criterion, before)
    assert (criterion.training, criterion.norm.training, criterion.dropout.training) == (mode, False, mode)


def test_a_loss_in_evaluation_mode_stays_there_in_training():
    pretrained = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).requires_grad_(False).eval()

    class Perceptual(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = pretrained

        def forward(self, outputs, targets):
            return F.mse_loss(self.features(outputs), self.features(targets))

    loss, (net, _) = Perceptual(), _make()
    before, expected = copy.deepcopy(loss.state_dict()), loss(net(X), Y).item()
    model = Model(net)
    model.compile("sgd", loss)
    assert model.fit(X, Y, batch_size=24, validation_data=(X, Y), verbose=0).history["loss"] == [
        pytest.approx(expected, rel=1e-5)
    ]
    assert (loss.training, pretrained.training, pretrained[1].training) == (True, False, False)
    for name, value in before.items():
        assert torch.equal(value, loss.state_dict()[name])


_GLOBAL = nn.BatchNorm1d(2)


def _uses_global(outputs):
    return _GLOBAL(outputs).square().mean()


def _added_losses():
    closure, default = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    module = nn.Sequential(nn.BatchNorm1d(2), nn.Softplus(), nn.Flatten(0))
    given = nn.BatchNorm1d(2)
    return {
        "global": (_GLOBAL, _uses_global),
        "closure": (closure, lambda outputs: closure(outputs).square().mean()),
        "default": (default, lambda outputs, norm=default: norm(outputs).square().mean()),
        "partial": (given, functools.partial(lambda outputs, norm: norm(outputs).square().mean(), norm=given)),
        "module": (module[0], module),
    }


@pytest.mark.parametrize("kind", _added_losses())
def test_modules_of_added_losses_and_metrics_are_in_evaluation_mode_in_evaluations(kind):
    norm, function = _added_losses()[kind]
    model = Model(nn.Linear(5, 2))
    model.add_loss(function, on="")
    model.compile("sgd")
    norm.reset_running_stats()
    model.evaluate(X, batch_size=8, verbose=0)
    model.test_on_batch(X)
    assert (norm.num_batches_tracked.item(), norm.training) == (0, True)
    model.fit(X, validation_data=(X,), batch_size=8, epochs=2, verbose=0)
    assert (norm.num_batches_tracked.item(), norm.training) == (6, True)
    late = nn.BatchNorm1d(2)
    model.add_metric(lambda outputs: late(outputs).mean(), name="late", on="")
    model.evaluate(X, batch_size=8, verbose=0)
    assert late.num_batches_tracked.item() == 0


def test_a_module_that_a_loss_function_uses_is_in_evaluation_mode_in_evaluations():
    norm = nn.BatchNorm1d(2, affine=False)
    model = Model(nn.Linear(5, 2))
    model.compile("sgd", lambda y_true, y_pred: (norm(y_pred) - y_true).square().mean(-1))
    model.fit(X, Y, batch_size=8, validation_data=(X_HELD, Y_HELD), verbose=0)
    assert norm.num_batches_tracked.item() == 3


class _KeepsNorm(nn.Module):
    """A module whose statistics stay as they are, by a `train` of its own."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(2)

    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, outputs, targets):
        return F.mse_loss(self.norm(outputs), targets)


def test_a_loss_with_a_mode_of_its_own():
    criterion = _KeepsNorm().train()
    model = Model(nn.Linear(5, 2))
    model.compile("sgd", criterion)
    model.fit(X, Y, validation_data=(X, Y), verbose=0)
    model.evaluate(X, Y, verbose=0)
    assert (criterion.training, criterion.norm.training) == (True, False)
    assert criterion.norm.num_batches_tracked.item() == 0


def test_a_model_with_a_mode_of_its_own():
    class Mine(Model):
        def __init__(self):
            super().__init__()
            self.norm, self.layer = nn.BatchNorm1d(5), nn.Linear(5, 2)

        def train(self, mode=True):
            super().train(mode)
            self.norm.eval()
            return self

        def forward(self, x):
            return self.layer(self.norm(x))

    model = Mine()
    model.compile("sgd", "mse")
    model.fit(X, Y, verbose=0)
    assert model.norm.num_batches_tracked.item() == 0
    np.testing.assert_array_equal(model.norm.running_mean, np.zeros(5))
