"""Compiled steps of several processes: the numbers of one, and weights that stay equal to the bit."""

import logging
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import nn

from tests.distributed.cases import CROSSENTROPY, LABELS, VALUES, WEIGHTS, X, compiled, network, trained
from tests.distributed.compare import assert_equal, assert_same
from torchfit import callbacks, distribution, losses, metrics, optimizers

pytestmark = pytest.mark.graphs

IGNORED = np.where(np.arange(len(LABELS)) % 3 == 0, -1, LABELS)
IGNORES = losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
NO_SPACE = "no space left on device"


@contextmanager
def only_traced(fails=(), when_run=False, count=lambda: None):
    """Trace steps with their gradients, and leave out the generation of code, which takes long.

    Yields a list with what `count` returns for each graph. Process 1 fails with the graphs of the numbers
    `fails`, or after they have run.
    """
    graphs = []

    def interpret(module, examples, **options):
        number = len(graphs)
        graphs.append(count())
        is_broken = number in fails and distribution.rank() == 1
        if is_broken and not when_run:
            raise OSError(NO_SPACE)

        def run(inputs):
            outputs = module(*inputs)
            if is_broken:
                raise OSError(NO_SPACE)
            return outputs

        return run

    with patch("torch._inductor.compile_fx.compile_fx_inner", interpret):
        yield graphs


class Messages(logging.Handler):
    """Keeps what is logged."""

    def __init__(self):
        super().__init__()
        self.found = []

    def emit(self, record):
        self.found.append(record.getMessage())


@contextmanager
def messages():
    handler = Messages()
    logging.getLogger("torchfit").addHandler(handler)
    try:
        yield handler.found
    finally:
        logging.getLogger("torchfit").removeHandler(handler)


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused = network(), nn.Linear(3, 3)

    def forward(self, x):
        return self.used(x)


class TwoOutputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.classes, self.value = network(), nn.Linear(8, 1)

    def forward(self, x):
        return {"classes": self.classes(x), "value": self.value(x)}


class Dropped(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers, self.dropout = network(), nn.Dropout(0.5)

    def forward(self, x):
        return self.layers(self.dropout(x))


class BatchHook(callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        self.last = dict(logs)


def train(module=network, optimizer="rmsprop", y=LABELS, loss=CROSSENTROPY, jit=True, fits=1, has_hook=False, **named):
    """Return the numbers of a model, and what was logged."""
    torch.manual_seed(0)
    arguments = {name: named.pop(name) for name in ("steps_per_execution", "metrics") if name in named}
    optimizer = optimizer() if callable(optimizer) else optimizer
    model = compiled(module(), optimizer, loss, jit_compile=jit or None, **arguments)
    with messages() as logged:
        for _ in range(fits):
            found = trained(model, X, y, **named, callbacks=[BatchHook()] if has_hook else [])
        found["evaluated"], found["predicted"] = model.evaluate(X, y, verbose=0), model.predict(X)
    return found, logged


CASES: dict[str, dict[str, Any]] = {
    "ragged batches and several fits": {"module": Dropped, "batch_size": 15, "fits": 2},
    "accumulation": {"optimizer": lambda: optimizers.SGD(0.1, gradient_accumulation_steps=3)},
    "outputs with denominators of their own": {
        "module": TwoOutputs,
        "y": {"classes": IGNORED, "value": VALUES},
        "loss": {"classes": IGNORES, "value": "mse"},
        "metrics": (),
        "steps_per_execution": 4,
    },
    "unused parameters": {
        "module": Unused,
        "optimizer": lambda: optimizers.Adam(use_ema=True, global_clipnorm=0.5, weight_decay=0.01),
    },
    "an optimizer of torch and a callback with a hook of batches": {
        "optimizer": lambda: torch.optim.AdamW,
        "has_hook": True,
    },
}


def traced(name, jit=True):
    with only_traced() as graphs:
        found, logged = train(**CASES[name], jit=jit)
    return found, logged, len(graphs)


@pytest.mark.filterwarnings("ignore:There is no gradient")
@pytest.mark.parametrize(
    ("name", "expected_graphs"), zip(CASES, [4, 5, 3, 4, 3]), ids=str
)  # Of training, update, test and prediction; with accumulation, of two updates.
def test_traced_steps(pools, name, expected_graphs):
    expected, _, _ = traced(name, jit=False)
    (found, logged, graphs), (other, _, _) = pools(2).run(traced, name)
    assert_same(found, expected, 1e-5)
    assert_equal(other, found)
    assert (logged, graphs) == ([], expected_graphs)


def test_compiled_steps(pools):
    expected, _ = train(Dropped, sample_weight=WEIGHTS, jit=False)
    (found, logged), (other, _) = pools(2).run(with_compiler)
    assert_same(found, expected, 1e-5)
    assert_equal(other, found)
    assert logged == []


def with_compiler():
    return train(Dropped, sample_weight=WEIGHTS)


# -- what all decide alike ---------------------------------------------------------------------------------


def failing(*failure):
    with only_traced(*failure):
        return train()


# A graph is compiled again without calls from C++, where that fails.
@pytest.mark.parametrize(("mode", "failure"), [("train", ((1, 2), False)), ("update", ((0,), True))])
def test_all_give_up_where_one_process_has_no_graph(pools, mode, failure):
    expected, _ = train(jit=False)
    (found, logged), (other, _) = pools(2).run(failing, *failure)
    assert_same(found, expected, 1e-5)
    assert_equal(other, found)
    assert logged == [f"jit_compile: the {mode} step runs without a graph: process 1: OSError: {NO_SPACE}"]


class StopsAfter(callbacks.Callback):
    """Ends the training, of which many more epochs were announced."""

    def __init__(self):
        self.steps = 0

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch == 6


def automatic():
    """Return the steps before which a graph was compiled."""
    stops = StopsAfter()
    with only_traced(count=lambda: stops.steps) as steps:
        found = trained(compiled(network(), jit_compile="auto"), epochs=10**7, callbacks=[stops])
    return found, steps


def test_auto_compiles_at_the_same_step(pools):
    (found, steps), (other, others) = pools(2).run(automatic)
    assert len(steps) == 2
    assert steps == others
    assert_equal(other, found)


class Largest(metrics.Metric):
    def __init__(self):
        super().__init__(name="largest")
        self.value = self.add_variable((), "zeros", aggregation="max", name="value")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.value.copy_(torch.maximum(self.value, y_pred.max()))

    def result(self):
        return self.value.clone()


def with_a_largest():
    with only_traced():
        return train(metrics=[Largest()])


def test_a_metric_that_does_not_add_up(pools):
    expected, _ = train(metrics=[Largest()], jit=False)
    (found, logged), (other, _) = pools(2).run(with_a_largest)
    assert_same(found, expected, 1e-5)
    assert_equal(other, found)
    assert logged == [
        "jit_compile: the train step runs without a graph: the processes do not just add up the states of the metric "
        "'largest'"
    ]
