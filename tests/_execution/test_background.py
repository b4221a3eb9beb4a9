"""With `jit_compile="auto"` another process compiles, and training does not wait for it."""

import copy
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from torch import nn

from torchfit import Model, callbacks, optimizers
from torchfit._execution import background
from torchfit._execution.background import BackgroundCompiler, CompilerProcess, CompileWhenWorthwhile
from torchfit._utils import compat

pytestmark = [
    pytest.mark.graphs,
    pytest.mark.filterwarnings("ignore"),  # torch's compiler uses what torch deprecates
]

X = torch.tensor(np.random.default_rng(0).normal(size=(64, 4)).astype("float32"))
Y = X.sum(1, keepdim=True)
STEPS = 8  # of an epoch


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 1))


def compiled(jit_compile="auto", net=None, **options):
    model = Model(net or network(), device="cpu")
    model.compile(optimizers.Adam(0.01), "mse", metrics=["mae"], jit_compile=jit_compile, **options)
    torch.manual_seed(1)
    return model


def fit(model, epochs=3, **options):
    return model.fit(X, Y, batch_size=8, epochs=epochs, verbose=0, **options)


def train_step(model):
    return model._torchfit.execution._steps["train"]


class FakeProcess:
    """Ends when it is asked for the `polls`-th time."""

    polls, fails = 10, False
    made: "list[FakeProcess]"

    def __init__(self, graph):
        assert isinstance(graph, bytes)
        self.asked, self.is_ended = 0, False
        self.made.append(self)

    @property
    def is_running(self):
        self.asked += 1
        return self.asked < self.polls and not self.is_ended

    @property
    def has_failed(self):
        return self.fails

    def end(self):
        self.is_ended = True
        return 7.0


@pytest.fixture
def process(monkeypatch, traced_only):
    kind = type("Process", (FakeProcess,), {"made": []})
    monkeypatch.setattr(background, "CompilerProcess", kind)
    monkeypatch.setattr(CompileWhenWorthwhile, "should_compile", lambda self: True)
    monkeypatch.setattr(CompileWhenWorthwhile, "compile_seconds", 0.0)
    return kind


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name in expected:
        assert found[name] == pytest.approx(expected[name], abs=1e-5), name


@pytest.mark.parametrize(("steps", "polls"), [(1, 10), (3, 4)])
def test_steps_run_eagerly_until_the_process_has_ended(process, steps, polls):
    process.polls, graphs = polls, []
    count = callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: graphs.append(len(train_step(model)._graphs)))
    model = compiled(steps_per_execution=steps)
    history = fit(model, callbacks=[count])
    assert_same(history.history, fit(compiled(None)).history)
    assert graphs[0] == 0
    assert graphs[-1] > 0
    assert sum(history.timing["background_compile"]) == 7.0 * len(process.made)
    assert CompileWhenWorthwhile.compile_seconds >= 7.0


def test_the_step_of_the_change_belongs_to_the_training_state(process):
    known = []
    model = compiled()
    count = lambda batch, logs: known.append(len(train_step(model).state_dict()["graphs"]))  # noqa: E731
    fit(model, callbacks=[callbacks.LambdaCallback(on_train_batch_end=count)])
    assert known == [0] * process.polls + [1] * (3 * STEPS - process.polls)


def test_what_the_process_could_not_compile_is_compiled_here(process):
    process.fails = True
    model = compiled()
    history = fit(model)
    assert_same(history.history, fit(compiled(None)).history)
    assert [graph is not None for graph in train_step(model)._graphs.values()] == [True]
    assert len(process.made) == 1


def test_what_cannot_be_pickled_is_compiled_here(process, monkeypatch):
    monkeypatch.setattr(compat, "dump_graph", lambda graph: {}["no"])
    model = compiled()
    assert_same(fit(model).history, fit(compiled(None)).history)
    assert process.made == []
    assert train_step(model)._graphs


