"""Write scalars, weights, the graph, embeddings and profiles for TensorBoard."""

import os
import warnings
from collections.abc import Mapping
from importlib import import_module
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from torchfit._types import StateDict
from torchfit._utils.modules import training_mode
from torchfit._utils.tree import map as tree_map


def open_writer(folder: str) -> Any:
    """Return a `SummaryWriter` for a folder.

    Raises:
        ImportError: if the package tensorboard is missing.
    """
    try:
        return import_module("torch.utils.tensorboard").SummaryWriter(folder)
    except ImportError as error:
        raise ImportError("The TensorBoard callback needs the package tensorboard: pip install tensorboard.") from error


def write_scalars(writer: Any, prefix: str, values: Mapping[str, object], step: int, suffix: str = "") -> None:
    """Write those of some values that are numbers."""
    for name, value in values.items():
        if isinstance(value, Real):
            writer.add_scalar(f"{prefix}{name}{suffix}", float(value), step)


def write_histograms(writer: Any, module: nn.Module, step: int) -> None:
    """Write a histogram of every parameter."""
    for name, parameter in module.named_parameters():
        writer.add_histogram(f"{_tag(name)}/histogram", parameter.detach(), step)


def write_images(writer: Any, module: nn.Module, step: int) -> None:
    """Write every parameter as an image: one row per output, from dark (smallest) to bright (largest)."""
    for name, parameter in module.named_parameters():
        values = parameter.detach().float()
        values = values.reshape(len(values) if values.dim() > 1 else 1, -1)
        low, high = values.aminmax()
        writer.add_image(f"{_tag(name)}/image", ((values - low) / (high - low).clamp(min=1e-12))[None], step)


def write_embeddings(writer: Any, module: nn.Module, metadata: object, step: int) -> None:
    """Write the table of every `nn.Embedding`; `metadata` is a file of labels, or a file for each layer name."""
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Embedding):
            path = metadata.get(name) if isinstance(metadata, Mapping) else metadata
            writer.add_embedding(layer.weight.detach(), _labels(path), tag=name or "embedding", global_step=step)


def write_graph(writer: Any, module: nn.Module, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> None:
    """Write the graph of a module, traced without changing its state or the random generators."""
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(), torch.no_grad(), training_mode(module, training=False):
            warnings.simplefilter("ignore")  # about the limits of tracing, which do not matter for a plot
            writer.add_graph(_Positional(module, tuple(named)), (*inputs, *named.values()), use_strict_trace=False)
    except Exception as error:
        # Tracing fails in as many ways as there are models. Training must continue.
        reason = str(error).strip().partition("\n")[0]
        warnings.warn(f"TensorBoard: this model's graph cannot be drawn: {reason}", stacklevel=2)


class InputRecorder:
    """Copies the inputs of the first call of a module.

    In a compiled step it records nothing, and changes nothing.
    """

    def __init__(self, module: nn.Module) -> None:
        self.inputs: tuple[Any, ...] | None = None
        self.named: Mapping[str, Any] = {}
        self._handle = module.register_forward_pre_hook(self._record, with_kwargs=True)

    def remove(self) -> None:
        """Remove the hook from the module."""
        self._handle.remove()

    def _record(self, _: nn.Module, inputs: tuple[object, ...], named: dict[str, Any]) -> None:
        if torch.compiler.is_compiling():
            return
        self.inputs, self.named = tree_map(_copy, inputs), tree_map(_copy, named)
        self.remove()


class ProfiledRange:
    """A range of batches recorded with the profiler of torch, into a file for Perfetto or chrome://tracing.

    Args:
        batches: first and last batch, from 1, both included.
        folder: the folder of the file.
    """

    def __init__(self, batches: tuple[int, int], folder: str) -> None:
        self.first, self.last = batches
        self._folder = folder
        self._profiler: Any = None

    def __getstate__(self) -> StateDict:
        """Leave a running profiler out of copies and pickles."""
        return {**vars(self), "_profiler": None}

    def start_if_due(self, batch: int) -> None:
        """Start recording if this batch is in the range."""
        if self._profiler is None and self.first <= batch <= self.last:
            self._profiler = torch.profiler.profile()
            self._profiler.start()

    def stop_if_due(self, batch: int) -> None:
        """Write the file if this batch is the last one."""
        if batch >= self.last:
            self.stop()

    def stop(self) -> None:
        """Write the file, if anything was recorded."""
        profiler, self._profiler = self._profiler, None
        if profiler is not None:
            profiler.stop()
            os.makedirs(self._folder, exist_ok=True)
            profiler.export_chrome_trace(os.path.join(self._folder, f"batches-{self.first}-{self.last}.pt.trace.json"))


class _Positional(nn.Module):
    """A module called without keyword arguments, which tracing does not support."""

    def __init__(self, module: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.module = module
        self.names = names

    def forward(self, *inputs: Any) -> Any:
        """Call the module, the last inputs by name."""
        split = len(inputs) - len(self.names)
        return self.module(*inputs[:split], **dict(zip(self.names, inputs[split:])))


def _copy(value: object) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _labels(path: Any) -> list[str] | None:
    if path is None:
        return None
    with open(path, encoding="utf-8") as file:
        return file.read().splitlines()


def _tag(name: str) -> str:
    return name.replace(".", "/")
