"""Compiled steps give what plain ones give, and fall back to them with a line that says why."""

import logging
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from torchfit import Model, losses, optimizers
from torchfit._execution.background import CompileWhenWorthwhile
from torchfit._execution.compiled import CompiledExecution, choose_execution
from torchfit._execution.eager import EagerExecution

graphs = pytest.mark.graphs
random = np.random.RandomState(0)
x = random.rand(210, 6).astype("float32")
y = (x @ random.randn(6, 3)).argmax(1)


def network():
    # Without a bias, whose gradient is rounding noise in front of a BatchNorm, and which Adam would blow up.
    return nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))


def trained(module=network, optimizer="adam", data=(x, y), fit=None, **compile_arguments):
    torch.manual_seed(0)
    model = Model(module())
    compile_arguments = {"loss": losses.SparseCategoricalCrossentropy(from_logits=True), **compile_arguments}
    model.compile(optimizer() if callable(optimizer) else optimizer, **compile_arguments)
    torch.manual_seed(1)
    arguments = {"epochs": 3, "batch_size": 32, "validation_split": 0.2, "verbose": 0, **(fit or {})}
    return model, model.fit(*data, **arguments).history


def assert_same(one, other):
    assert list(one) == list(other)
    for name in one:
        assert one[name] == pytest.approx(other[name], abs=1e-5), name


@graphs
@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 3])
def test_a_graph_gives_the_same_history_with_batch_statistics_dropout_weights_and_a_ragged_end(steps):
    fit = {"sample_weight": np.linspace(0, 2, len(x))}
    metrics = {"metrics": ["accuracy"], "weighted_metrics": ["acc"]}
    _, plain = trained(fit=fit, **metrics)
    model, compiled = trained(fit=fit, **metrics, jit_compile=True, steps_per_execution=steps)
    assert_same(compiled, plain)
    assert model._torchfit.execution._steps["train"]._graphs


@graphs
@pytest.mark.slow
def test_evaluate_and_predict_are_graphs_too():
    plain, _ = trained()
    model, _ = trained(jit_compile=True)
    assert model.evaluate(x, y, verbose=0) == pytest.approx(plain.evaluate(x, y, verbose=0), abs=1e-5)
    assert model.predict(x) == pytest.approx(plain.predict(x), abs=1e-4)
    assert {kind: bool(runner._graphs) for kind, runner in model._torchfit.execution._steps.items()} == {
        "train": True,
        "test": True,
        "predict": True,
    }


@graphs
@pytest.mark.slow
def test_several_outputs_and_inputs_are_one_graph():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(6, 3), nn.Linear(6, 1)

        def forward(self, left, right):
            return {"label": self.one(left), "size": self.two(right)}

    arguments = {
        "module": Both,
        "data": ({"left": x, "right": x[::-1].copy()}, {"label": y, "size": x.sum(1, keepdims=True)}),
        "loss": {"label": losses.SparseCategoricalCrossentropy(from_logits=True), "size": "mse"},
        "loss_weights": {"label": 1.0, "size": 0.5},
        "metrics": {"label": "accuracy", "size": "mae"},
    }
    _, plain = trained(**arguments)
    model, compiled = trained(**arguments, jit_compile=True)
    assert_same(compiled, plain)
    assert model._torchfit.execution._steps["train"]._graphs


@graphs
@pytest.mark.slow
def test_a_learning_rate_that_changes_makes_no_new_graph():
    schedule = optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)
    _, plain = trained(optimizer=lambda: optimizers.SGD(schedule))
    model, compiled = trained(optimizer=lambda: optimizers.SGD(schedule), jit_compile=True)
    assert_same(compiled, plain)
    spent = model._torchfit.execution.compile_seconds
    model.fit(x, y, batch_size=32, verbose=0, validation_split=0.2)
    assert model._torchfit.execution.compile_seconds == spent


@graphs
@pytest.mark.slow
def test_a_torch_optimizer_updates_with_the_gradients_of_a_graph():
    _, plain = trained(optimizer=lambda: torch.optim.Adam)
    model, compiled = trained(optimizer=lambda: torch.optim.Adam, jit_compile=True)
    assert_same(compiled, plain)
    assert model._torchfit.execution._steps["train"]._graphs


