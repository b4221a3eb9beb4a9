"""What a subclass of an optimizer overrides is part of every update, or refused."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import torchfit
from torchfit import optimizers

X = torch.tensor(np.random.default_rng(0).normal(size=(22, 5)).astype("float32"))
Y = X.sum(1, keepdim=True)
FORMS: dict[str, Any] = {
    "eager": {},
    "compiled": {"jit_compile": True},
    "microbatches": {"microbatch": 3},
}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))


def trained(optimizer, **options):
    model = torchfit.Model(network(), device="cpu")
    model.compile(optimizer, "mse", **options)
    model.fit(X, Y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    return model.module


def looped(change, window=1):
    """The loop of PyTorch's tutorials, with changed gradients; those of a window of batches are averaged."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for _ in range(2):
        batches = list(zip(X.split(8), Y.split(8)))
        for start in range(0, len(batches), window):
            part = batches[start : start + window]
            sums = [torch.zeros_like(parameter) for parameter in net.parameters()]
            for x, y in part:
                optimizer.zero_grad()
                F.mse_loss(net(x), y).backward()
                for total, parameter in zip(sums, net.parameters()):
                    total += change(parameter.grad) * len(x) / sum(len(each) for each, _ in part)
            for total, parameter in zip(sums, net.parameters()):
                parameter.grad = total
            optimizer.step()
    return net


def assert_same(net, other):
    for one, two in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-5)


def centralized(gradient):
    return gradient - gradient.mean()


class Applies(optimizers.SGD):
    """As in Keras."""

    def apply(self, grads, trainable_variables=None):
        super().apply([centralized(gradient) for gradient in grads], trainable_variables)


class AppliesPairs(optimizers.SGD):
    """As in Keras 2."""

    def apply_gradients(self, grads_and_vars):
        return super().apply_gradients([(centralized(gradient), variable) for gradient, variable in grads_and_vars])


class Steps(optimizers.SGD):
    """As in torch."""

    def step(self, *arguments, **options):
        for parameter in self.parameters:
            parameter.grad = centralized(parameter.grad)
        return super().step(*arguments, **options)


class StepsInApply(optimizers.SGD):
    def apply(self, grads, trainable_variables=None):
        for parameter, gradient in zip(trainable_variables, grads):
            parameter.grad = centralized(gradient)
        self.step()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", [Applies, AppliesPairs, Steps, StepsInApply])
def test_changed_gradients_make_the_update(kind, form):
    assert_same(trained(kind(0.1), **FORMS[form]), looped(centralized))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", [Applies, AppliesPairs, Steps])
def test_the_changed_gradients_of_each_batch_are_accumulated(kind, form):
    net = trained(kind(0.1, gradient_accumulation_steps=3), **FORMS[form])
    assert_same(net, looped(centralized, window=3))


def test_a_method_of_the_object_counts_as_well():
    optimizer = optimizers.SGD(0.1)
    apply = optimizer.apply
    vars(optimizer)["apply"] = lambda grads, them: apply([centralized(gradient) for gradient in grads], them)
    assert_same(trained(optimizer), looped(centralized))


@pytest.mark.parametrize("steps", [None, 2])
@pytest.mark.parametrize("form", ["eager", "microbatches"])
def test_gradients_are_cleared_by_what_clears_them(steps, form):
    cleared = []

    class Clears(optimizers.SGD):
        def zero_grad(self):
            cleared.append(len(self.parameters))
            super().zero_grad()

    trained(Clears(0.1, gradient_accumulation_steps=steps), **FORMS[form])
    assert cleared == [4] * 6


def test_the_step_of_a_custom_train_step_calls_what_is_overridden():
    class Own(torchfit.Model):
        def train_step(self, batch):
            x, y = batch
            self.optimizer.zero_grad()
            loss = self.compute_loss(y=y, y_pred=self(x, training=True))
            loss.backward()
            self.optimizer.step()
            return {"loss": loss}

    model = Own(network(), device="cpu")
    model.compile(Applies(0.1), "mse")
    model.fit(X, Y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    assert_same(model.module, looped(centralized))


@pytest.mark.parametrize("kind", [Applies, AppliesPairs, Steps])
@pytest.mark.parametrize(
    "wrap",
    [optimizers.LossScaleOptimizer, lambda inner: optimizers.MultiOptimizer({".*": inner})],
    ids=["scale", "multi"],
)
def test_optimizers_that_call_the_update_of_others_refuse_what_they_do_not_call(kind, wrap):
    with pytest.raises(
        ValueError, match=rf"{kind.__name__} overrides `\w+`, which \w+ does not call. Override `update"
    ):
        wrap(kind(0.1))


def test_methods_that_are_never_called_are_refused():
    class OfKeras(optimizers.SGD):
        def update_step(self, gradient, variable, learning_rate):
            variable.sub_(gradient)

    class Adapted(optimizers.TorchOptimizer):
        def apply(self, grads, trainable_variables=None):
            super().apply(grads, trainable_variables)

    for optimizer, way_out in ((OfKeras(), r"`update_rule\("), (Adapted(torch.optim.SGD), r"`step\(")):
        with pytest.raises(ValueError, match=f"which is not called in training. Define {way_out}"):
            trained(optimizer)
