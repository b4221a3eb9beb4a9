"""Compiled steps (`jit_compile=True`) change how fast a training runs, and never what it does, nor whether it ends."""

import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import torchfit
from torchfit import callbacks, losses, optimizers

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # torch's compiler uses what torch deprecates

X = torch.tensor(np.random.default_rng(0).normal(size=(64, 4)).astype("float32"))
Y = X.sum(1, keepdim=True)


@pytest.fixture(autouse=True)
def _forget_graphs():
    torch._dynamo.reset()


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.0), nn.Linear(8, 1))


def compiled(net, optimizer=None, loss="mse", jit_compile=True, **options):
    model = torchfit.Model(net, device="cpu")
    model.compile(optimizer or optimizers.SGD(0.01), loss, jit_compile=jit_compile, **options)
    return model


def fit(model, epochs=1, **options):
    return model.fit(X, Y, batch_size=16, epochs=epochs, shuffle=False, verbose=0, **options)


def assert_compiled_is_plain(train, tolerance=1e-5):
    """`train(jit_compile)` gives the same history and weights in both ways."""
    (plain, history), (quick, found) = train(False), train(True)
    for name in history:
        assert found[name] == pytest.approx(history[name], abs=tolerance)
    for one, other in zip(plain.parameters(), quick.parameters()):
        assert torch.allclose(one, other, atol=tolerance)


def in_a_process(code):
    """Run code that might end the whole process."""
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-2000:]


SETUP = """
    import copy
    import numpy as np, torch, torchfit
    from torch import nn
    torch.manual_seed(0)
    x = torch.randn(64, 4)
    y = x.sum(1, keepdim=True)
    model = torchfit.Model(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)), device="cpu")
    model.compile(torchfit.optimizers.SGD(0.05), "mse", jit_compile=True)
    fit = lambda model: model.fit(x, y, batch_size=16, shuffle=False, verbose=0)
    weights = lambda model: [parameter.detach().clone() for parameter in model.module.parameters()]
    same = lambda one, other: all(torch.equal(a, b) for a, b in zip(one, other))
    fit(model)
"""


# -- copies ------------------------------------------------------------------------------------------------------------


def test_training_a_copy_trains_the_copy_and_leaves_the_original():
    in_a_process(
        SETUP
        + """
    twin, before = copy.deepcopy(model), weights(model)
    fit(twin)
    assert same(weights(model), before)
    assert not same(weights(twin), before)
    fit(model)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(weights(model), weights(twin)))
    """
    )


def test_a_copy_predicts_and_evaluates_with_its_own_weights():
    in_a_process(
        SETUP
        + """
    model.predict(x), model.evaluate(x, y, verbose=0)
    twin = copy.deepcopy(model)
    fit(model)
    outputs = twin.module(x).detach()
    assert np.allclose(twin.predict(x), outputs, atol=1e-5)
    assert abs(twin.evaluate(x, y, verbose=0) - ((outputs - y) ** 2).mean().item()) < 1e-5
    """
    )


def test_finding_a_rate_leaves_a_trained_model_as_it_is():
    in_a_process(
        SETUP
        + """
    model = torchfit.Model(nn.Linear(4, 1), device="cpu")
    model.compile(torchfit.optimizers.SGD(0.01), "mse", jit_compile=True)
    model.fit(x, y, batch_size=16, epochs=2, verbose=0)
    before = weights(model)
    torchfit.utils.lr_find(model, x, y, batch_size=16, steps=30)
    assert same(weights(model), before)
    """
    )


def test_a_trained_model_can_be_pickled():
    model = compiled(network())
    fit(model)
    twin = pickle.loads(pickle.dumps(model))
    assert np.array_equal(twin.predict(X), model.predict(X))


# -- what cannot be recompiled runs eagerly ---------------------------------------------------------------------------


