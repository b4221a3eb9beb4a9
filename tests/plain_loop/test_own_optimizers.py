"""Optimizers that users write train as in a loop, whatever their `step` does with the gradients and with a closure."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import torchfit
from torchfit import callbacks

X = torch.tensor(np.random.default_rng(0).normal(size=(23, 5)).astype("float32"))
Y = X[:, :2] * 2
STEPS = {"plain": {}, "grouped": {"steps_per_execution": 2}, "in parts": {"microbatch": 4}}
COMPILED = pytest.param(
    {"jit_compile": True}, id="compiled", marks=[pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
)
each_way = pytest.mark.parametrize("options", [*(pytest.param(way, id=name) for name, way in STEPS.items()), COMPILED])


@pytest.fixture(autouse=True)
def _forget_graphs():
    torch._dynamo.reset()


def network(dropout=0.0):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(5, 8), nn.BatchNorm1d(8) if dropout else nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 2)
    )


def fit(net, optimizer, **options):
    model = torchfit.Model(net, device="cpu")
    model.compile(optimizer, "mse", **options)
    torch.manual_seed(1)
    model.fit(X, Y, batch_size=8, epochs=3, shuffle=False, verbose=0)
    return model


def loop(net, step):
    """The loop of PyTorch's tutorials, in which `step` gets a function that evaluates the loss of the batch."""
    torch.manual_seed(1)
    for x, y in list(zip(X.split(8), Y.split(8))) * 3:

        def evaluate(x=x, y=y):
            net.zero_grad()
            loss = F.mse_loss(net(x), y)
            loss.backward()
            return loss

        step(evaluate)


def without_closure(optimizer):
    def step(evaluate):
        evaluate()
        optimizer.step()

    return step


def assert_same(net, twin, tolerance=1e-6):
    torch.testing.assert_close(net.state_dict(), twin.state_dict(), rtol=0, atol=tolerance)


def parameters_of(optimizer):
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


# -- those that a loop calls without a closure -------------------------------------------------------------------------


class Clips(torch.optim.SGD):
    def step(self, closure=None):
        nn.utils.clip_grad_norm_(parameters_of(self), 0.1)
        return super().step(closure)


class Centralizes(torch.optim.Adam):
    @torch.no_grad()
    def step(self, closure=None):
        for parameter in parameters_of(self):
            parameter.grad.sub_(parameter.grad.mean())
        return super().step(closure)


class DecaysFirst(torch.optim.SGD):
    def step(self, closure=None):
        with torch.no_grad():
            torch._foreach_mul_(parameters_of(self), 0.9)
        return super().step(closure)


class DecaysDataFirst(torch.optim.Adam):
    def step(self, closure=None):
        for parameter in parameters_of(self):
            parameter.data = parameter.data * 0.99
        return torch.optim.Adam.step(self, None if closure is None else torch.enable_grad()(closure))


class Masks(torch.optim.SGD):
    def step(self, closure=None):
        first, second, *_ = parameters_of(self)
        first.grad.zero_()
        second.grad = None
        return super().step(closure)


class PassesAll(torch.optim.SGD):
    def step(self, *arguments, **named):
        nn.utils.clip_grad_norm_(parameters_of(self), 0.1)
        return super().step(*arguments, **named)


class Named(torch.optim.SGD):
    def step(self, *, closure=None):
        return super().step(closure)


class Second(torch.optim.SGD):
    def step(self, scale=None, closure=None):
        assert scale is None
        return super().step(closure)


class Positional(torch.optim.SGD):
    def step(self, closure=None, /):
        return super().step(closure)


class Own(torch.optim.Optimizer):
    """A rule of its own, without a learning rate."""

    def __init__(self, parameters, size=0.1):
        super().__init__(parameters, {"size": size})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None if closure is None else torch.enable_grad()(closure)()
        for parameter in parameters_of(self):
            parameter.data.sub_(self.param_groups[0]["size"] * parameter.grad)
        return loss


class ClipsLater(Own):
    """The gradients of the first batches are below the limit."""

    def step(self, closure=None):
        nn.utils.clip_grad_norm_(parameters_of(self), 2.5)
        return super().step(closure)


class ClearsFirst(torch.optim.SGD):
    def step(self, closure=None):
        if closure is not None:
            self.zero_grad()
            closure()
        return super().step()


class Wraps(torch.optim.Optimizer):
    def __init__(self, parameters):
        self.inner = Clips(parameters, 0.1)
        super().__init__(self.inner.param_groups, {})

    def step(self, closure=None):
        return self.inner.step(closure)


WITHOUT = [Clips, Centralizes, DecaysFirst, DecaysDataFirst, Masks, PassesAll, Named, Second, Positional, Own]
WITHOUT += [ClipsLater, ClearsFirst, Wraps]


@each_way
@pytest.mark.parametrize("kind", WITHOUT)
def test_a_step_that_needs_no_closure_is_that_of_the_loop(kind, options):
    dropout = 0.0 if "microbatch" in options or "jit_compile" in options else 0.2
    net, twin = network(dropout), network(dropout)
    fit(net, kind(net.parameters()), **options)
    loop(twin, without_closure(kind(twin.parameters())))
    assert_same(net, twin)


# -- those that evaluate the loss themselves ---------------------------------------------------------------------------


