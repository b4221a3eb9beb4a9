"""A compiled training is the plain one: modules, optimizers and callbacks are drawn, and both are compared."""

import os
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import torchfit
from torchfit import Model, callbacks, losses, optimizers
from torchfit._execution.graph import traces_gradients

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not traces_gradients(), reason="this torch cannot put gradients into a graph"),
    pytest.mark.filterwarnings("ignore"),  # torch's compiler uses what torch deprecates
]
WIDTH = 6
EXAMPLES = int(os.environ.get("COMPILED_EXAMPLES", "12"))  # Set it to draw more; 100 take five minutes of one core.
X = torch.tensor(np.random.default_rng(0).normal(size=(52, WIDTH)).astype("float32"))
Y = X.sum(1, keepdim=True).tanh()


# -- parts of modules --------------------------------------------------------------------------------------------------


class Recurrent(nn.Linear):
    """Adds what it returned for the last batch, from a buffer that it changes in place."""

    def __init__(self):
        super().__init__(WIDTH, WIDTH)
        self.register_buffer("state", torch.zeros(WIDTH))

    def forward(self, x):
        outputs = super().forward(x) + 0.5 * self.state
        self.state.copy_(outputs.detach().mean(0))
        return outputs


class Remembers(nn.Linear):
    """The same with a new tensor every time, in an attribute."""

    def __init__(self):
        super().__init__(WIDTH, WIDTH)
        self.state = torch.zeros(WIDTH)

    def forward(self, x):
        outputs = super().forward(x) + 0.5 * self.state
        self.state = outputs.detach().mean(0)
        return outputs


class Tied(nn.Linear):
    """Multiplies by its weights twice."""

    def __init__(self):
        super().__init__(WIDTH, WIDTH, bias=False)

    def forward(self, x):
        return nn.functional.linear(super().forward(x).tanh(), self.weight.T)


class Adds(nn.Linear):
    """Adds a loss and a metric."""

    def __init__(self):
        super().__init__(WIDTH, WIDTH)

    def forward(self, x):
        outputs = super().forward(x)
        torchfit.add_loss(0.01 * outputs.square().mean())
        torchfit.add_metric(outputs.mean(), "level")
        return outputs


class Warms(nn.Linear):
    """Depends on a Python number that it counts in training."""

    steps = 0

    def __init__(self):
        super().__init__(WIDTH, WIDTH)

    def forward(self, x):
        self.steps += self.training
        return super().forward(x) * min(1.0, self.steps / 5)


class Looks(nn.Linear):
    """Branches on a value, which no graph can."""

    def __init__(self):
        super().__init__(WIDTH, WIDTH)

    def forward(self, x):
        outputs = super().forward(x)
        return outputs * 0 if outputs.mean().item() > 1e9 else outputs


def frozen():
    return nn.Linear(WIDTH, WIDTH).requires_grad_(False)


def normalized():
    return nn.Sequential(nn.Linear(WIDTH, WIDTH, bias=False), nn.BatchNorm1d(WIDTH))


def dropout():
    return nn.Dropout(0.3)


def in_place():
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(inplace=True))


class Noise(nn.Module):
    """Adds random numbers, in evaluation too."""

    def forward(self, x):
        return x + 0.1 * torch.randn_like(x)


PARTS = [dropout, normalized, Recurrent, Remembers, Tied, Adds, Warms, Looks, frozen, in_place, Noise]


# -- optimizers --------------------------------------------------------------------------------------------------------

OWN = [
    partial(optimizers.SGD, 0.02, momentum=0.9),
    partial(optimizers.Adam, 0.01, epsilon=1e-3),
    partial(optimizers.AdamW, 0.01, epsilon=1e-3, use_ema=True, ema_overwrite_frequency=3),
    partial(optimizers.RMSprop, 0.005, epsilon=1e-3, clipnorm=1.0),
    partial(optimizers.SGD, optimizers.schedules.ExponentialDecay(0.05, 3, 0.8), weight_decay=0.01),
]
TORCH = [
    lambda: partial(torch.optim.SGD, lr=0.02, momentum=0.9),
    lambda: partial(torch.optim.Adam, lr=0.01, eps=1e-3),
]


