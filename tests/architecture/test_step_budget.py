"""What one steady eager training step may cost: frames, calls into our files, host reads."""

import sys
from collections import Counter
from types import FrameType

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import torchfit

BATCH = 4
SHORT, LONG = 10, 60  # steps; the difference of two runs is what steady steps cost, without the edges
HOST_READS = ("_local_scalar_dense", "item", "is_nonzero", "equal")
HOST_METHODS = [
    "item",
    "tolist",
    "numpy",
    "__array__",
    "cpu",
    "__bool__",
    "__float__",
    "__int__",
    "__index__",
]


def compiled(module, **options):
    model = torchfit.Model(module, device="cpu")
    loss = torchfit.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("rmsprop", loss, metrics=["accuracy"], **options)
    return model


def fit(model, steps):
    x = torch.randn(steps * BATCH, 20)
    y = torch.randint(0, 3, (steps * BATCH,))
    model.fit(x, y, batch_size=BATCH, epochs=1, verbose=0)


def network():
    return nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 3))


class SeesBackward(nn.Module):
    """A network that notes the frames on the stack, of the package and of torch, while gradients are computed."""

    def __init__(self):
        super().__init__()
        self.layers = network()
        self.frames = []

    def forward(self, x):
        output = self.layers(x)
        if output.requires_grad:
            output.register_hook(self.note_frames)
        return output

    def note_frames(self, gradient):
        frame: FrameType | None = sys._getframe()
        self.frames = []
        while (frame := frame.f_back).f_code is not fit.__code__:
            self.frames.append(f"{frame.f_code.co_name} in {frame.f_code.co_filename}")


def test_at_most_5_frames_from_fit_to_the_engine_of_autograd():
    module = SeesBackward()
    fit(compiled(module), steps=2)
    assert module.frames[-1].startswith("fit ")
    assert len(module.frames) <= 5, module.frames


class CallCounter:
    """Counts the calls into the package's own files."""

    def __init__(self, package_path):
        self.package = str(package_path)
        self.calls = Counter()

    def __enter__(self):
        sys.setprofile(self.note)
        return self

    def __exit__(self, *exception):
        sys.setprofile(None)

    def note(self, frame, event, argument):
        if event == "call" and frame.f_code.co_filename.startswith(self.package):
            file = frame.f_code.co_filename[len(self.package) + 1 :]
            self.calls[f"{file}:{frame.f_code.co_firstlineno} {frame.f_code.co_name}"] += 1


def counts_per_step(run, counter):
    """Return what a counter counts per steady step: a long run less a short one."""
    with counter() as short:
        run(SHORT)
    with counter() as long:
        run(LONG)
    grown = {what: count - short.calls[what] for what, count in long.calls.items()}
    return {what: count / (LONG - SHORT) for what, count in grown.items() if count > 0}


def test_at_most_45_calls_into_our_files_per_step(package_path):
    model = compiled(network())
    fit(model, SHORT)
    calls = counts_per_step(lambda steps: fit(model, steps), lambda: CallCounter(package_path))
    assert sum(calls.values()) <= 45, "\n".join(f"{count:4.1f} {what}" for what, count in sorted(calls.items()))


class HostReads(TorchDispatchMode):
    """Counts how often a tensor's values are handed to Python or NumPy."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.calls = Counter()
        for name in HOST_METHODS:
            monkeypatch.setattr(torch.Tensor, name, self.counted(name, getattr(torch.Tensor, name)))

    def counted(self, name, method):
        def read(tensor, *args, **kwargs):
            self.calls[f"Tensor.{name}"] += 1
            return method(tensor, *args, **kwargs)

        return read

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.__name__.partition(".")[0]
        if name in HOST_READS:
            self.calls[f"aten::{name}"] += 1
        return function(*args, **(kwargs or {}))


def host_reads_per_step(run, monkeypatch):
    def counter():
        monkeypatch.undo()
        return HostReads(monkeypatch)

    return counts_per_step(run, counter)


def test_the_counter_sees_host_reads(monkeypatch):
    def reads_every_step(steps):
        for value in torch.arange(steps):
            value.item(), value.tolist(), bool(value), float(value), value.numpy()

    seen = host_reads_per_step(reads_every_step, monkeypatch)
    assert seen == dict.fromkeys(
        ["Tensor.item", "Tensor.tolist", "Tensor.__bool__", "Tensor.__float__", "Tensor.numpy"], 1.0
    ) | {"aten::_local_scalar_dense": 3.0}


def test_no_host_read_per_step_when_nobody_reads_the_logs(monkeypatch):
    model = compiled(network())
    assert host_reads_per_step(lambda steps: fit(model, steps), monkeypatch) == {}


@pytest.mark.parametrize("run", ["evaluate", "predict"])
def test_no_host_read_per_step_in_evaluation_and_prediction(run, monkeypatch):
    model = compiled(network())

    def steps_of(steps):
        x, y = torch.randn(steps * BATCH, 20), torch.randint(0, 3, (steps * BATCH,))
        arguments = (x, y) if run == "evaluate" else (x,)
        getattr(model, run)(*arguments, batch_size=BATCH, verbose=0)

    assert host_reads_per_step(steps_of, monkeypatch) == {}