def test_a_process_ends_with_the_fit(process):
    process.polls = 10**9
    model = compiled()
    assert_same(fit(model).history, fit(compiled(None)).history)
    assert [made.is_ended for made in process.made] == [True]
    assert not train_step(model)._pending
    assert not train_step(model)._graphs


def test_a_process_ends_with_an_exception(process):
    def fail(batch, logs):
        if batch == 5:
            raise KeyboardInterrupt

    process.polls = 10**9
    with pytest.raises(KeyboardInterrupt):
        fit(compiled(), callbacks=[callbacks.LambdaCallback(on_train_batch_end=fail)])
    assert [made.is_ended for made in process.made] == [True]


def test_validation_keeps_the_process_of_training(process):
    process.polls = 20
    history = fit(compiled(), validation_data=(X, Y), epochs=4)
    assert_same(history.history, fit(compiled(None), validation_data=(X, Y), epochs=4).history)
    assert len(process.made) == 1 + 1


def test_a_change_while_the_process_compiles_is_seen(process):
    def freeze(batch, logs):
        if batch == 4:
            model.module[0].requires_grad_(False)

    def train(jit_compile):
        nonlocal model
        model = compiled(jit_compile)
        change = callbacks.LambdaCallback(on_train_batch_end=freeze)
        return fit(model, callbacks=[change]).history

    model = None
    assert_same(train("auto"), train(None))


def test_a_resumed_run_has_the_graph_at_once(process, tmp_path):
    def train(epochs, directory):
        model = compiled()
        backup = callbacks.BackupAndRestore(tmp_path / directory, delete_checkpoint=False)
        return fit(model, epochs, callbacks=[backup]).history["loss"], model

    uninterrupted, _ = train(4, "one")
    train(2, "two")
    started = len(process.made)
    resumed, model = train(4, "two")
    assert resumed == uninterrupted[-len(resumed) :]
    assert all(graph is not None for graph in train_step(model)._graphs.values())
    assert len(process.made) == started


def test_a_model_may_be_copied_while_a_process_compiles(process):
    process.polls, twins = 10**9, []
    model = compiled()
    take = callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: twins.append(copy.deepcopy(model)))
    fit(model, callbacks=[take], epochs=2)
    fit(twins[0])


# -- the process ---------------------------------------------------------------------------------------------------


def run_to_the_end(process):
    process._process.wait(300)
    return process


def test_a_process_that_reads_no_graph_has_failed():
    process = run_to_the_end(CompilerProcess(b"no graph"))
    assert not process.is_running
    assert process.has_failed
    assert process.end() > 0


def test_a_process_is_killed_and_leaves_no_zombie():
    process = CompilerProcess(b"no graph")
    process.end()
    assert process._process.returncode is not None


def test_a_process_ends_with_its_parent():
    code = """
        import torchfit._execution.background as background
        process = background.CompilerProcess(b"")
        print(process._process.pid)
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int(result.stdout), 0)


@pytest.mark.slow
@pytest.mark.skipif("COVERAGE_PROCESS_CONFIG" in os.environ, reason="coverage changes names in the compiler's cache")
def test_the_code_is_on_disk_when_the_process_has_ended(monkeypatch, tmp_path):
    from torch._dynamo.utils import counters

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(CompileWhenWorthwhile, "should_compile", lambda self: True)
    torch._dynamo.reset()
    counters.clear()
    made = []
    start = BackgroundCompiler.compile

    def wait(self, *arguments):
        find_code = start(self, *arguments)
        made.append(self._process and run_to_the_end(self._process))
        return find_code

    monkeypatch.setattr(BackgroundCompiler, "compile", wait)
    for times_compiled in (1, 0):  # The second time the code is on disk.
        model = compiled()
        assert_same(fit(model).history, fit(compiled(None)).history)
        assert [process is not None for process in made] == [times_compiled == 1]
        assert train_step(model)._graphs
        made.clear()
    assert counters["inductor"]["fxgraph_cache_hit"] == 2
