"""What every test starts from: one thread, Keras on torch, pictures without a screen, the same seed."""

import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS", "1")  # Many graphs are compiled.

import numpy as np
import pytest
import torch


def pytest_collection_modifyitems(items):
    marked = [item for item in items if item.get_closest_marker("graphs")]
    if not marked:
        return
    from torchfit._execution.graph import traces_gradients

    if not traces_gradients():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="this torch cannot put gradients into a graph"))


def _seed():
    np.random.seed(0)
    torch.manual_seed(0)


def pytest_collectstart(collector):
    """Draw the constants of a test module alike, whichever modules were imported before it."""
    if isinstance(collector, pytest.Module):
        _seed()


@pytest.fixture(autouse=True)
def _seeded():
    _seed()


class Clock:
    """A clock that stands still until a test moves it."""

    now = 100.0

    def __call__(self):
        return self.now

    def advance(self, seconds):
        self.now += seconds


@pytest.fixture
def stop_clock(monkeypatch):
    """Return a function that gives the modules of some classes or functions one clock, which only the test moves."""

    def stop(*definitions):
        clock = Clock()
        for definition in definitions:
            monkeypatch.setattr(sys.modules[definition.__module__], "perf_counter", clock)
        return clock

    return stop


class TracedOnly:
    """Stands in for torch's compiler: steps are traced and made functional, and run by torch's own kernels."""

    @staticmethod
    def compile_fx(module, examples, inner, config_patches):
        from torch._dynamo.backends.common import aot_autograd

        compiler = aot_autograd(fw_compiler=inner, inference_compiler=inner, keep_inference_input_mutations=True)
        return compiler(module, examples)

    @staticmethod
    def compile_fx_inner(module, examples, **options):
        from functorch.compile import make_boxed_func

        code = make_boxed_func(module.forward)
        code.current_callable = code
        return code


@pytest.fixture
def traced_only(monkeypatch):
    """Compile graphs in milliseconds: they are not as fast then, and everything else is as it is."""
    from torchfit._utils import compat

    monkeypatch.setattr(compat, "inductor", lambda: TracedOnly)
    torch._dynamo.reset()
    return TracedOnly