class Sharp(torch.optim.SGD):
    """Sharpness-aware, and plain gradient descent without a closure."""

    first, every = 0, 1

    def __init__(self, parameters):
        super().__init__(parameters, 0.1)
        self.count = -1

    @torch.no_grad()
    def step(self, closure=None):
        self.count += 1
        if closure is None or self.count < self.first or self.count % self.every:
            return super().step(closure)
        moves = [(parameter, parameter.grad * 0.3) for parameter in parameters_of(self)]
        for parameter, move in moves:
            self.move(parameter, move)
        with torch.enable_grad():
            loss = closure()
        for parameter, move in moves:
            self.move(parameter, -move)
        super().step()
        return loss

    def move(self, parameter, by):
        parameter.add_(by)


class SharpData(Sharp):
    def move(self, parameter, by):
        parameter.data.add_(by)


class SharpLater(SharpData):
    first = 2


class SharpAtTimes(SharpData):
    every = 2


class WrapsSharp(torch.optim.Optimizer):
    def __init__(self, parameters):
        self.inner = Sharp(parameters)
        super().__init__(self.inner.param_groups, {})

    def step(self, closure=None):
        return self.inner.step(closure)


class OptionalLBFGS(torch.optim.LBFGS):
    def __init__(self, parameters):
        super().__init__(parameters, 0.1, max_iter=3)

    def step(self, closure=None):
        return super().step(closure)


class LBFGSOfAll(OptionalLBFGS):
    def step(self, *arguments, **named):
        return super().step(*arguments, **named)


WITH = [Sharp, SharpData, SharpLater, SharpAtTimes, WrapsSharp, OptionalLBFGS, LBFGSOfAll]


def with_closure(optimizer):
    """The loop of such an optimizer: LBFGS evaluates the loss itself at first."""

    def step(evaluate):
        if not isinstance(optimizer, torch.optim.LBFGS):
            evaluate()
        optimizer.step(evaluate)

    return step


@pytest.mark.parametrize("options", [{}, {"steps_per_execution": 2}, COMPILED])
@pytest.mark.parametrize("kind", WITH)
def test_a_step_that_evaluates_the_loss_again_is_that_of_the_loop(kind, options):
    net, twin = network(), network()
    fit(net, kind(net.parameters()), **options)
    loop(twin, with_closure(kind(twin.parameters())))
    assert_same(net, twin)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_that_such_a_step_is_not_compiled_is_said_once(caplog):
    net = network()
    fit(net, Sharp(net.parameters()), jit_compile=True)
    told = [record.getMessage() for record in caplog.records if "jit_compile" in record.getMessage()]
    assert told == ["jit_compile: the train step runs without a graph: the optimizer evaluates the loss itself"]


@pytest.mark.parametrize("kind", WITH)
def test_such_steps_are_refused_for_batches_in_parts(kind):
    net = network()
    with pytest.raises(ValueError, match="`microbatch` splits the batches, but this optimizer evaluates the loss"):
        fit(net, kind(net.parameters()), microbatch=4)


# -- an optimizer without a learning rate ------------------------------------------------------------------------------


def test_an_optimizer_without_a_learning_rate_is_saved_and_goes_on(tmp_path):
    net = network()
    model = fit(net, Own(net.parameters(), 0.05))
    model.save(tmp_path / "model")
    other = torchfit.models.load_model(tmp_path / "model", custom_objects={"Own": Own})
    weights = model.optimizer.get_weights()
    other.optimizer.set_weights(weights)
    assert (weights, model.optimizer.learning_rate, other.optimizer.learning_rate) == ([9], None, None)
    for each in (model, other):
        each.fit(X, Y, batch_size=8, shuffle=False, verbose=0)
    assert_same(net, other.module)


@pytest.mark.parametrize(
    "make", [callbacks.ModelCheckpoint, callbacks.BackupAndRestore, callbacks.TensorBoard, callbacks.CSVLogger]
)
def test_callbacks_that_need_no_learning_rate_work_without(make, tmp_path):
    net = network()
    model = fit(net, Own(net.parameters()))
    model.fit(X, Y, verbose=0, callbacks=[make(tmp_path / "file")])


@pytest.mark.parametrize(
    "callback",
    [
        callbacks.LearningRateMonitor(),
        callbacks.LearningRateScheduler(lambda epoch: 0.1),
        callbacks.ReduceLROnPlateau("loss"),
        callbacks.TorchLRScheduler(lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1)),
        callbacks.StochasticWeightAveraging(0, learning_rate=0.1),
        callbacks.FineTuning({1: {"0": 0.1}}),
    ],
    ids=lambda callback: type(callback).__name__,
)
def test_callbacks_that_need_a_learning_rate_refuse_before_the_first_epoch(callback):
    net = network()
    model = fit(net, Own(net.parameters()))
    expected = f"{type(callback).__name__}: Own has no learning rate: .*no option `lr`, but `size`.*Leave the callback"
    with pytest.raises(TypeError, match=expected):
        model.fit(X, Y, verbose=0, callbacks=[callback])
    assert model.optimizer.iterations == 9


def test_a_learning_rate_that_there_is_not_cannot_be_set():
    net = network()
    model = fit(net, Own(net.parameters()))
    with pytest.raises(ValueError, match=r"Own has no learning rate: .*\['size'\].*param_groups\[0\]\[name\] = value"):
        model.optimizer.learning_rate = 0.1
    with pytest.raises(ValueError, match="Own has no learning rate"):
        model.lr_find(X, Y, steps=3)
    model.optimizer.param_groups[0]["size"] = 0.0
    before = model.get_weights()
    model.fit(X, Y, verbose=0)
    np.testing.assert_array_equal(model.get_weights()[0], before[0])
