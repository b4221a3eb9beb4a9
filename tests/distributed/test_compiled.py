"""Compiled steps of several processes: the numbers of one, and weights that stay equal to the bit."""

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
from torchfit._execution import compile_policy, graph
from torchfit._utils import compat

IGNORED = np.where(np.arange(len(LABELS)) % 3 == 0, -1, LABELS)
IGNORES = losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)


@contextmanager
def only_traced():
    """Trace steps with their gradients, and leave out the compilation, which takes long."""

    def interpret(module, examples, **options):
        return lambda inputs: module(*inputs)

    with patch.object(compat.inductor(), "compile_fx_inner", interpret):
        yield


def graphs_of(model):
    """Return how many graphs each kind of step has, and why it has none."""
    modes = model._torchfit.execution.state_dict().get("modes", {})
    return {mode: (len(state["graphs"]), state["failure"]) for mode, state in modes.items()}


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


def train(
    module=network, optimizer="rmsprop", y=LABELS, loss=CROSSENTROPY, graphs=True, fits=1, has_hook=False, **named
):
    torch.manual_seed(0)
    arguments = {name: named.pop(name) for name in ("steps_per_execution", "metrics") if name in named}
    optimizer = optimizer() if callable(optimizer) else optimizer
    model = compiled(module(), optimizer, loss, jit_compile=True if graphs else None, **arguments)
    for _ in range(fits):
        found = trained(model, X, y, **named, callbacks=[BatchHook()] if has_hook else [])
    found["evaluated"], found["predicted"] = model.evaluate(X, y, verbose=0), model.predict(X)
    return found, graphs_of(model)


CASES: dict[str, dict[str, Any]] = {
    "ragged batches and several fits": {"module": Dropped, "batch_size": 15, "validation_split": 0.3, "fits": 2},
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


def traced(name, graphs=True):
    with only_traced():
        return train(**CASES[name], graphs=graphs)


@pytest.mark.filterwarnings("ignore:There is no gradient")
@pytest.mark.parametrize("name", CASES)
def test_traced_steps(pools, name):
    expected, _ = traced(name, graphs=False)
    (found, graphs), *others = pools(2).run(traced, name)
    assert_same(found, expected, 1e-5)
    for other, _ in others:
        assert_equal(other, found)
    assert graphs["train"] == graphs["test"] == (1, None)
    assert ("update" in graphs) == ("torch" not in name)
    assert all(count and failure is None for count, failure in graphs.values() if count)


def with_compiler():
    return train(Dropped, sample_weight=WEIGHTS)


def test_compiled_steps(pools):
    expected, _ = train(Dropped, sample_weight=WEIGHTS, graphs=False)
    (found, graphs), (other, _) = pools(2).run(with_compiler)
    assert_same(found, expected, 1e-5)
    assert_equal(other, found)
    assert {*graphs} == {"train", "update", "test", "predict"}
    assert all(count and failure is None for count, failure in graphs.values()), graphs


# -- what all decide alike ---------------------------------------------------------------------------------


def fails_to_compile():
    """Let process 1 fail with the second graph, that of the training step."""
    original, started = graph.Recorder.backend, []

    def backend(*arguments):
        started.append(arguments)
        if distribution.rank() == 1 and len(started) == 2:
            raise OSError("no space left on device")
        return original(*arguments)

    with only_traced(), patch.object(graph.Recorder, "backend", backend):
        return train()


def fails_to_run():
    """Let process 1 fail with the first graph, that of the update, after it has changed the weights."""
    original, started = graph.InductorCode._run_wrapped, []

    def run(*arguments):
        outputs = original(*arguments)
        started.append(arguments)
        if distribution.rank() == 1 and len(started) == 1:
            raise OSError("no space left on device")
        return outputs

    with only_traced(), patch.object(graph.InductorCode, "_run_wrapped", run):
        return train()


@pytest.mark.parametrize(("fails", "mode"), [(fails_to_compile, "train"), (fails_to_run, "update")])
def test_all_give_up_where_one_process_has_no_graph(pools, fails, mode):
    expected, _ = train(graphs=False)
    (found, graphs), (other, others) = pools(2).run(fails)
    assert_same(found, expected, 1e-5)
    assert_equal(other, found)
    assert graphs[mode][0] == others[mode][0] == 0
    assert graphs[mode][1].startswith("process 1: ")
    assert "no space left on device" in graphs[mode][1]


def automatic():
    """Let process 1 alone find compiling worthwhile; return the steps at which a process began to compile."""
    seconds = 0.0 if distribution.rank() == 1 else 1e9
    started, steps = [], []
    original = graph.Recorder.backend

    def backend(*arguments):
        started.append(len(steps))
        return original(*arguments)

    counting = callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: steps.append(batch))
    policy = patch.object(compile_policy.CompileWhenWorthwhile, "compile_seconds", seconds)
    with only_traced(), policy, patch.object(graph.Recorder, "backend", backend):
        model = compiled(network(), jit_compile="auto")
        found = trained(model, epochs=10, callbacks=[counting])
    return found, started


def test_auto_compiles_at_the_same_step(pools):
    (found, started), (other, others) = pools(2).run(automatic)
    assert started == others
    assert len(started) >= 2
    assert_equal(other, found)


class Largest(metrics.Metric):
    def __init__(self):
        super().__init__(name="largest")
        self.value = self.add_variable((), "zeros", name="value", aggregation="max")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.value.copy_(torch.maximum(self.value, y_pred.max()))

    def result(self):
        return self.value.clone()


def with_a_largest():
    with only_traced():
        return train(metrics=[Largest()])


def test_a_metric_that_does_not_add_up(pools):
    expected, _ = train(metrics=[Largest()], graphs=False)
    (found, graphs), (other, _) = pools(2).run(with_a_largest)
    assert_same(found, expected, 1e-5)
    assert_equal(other, found)
    assert graphs["train"] == (0, "the processes do not just add up the states of the metric 'largest'")