@pytest.mark.parametrize("between_fits", [True, False])
def test_a_training_goes_on_when_a_layer_is_frozen(between_fits):
    def train(jit_compile):
        net = network()
        model = compiled(net, jit_compile=jit_compile)
        freeze = lambda: net[0].requires_grad_(False)  # noqa: E731
        if between_fits:
            fit(model)
            freeze()
            return net, fit(model).history
        callback = callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: freeze() if epoch == 1 else None)
        return net, fit(model, epochs=3, callbacks=[callback]).history

    assert_compiled_is_plain(train)


def test_a_training_goes_on_when_the_module_begins_to_look_at_its_values():
    class Probes(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.linear, self.probes = nn.Linear(4, 1), False

        def forward(self, x):
            y = self.linear(x)
            return y * 0 if self.probes and y.mean().item() > 1e9 else y

    def train(jit_compile):
        net = Probes()
        callback = callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: setattr(net, "probes", epoch >= 1))
        return net, fit(compiled(net, jit_compile=jit_compile), epochs=3, callbacks=[callback]).history

    assert_compiled_is_plain(train)


class Annealed(losses.Loss):
    """A loss with a term that grows."""

    def __init__(self):
        super().__init__()
        self.factor = 0.0

    def call(self, y_true, y_pred):
        return (y_true - y_pred).square().mean(-1) + self.factor * y_pred.abs().mean(-1)


def test_a_training_goes_on_when_a_number_changes_with_every_epoch():
    def train(jit_compile):
        net, loss = network(), Annealed()
        callback = callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: setattr(loss, "factor", epoch / 10))
        return net, fit(compiled(net, None, loss, jit_compile), epochs=10, callbacks=[callback]).history

    assert_compiled_is_plain(train)