@graphs
@pytest.mark.slow
def test_a_module_that_breaks_the_graph_trains_all_the_same_and_one_line_says_why(caplog):
    class Printing(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 3)

        def forward(self, inputs):
            torch._dynamo.graph_break()
            return self.layer(inputs)

    with caplog.at_level(logging.WARNING, "torchfit"):
        _, compiled = trained(Printing, jit_compile=True)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2  # one for training, one for validation
    assert all(message.startswith("jit_compile: the t") and "\n" not in message for message in messages)
    _, plain = trained(Printing)
    assert_same(compiled, plain)


def test_an_own_train_step_runs_as_it_is_and_one_line_says_so(caplog):
    class Own(Model):
        def train_step(self, batch):
            return super().train_step(batch)

    model = Own(network())
    model.compile("sgd", losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=True)
    with caplog.at_level(logging.WARNING, "torchfit"):
        model.fit(x, y, verbose=0)
    expected = "jit_compile: the train step runs without a graph: `train_step` is overridden"
    assert caplog.records[0].getMessage() == expected


@pytest.mark.parametrize(
    ("planned", "compilation", "due"),
    [(10**12, 1.0, True), (100, 1.0, False), (10**12, float("inf"), False)],
)
def test_patience_weighs_the_steps_to_come_against_a_compilation(planned, compilation, due, monkeypatch):
    monkeypatch.setattr(CompileWhenWorthwhile, "compile_seconds", compilation)
    patience = CompileWhenWorthwhile()
    patience.start_loop(planned)
    assert not any(patience.should_compile() for _ in range(30))
    assert patience.should_compile() is due


def test_auto_begins_without_a_graph():
    model, history = trained(jit_compile="auto")
    assert not any(runner._graphs for runner in model._torchfit.execution._steps.values())
    assert_same(history, trained()[1])


@pytest.mark.parametrize(
    ("arguments", "kind"), [((None, None, None), EagerExecution), ((False, True, 4), CompiledExecution)]
)
def test_compile_arguments_choose_the_execution(arguments, kind):
    assert type(choose_execution(*arguments)) is kind


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, "fast", 1), "`jit_compile` must be True, False, 'auto' or None, but it is 'fast'."),
        ((True, True, 1), "exclude each other"),
        ((None, None, 0), "`steps_per_execution` must be a positive integer, but it is 0."),
        ((None, None, 2.5), "`steps_per_execution` must be a positive integer, but it is 2.5."),
    ],
)
def test_contradictions_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        choose_execution(*arguments)


@graphs
@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 4])
def test_gathered_gradients_are_part_of_the_graph(steps):
    def optimizer():
        return optimizers.Adam(0.01, gradient_accumulation_steps=2)

    fit = {"sample_weight": np.linspace(0, 2, len(x))}
    plain_model, plain = trained(optimizer=optimizer, fit=fit, metrics=["accuracy"])
    model, compiled = trained(
        optimizer=optimizer, fit=fit, metrics=["accuracy"], jit_compile=True, steps_per_execution=steps
    )
    assert_same(compiled, plain)
    assert model.optimizer.iterations == plain_model.optimizer.iterations
    assert model._torchfit.execution._steps["train"]._graphs


@graphs
def test_the_compiler_knows_every_operation_of_an_update(monkeypatch, tmp_path, caplog):
    options: dict[str, Any] = {"gradient_accumulation_steps": 2, "clipnorm": 0.1}
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(logging.getLogger("torch._inductor"), "propagate", True)
    plain, _ = trained(lambda: nn.Linear(6, 3), optimizers.SGD(0.1, **options))
    compiled, _ = trained(lambda: nn.Linear(6, 3), optimizers.SGD(0.1, **options), jit_compile=True)
    assert all(map(np.allclose, compiled.get_weights(), plain.get_weights()))
    assert not [record.message for record in caplog.records if "c-shim" in record.message]


@graphs
def test_the_reason_of_a_backend_that_fails_is_told(monkeypatch, caplog):
    def fail(*arguments, **options):
        raise ValueError("no compiler is installed")

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", fail)
    with caplog.at_level(logging.INFO, logger="torchfit"):
        trained(jit_compile=True)
    assert "runs without a graph: ValueError: no compiler is installed" in caplog.text