def make_optimizer(number, accumulation):
    if number >= len(OWN):
        return TORCH[number - len(OWN)]()
    return OWN[number](gradient_accumulation_steps=accumulation)


# -- changes -----------------------------------------------------------------------------------------------------------


class Weighted(losses.Loss):
    """A loss with a weight that callbacks change."""

    weight = 0.0

    def call(self, y_true, y_pred):
        return (y_true - y_pred).square().mean(-1) + self.weight * y_pred.abs().mean(-1)


def nothing(model, loss, count):
    pass


def freeze(model, loss, count):
    model.module[0].requires_grad_(count % 2 == 1)


def anneal(model, loss, count):
    loss.weight = count / 10


def set_dropout(model, loss, count):
    for module in model.module.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.1 * (count % 5)


def set_rate(model, loss, count):
    model.optimizer.learning_rate = 0.01 / (1 + count)


def set_weights(model, loss, count):
    model.set_weights([weights * 0.9 for weights in model.get_weights()])


def replace_data(model, loss, count):
    for parameter in model.module.parameters():
        parameter.data = parameter.data * 0.9


def evaluate(model, loss, count):
    model.evaluate(X[:20], Y[:20], batch_size=7, verbose=0)


def predict(model, loss, count):
    model.predict(X, batch_size=16, verbose=0)


def switch_mode(model, loss, count):
    model.module[0].train(count % 2 == 0)


CHANGES = [nothing, freeze, anneal, set_dropout, set_rate, set_weights, replace_data, evaluate, predict, switch_mode]
EVENTS = ["on_epoch_begin", "on_epoch_end", "on_train_batch_begin", "on_train_batch_end"]


def train(plan, jit_compile):
    """Return everything that a training as planned gives."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(WIDTH, WIDTH), *[part() for part in plan["parts"]], nn.Linear(WIDTH, 1))
    model, loss = Model(net, device="cpu"), Weighted()
    model.compile(
        make_optimizer(plan["optimizer"], plan["accumulation"]),
        loss,
        metrics=["mae"],
        jit_compile=jit_compile,
        steps_per_execution=plan["steps"],
    )
    count = 0

    def change(index, logs):
        nonlocal count
        plan["change"](model, loss, count)
        count += 1

    torch.manual_seed(1)
    options = {"batch_size": 8, "shuffle": plan["shuffle"], "verbose": 0, "validation_data": (X[:24], Y[:24])}
    history = model.fit(
        X, Y, epochs=4, callbacks=callbacks.LambdaCallback(**{plan["event"]: change}), **options
    ).history
    more = model.fit(X * 0.5, Y * 0.5, epochs=2, **options).history
    return {**history, **{f"more_{name}": values for name, values in more.items()}}, net


plans = st.fixed_dictionaries(
    {
        "parts": st.lists(st.sampled_from(PARTS), min_size=1, max_size=3),
        "optimizer": st.integers(0, len(OWN) + len(TORCH) - 1),
        "accumulation": st.sampled_from([None, 2]),
        "steps": st.sampled_from([1, 1, 3]),
        "shuffle": st.booleans(),
        "change": st.sampled_from(CHANGES),
        "event": st.sampled_from(EVENTS),
    }
)


def assert_compiled_is_plain(plan):
    torch._dynamo.reset()
    expected, plain = train(plan, False)
    found, compiled = train(plan, True)
    assert {name: pytest.approx(values, rel=1e-5, abs=1e-5) for name, values in expected.items()} == found
    for name, tensor in plain.state_dict().items():
        assert torch.allclose(tensor, compiled.state_dict()[name], atol=1e-4), name


def fixed_settings(examples):
    return settings(
        max_examples=examples, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck], database=None
    )


@given(plans)
@fixed_settings(EXAMPLES)
@pytest.mark.usefixtures("traced_only")
def test_a_traced_training_is_the_plain_one(plan):
    assert_compiled_is_plain(plan)


@given(plans)
@fixed_settings(2)
def test_a_compiled_training_is_the_plain_one(plan):
    assert_compiled_is_plain(plan)
