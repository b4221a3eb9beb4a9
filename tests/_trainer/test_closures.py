"""Optimizers that evaluate the loss themselves are trained as in the loops of their documentation."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import torchfit
from tests.support import Interrupt, InterruptedHereError
from torchfit import callbacks
from torchfit.models import load_model
from torchfit.optimizers import TorchOptimizer

X = torch.randn(32, 5, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)


class SharpnessAware(torch.optim.Optimizer):
    """Moves uphill along the gradients that are there, evaluates the loss, and lets another optimizer step."""

    def __init__(self, params, base, rho=0.05, **options):
        super().__init__(params, {"rho": rho, **options})
        self.base = base(self.param_groups, **options)
        self.param_groups = self.base.param_groups

    def _trained(self):
        return [p for group in self.param_groups for p in group["params"] if p.grad is not None]

    def _ascend(self):
        for p in self._trained():
            self.state[p]["before"] = p.detach().clone()
            p.data.add_(0.05 * p.grad.sign())
            p.grad = None

    def _descend(self):
        for p in self._trained():
            p.data.copy_(self.state[p]["before"])
        self.base.step()

    @torch.no_grad()
    def step(self, closure=None):
        assert closure is not None
        self._ascend()
        torch.enable_grad()(closure)()
        self._descend()


class SharpnessAwareWithRequiredClosure(SharpnessAware):
    def step(self, closure):
        super().step(closure)


class SharpnessAwareFromTheStart(SharpnessAware):
    """Evaluates the loss before it moves as well."""

    def step(self, closure):
        closure()
        super().step(closure)


class Plain(torch.optim.Optimizer):
    """Takes a closure as all optimizers of torch do, and has no need of one."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None if closure is None else torch.enable_grad()(closure)()
        for p in self.param_groups[0]["params"]:
            p.data.sub_(self.param_groups[0]["lr"] * p.grad)
        return loss


def sharpness_aware(kind):
    return lambda parameters: kind(parameters, torch.optim.SGD, lr=0.1, momentum=0.9)


MAKE = {
    "SharpnessAware": sharpness_aware(SharpnessAware),
    "required closure": sharpness_aware(SharpnessAwareWithRequiredClosure),
    "from the start": sharpness_aware(SharpnessAwareFromTheStart),
    "Plain": Plain,
    "LBFGS": lambda parameters: torch.optim.LBFGS(parameters, lr=0.1, max_iter=3),
}
EVALUATED_BEFORE = ("SharpnessAware", "required closure")
each_optimizer = pytest.mark.parametrize("name", MAKE)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 1))


def compiled(name, **options):
    model = torchfit.Model(network(), device="cpu")
    model.compile(MAKE[name](model.module.parameters()), "mse", **options)
    return model


def fit(model, epochs=2, seed=1, **options):
    torch.manual_seed(seed)
    return model.fit(X, Y, batch_size=8, epochs=epochs, shuffle=False, verbose=0, **options)


def assert_same(model, other):
    torch.testing.assert_close(model.state_dict(), other.state_dict(), rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:.*torch.optim optimizer is not part of a graph")
@pytest.mark.parametrize("options", [{}, {"steps_per_execution": 2}], ids=str)
@each_optimizer
def test_training_is_that_of_the_loop(name, options):
    model, twin = compiled(name, **options), network()
    history = fit(model).history["loss"]
    optimizer, losses = MAKE[name](twin.parameters()), []
    torch.manual_seed(1)
    for x, y in zip(X.split(8) * 2, Y.split(8) * 2):
        evaluated = []

        def closure(x=x, y=y, evaluated=evaluated):
            optimizer.zero_grad()
            loss = F.mse_loss(twin(x), y)
            loss.backward()
            evaluated.append(loss.item())
            return loss

        if name in EVALUATED_BEFORE:
            closure()
        optimizer.step(closure)
        losses.append(evaluated[0])
    assert_same(model, twin)
    assert history == pytest.approx([sum(losses[:4]) / 4, sum(losses[4:]) / 4])


def test_a_first_gradient_of_zero_tells_nothing():
    weight, twin = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(()))
    optimizer, by_hand = TorchOptimizer(MAKE["SharpnessAware"]([weight])), MAKE["SharpnessAware"]([twin])
    for x in (0.0, 1.0, 2.0):

        def closure(parameter, x=x):
            parameter.grad = None
            loss = (parameter * x).square()
            loss.backward()
            return loss

        optimizer.step(closure=partial(closure, weight))
        closure(twin)
        by_hand.step(partial(closure, twin))
        assert weight.item() == twin.item()


@each_optimizer
def test_a_copy_and_a_loaded_model_go_on(name, tmp_path):
    model = compiled(name)
    fit(model)
    if name in ("Plain", "LBFGS"):
        model.save(tmp_path / "model")
    else:
        with pytest.warns(UserWarning, match=r"its constructor needs \['base'\].*module="):
            model.save(tmp_path / "model")
    others = [copy.deepcopy(model), load_model(tmp_path / "model", module=compiled(name))]
    fit(model, seed=2)
    for other in others:
        fit(other, seed=2)
        assert_same(other, model)


@each_optimizer
def test_an_interrupted_run_is_resumed(name, tmp_path):
    whole, first, second = (compiled(name) for _ in range(3))
    fit(whole, 4)
    backup = callbacks.BackupAndRestore(tmp_path)
    with pytest.raises(InterruptedHereError):
        fit(first, 4, callbacks=[backup, Interrupt(2)])
    fit(second, 4, callbacks=[backup])
    assert_same(second, whole)


def test_groups_that_an_inner_optimizer_shares_stay_shared_when_a_state_is_loaded(tmp_path):
    model, other = compiled("SharpnessAware"), compiled("SharpnessAware")
    fit(model)
    other.optimizer.load_state_dict(copy.deepcopy(model.optimizer.state_dict()))
    other.optimizer.learning_rate = 0.01
    assert [group["lr"] for group in other.optimizer.optimizer.base.param_groups] == [pytest.approx(0.01)]


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("LBFGS", ValueError, "`microbatch` splits the batches, but this optimizer evaluates"),
        ("required closure", ValueError, "`microbatch` splits the batches, but this optimizer evaluates"),
        ("SharpnessAware", ValueError, "`microbatch` splits the batches, but this optimizer evaluates"),
    ],
)
def test_batches_in_parts_are_refused(name, error, text):
    with pytest.raises(error, match=text):
        fit(compiled(name, microbatch=4))


def test_batches_in_parts_go_with_an_optimizer_that_has_no_need_of_a_closure():
    model = compiled("Plain", microbatch=4)
    before = model.get_weights()[0]
    fit(model)
    assert (model.get_weights()[0] != before).any()


def test_what_is_unfrozen_beside_lbfgs_is_told_of():
    model = torchfit.Model(network(), device="cpu")
    model.module[0].requires_grad_(False)
    model.compile(torch.optim.LBFGS, "mse")
    fit(model)
    model.module[0].requires_grad_(True)
    with pytest.warns(
        UserWarning, match=r"\['0.weight', '0.bias'\] are trainable.*train them\. Compile the model again"
    ):
        fit(model)