def test_a_training_goes_on_when_a_callback_compiles_the_model():
    def train(jit_compile):
        class Compile(callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                if epoch == 1:
                    self.model.compile(optimizers.SGD(0.001), "mae", jit_compile=jit_compile)

        net = network()
        return net, fit(compiled(net, jit_compile=jit_compile), epochs=3, callbacks=[Compile()]).history

    assert_compiled_is_plain(train)


class Slope(nn.Module):
    """Returns the derivative of a network, as physics-informed networks do."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1, bias=False))

    def forward(self, x):
        with torch.enable_grad():
            x = x.requires_grad_()
            return torch.autograd.grad(self.net(x).sum(), x, create_graph=True)[0].sum(1, keepdim=True)


def test_a_training_goes_on_when_the_module_differentiates_itself():
    def train(jit_compile):
        net = Slope()
        return net, fit(compiled(net, jit_compile=jit_compile), epochs=2).history

    assert_compiled_is_plain(train)


# -- what callbacks change is seen at once -----------------------------------------------------------------------------


def set_decay(model, value):
    model.optimizer.weight_decay = value


def set_dropout(model, value):
    model.module[1].p = value


@pytest.mark.parametrize("change", [set_decay, set_dropout], ids=["weight decay", "dropout"])
def test_a_change_at_the_beginning_of_a_batch_takes_effect_with_that_batch(change):
    class Change(callbacks.Callback):
        batches = 0

        def on_train_batch_begin(self, batch, logs=None):
            self.batches += 1
            if self.batches == 7:  # the third batch of the second epoch
                change(self.model, 0.5)

    def train(jit_compile):
        net = network()
        torch.manual_seed(1)
        return net, fit(compiled(net, jit_compile=jit_compile), epochs=2, callbacks=[Change()]).history

    assert_compiled_is_plain(train)


# -- the same numbers --------------------------------------------------------------------------------------------------


def test_gradients_that_were_there_before_a_compiled_training_do_not_count():
    net, twin = network(), network()
    net(X).sum().backward()
    fit(compiled(net))
    optimizer = torch.optim.SGD(twin.parameters(), 0.01)
    for x, y in zip(X.split(16), Y.split(16)):
        optimizer.zero_grad()
        F.mse_loss(twin(x), y).backward()
        optimizer.step()
    for one, other in zip(net.parameters(), twin.parameters()):
        assert torch.allclose(one, other, atol=1e-5)


def test_a_compiled_epoch_is_the_mean_over_the_labels_that_are_not_ignored():
    net = nn.Linear(4, 3)
    labels = torch.where(torch.arange(64) < 20, -100, torch.arange(64) % 3)
    model = compiled(net, optimizers.SGD(0.0), nn.CrossEntropyLoss())
    history = model.fit(X, labels, batch_size=30, shuffle=False, epochs=2, verbose=0).history
    right = F.cross_entropy(net(X), labels).item()
    assert history["loss"] == pytest.approx([right, right], rel=1e-5)


# -- hooks -------------------------------------------------------------------------------------------------------------


def clamp(gradient):
    return gradient.clamp(-1e-3, 1e-3)


def store(parameter):
    parameter.grad.clamp_(-1e-3, 1e-3)


GRADIENT_HOOKS = {
    "register_hook": lambda parameter: parameter.register_hook(clamp),
    "register_post_accumulate_grad_hook": lambda parameter: parameter.register_post_accumulate_grad_hook(store),
}


def trained_by_hand(net, epochs, hooked_from, register):
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    for epoch in range(epochs):
        if epoch == hooked_from:
            register(net)
        for x, y in zip(X.split(16), Y.split(16)):
            optimizer.zero_grad()
            F.mse_loss(net(x), y).backward()
            optimizer.step()
    return net


@pytest.mark.parametrize("hook", GRADIENT_HOOKS)
@pytest.mark.parametrize("hooked_from", [0, 1])
@pytest.mark.parametrize("is_of_torch", [False, True])
def test_hooks_for_gradients_are_called(hook, hooked_from, is_of_torch):
    def register(net):
        for parameter in net.parameters():
            GRADIENT_HOOKS[hook](parameter)

    right, net = trained_by_hand(network(), 3, hooked_from, register), network()
    if not hooked_from:
        register(net)
    model = compiled(net, torch.optim.SGD(net.parameters(), 0.01) if is_of_torch else optimizers.SGD(0.01))
    later = callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: epoch == hooked_from and register(net))
    fit(model, 3, callbacks=[later] if hooked_from else [])
    for one, other in zip(net.parameters(), right.parameters()):
        assert torch.allclose(one, other, atol=1e-6)


HOOKS = {
    "forward": lambda layer: layer.register_forward_hook(lambda _, inputs, outputs: outputs * 1.5),
    "forward_pre": lambda layer: layer.register_forward_pre_hook(lambda _, inputs: (inputs[0] * 1.5,)),
    "full_backward_pre": lambda layer: layer.register_full_backward_pre_hook(lambda _, outputs: (outputs[0] * 0.5,)),
}


@pytest.mark.parametrize("layer", ["", "0", "2"])
@pytest.mark.parametrize("hook", HOOKS)
def test_hooks_of_modules_that_come_later_are_called(hook, layer):
    def register(net):
        HOOKS[hook](net.get_submodule(layer))

    right, net = trained_by_hand(network(), 3, 2, register), network()
    model = compiled(net, optimizers.SGD(0.01))
    fit(model, 2)
    for _ in range(2):
        before = model.predict(X, batch_size=15)
        model.evaluate(X, Y, batch_size=15, verbose=0)
    register(net)
    after, expected = model.predict(X, batch_size=15), net(X).detach()
    assert np.allclose(after, expected, atol=1e-6)
    assert np.allclose(after, before) == (hook == "full_backward_pre")
    assert model.evaluate(X, Y, batch_size=15, verbose=0) == pytest.approx(F.mse_loss(expected, Y).item(), rel=1e-5)
    fit(model)
    for one, other in zip(net.parameters(), right.parameters()):
        assert torch.allclose(one, other, atol=1e-6)
