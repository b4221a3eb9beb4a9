"""`TensorBoard`, which writes logs, weights, graphs and profiles for TensorBoard."""

import os
import warnings
from collections.abc import Collection, Mapping
from importlib import import_module
from numbers import Real
from time import perf_counter
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from torchfit._serialization import files
from torchfit._types import Logs, Results, StateDict
from torchfit._utils import validation
from torchfit._utils.errors import describe, warn
from torchfit._utils.modules import takes_hooks, training_mode
from torchfit._utils.tree import map as tree_map
from torchfit.callbacks.base import Callback

LabelFiles: TypeAlias = "files.PathLike | Mapping[str, files.PathLike] | None"
"""A file with one label per line, or such a file for each layer name."""


class _SummaryWriter(Protocol):
    """Torch's writer, whose methods have no types."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None: ...

    def add_histogram(self, tag: str, values: Tensor, global_step: int) -> None: ...

    def add_image(self, tag: str, img_tensor: Tensor, global_step: int) -> None: ...

    def add_embedding(self, mat: Tensor, metadata: list[str] | None, *, tag: str, global_step: int) -> None: ...

    def add_graph(self, model: nn.Module, input_to_model: object, *, use_strict_trace: bool) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


def open_writer(folder: str) -> _SummaryWriter:
    """Return a `SummaryWriter` for a folder.

    Raises:
        ImportError: If the package tensorboard is missing.
    """
    try:
        writer: _SummaryWriter = import_module("torch.utils.tensorboard").SummaryWriter(folder)
    except ImportError as error:
        raise ImportError("The TensorBoard callback needs the package tensorboard: pip install tensorboard.") from error
    return writer


def write_scalars(
    writer: _SummaryWriter, prefix: str, values: Mapping[str, object], step: int, suffix: str = ""
) -> None:
    """Write the values that are numbers."""
    for name, value in values.items():
        if isinstance(value, Real):
            writer.add_scalar(f"{prefix}{name}{suffix}", float(value), step)


def write_histograms(writer: _SummaryWriter, module: nn.Module, step: int) -> None:
    """Write a histogram of every parameter."""
    for name, parameter in module.named_parameters():
        writer.add_histogram(f"{_tag(name)}/histogram", parameter.detach(), step)


def write_images(writer: _SummaryWriter, module: nn.Module, step: int) -> None:
    """Write every parameter as an image: one row per output, from dark (smallest) to bright (largest)."""
    for name, parameter in module.named_parameters():
        values = parameter.detach().float()
        values = values.reshape(len(values) if values.dim() > 1 else 1, -1)
        low, high = values.aminmax()
        writer.add_image(f"{_tag(name)}/image", ((values - low) / (high - low).clamp(min=1e-12))[None], step)


def write_embeddings(writer: _SummaryWriter, module: nn.Module, metadata: LabelFiles, step: int) -> None:
    """Write the weights of every `nn.Embedding`; `metadata` is a file of labels, or a dict of files by layer."""
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Embedding):
            path = metadata.get(name) if isinstance(metadata, Mapping) else metadata
            writer.add_embedding(layer.weight.detach(), _labels(path), tag=name or "embedding", global_step=step)


def write_graph(
    writer: _SummaryWriter, module: nn.Module, inputs: tuple[object, ...], named: Mapping[str, object]
) -> None:
    """Write the graph of a module, traced without changing its state or the random generators."""
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(), torch.no_grad(), training_mode(module, training=False):
            warnings.simplefilter("ignore")  # about the limits of tracing, which do not matter for a plot
            writer.add_graph(_Positional(module, tuple(named)), (*inputs, *named.values()), use_strict_trace=False)
    except Exception as error:
        # Tracing fails in as many ways as there are models. Training must continue.
        reason = str(error).strip().partition("\n")[0]
        warn(f"TensorBoard: this model's graph cannot be drawn: {reason}")


class InputRecorder:
    """Copies the inputs of the first call of a module.

    In a compiled step it records nothing.
    """

    def __init__(self, module: nn.Module) -> None:
        self.inputs: tuple[object, ...] | None = None
        self.named: Mapping[str, object] = {}
        self._handle: RemovableHandle | None = None
        if takes_hooks(module):
            self._handle = module.register_forward_pre_hook(self._record, with_kwargs=True)
        else:
            warn("TensorBoard: the graph of a TorchScript module cannot be drawn.")

    def remove(self) -> None:
        """Remove the hook from the module."""
        if self._handle is not None:
            self._handle.remove()

    def _record(self, _: nn.Module, inputs: tuple[object, ...], named: dict[str, object]) -> None:
        if torch.compiler.is_compiling():
            return
        self.inputs, self.named = tree_map(_copy, inputs), tree_map(_copy, named)
        self.remove()


class ProfiledRange:
    """A range of batches recorded with the profiler of torch, into a file for Perfetto or chrome://tracing.

    Args:
        batches: The first and the last batch, counted from 1, inclusive.
        folder: The folder of the file.
    """

    def __init__(self, batches: tuple[int, int], folder: str) -> None:
        self.first, self.last = batches
        self._folder = folder
        self._profiler: torch.profiler.profile | None = None

    def __getstate__(self) -> StateDict:
        """Omit a running profiler from copies and pickles."""
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
    """Calls a module without keyword arguments, which tracing does not support."""

    def __init__(self, module: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.module = module
        self.names = names

    def forward(self, *inputs: object) -> object:
        """Call the module, the last inputs by name."""
        split = len(inputs) - len(self.names)
        return self.module(*inputs[:split], **dict(zip(self.names, inputs[split:])))


def _copy(value: object) -> object:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _labels(path: str | os.PathLike[str] | None) -> list[str] | None:
    if path is None:
        return None
    with open(path, encoding="utf-8") as file:
        return file.read().splitlines()


def _tag(name: str) -> str:
    return name.replace(".", "/")


class TensorBoard(Callback):
    """Writes losses, metrics, weights and more for TensorBoard; `tensorboard --logdir=logs` shows them.

    Needs the package tensorboard, not TensorFlow. Scalars of an epoch are named `epoch_loss` and so on, in the runs
    `train` and `validation`; those of batches `batch_loss`, against the number of batches; results of evaluations
    `evaluation_loss_vs_iterations`, against the updates of the optimizer.

    Args:
        log_dir: The folder for the files.
        histogram_freq: Write histograms of the parameters every `histogram_freq` epochs; 0 for never.
        write_graph: Whether to write the graph of the model, traced on its first inputs. Not written for compiled
            steps.
        write_images: Whether to write the parameters as images, along with the histograms.
        write_steps_per_second: Whether to write the speed, per epoch and per written batch.
        update_freq: `"epoch"`, `"batch"`, or a number of batches between two writes of the scalars. Each write
            synchronizes with the device.
        profile_batch: A batch, or a pair of first and last batch, counted from 1 over the whole run, to record with
            the profiler of torch into `log_dir/profile`; 0 for none.
        embeddings_freq: Write the weights of `nn.Embedding`s every `embeddings_freq` epochs; 0 for never.
        embeddings_metadata: A file with one label per line, or a dict of such files by layer name.

    Raises:
        ImportError: Before the first epoch, if tensorboard is not installed.
        ValueError: If `update_freq` or `profile_batch` is invalid.

    >>> board = TensorBoard("runs/first", histogram_freq=1)
    """

    is_writer = True
    written_logs = ()
    reads_logs_synchronously = True

    def __init__(
        self,
        log_dir: str | os.PathLike[str] = "logs",
        histogram_freq: int = 0,
        write_graph: bool = True,
        write_images: bool = False,
        write_steps_per_second: bool = False,
        update_freq: str | int = "epoch",
        profile_batch: int | tuple[int, int] = 0,
        embeddings_freq: int = 0,
        embeddings_metadata: LabelFiles = None,
    ) -> None:
        self.log_dir = files.local_path(log_dir)
        self.histogram_freq = histogram_freq
        self.write_graph = write_graph
        self.write_images = write_images
        self.write_steps_per_second = write_steps_per_second
        update_freq = validation.save_freq("update_freq", update_freq, "epoch", "batch")
        self.update_freq: Any = 1 if update_freq == "batch" else update_freq
        self.embeddings_freq = embeddings_freq
        self.embeddings_metadata = embeddings_metadata
        self._profile = ProfiledRange(_checked_range(profile_batch), os.path.join(self.log_dir, "profile"))
        self._writers: dict[str, _SummaryWriter] = {}
        self._batches = 0
        self._last_batch = -1
        self._inputs: InputRecorder | None = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Open the file, and record the first inputs for tracing the graph."""
        self._batches = 0
        files.check_writable("TensorBoard: log_dir", os.path.join(self.log_dir, "train", "events"))
        self._writer("train")
        if self.write_graph:
            self._inputs = InputRecorder(self.model.module)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Start the clock."""
        self._last_batch = -1
        self._epoch_mark = self._batch_mark = (perf_counter(), self._batches)

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Start the profiler if it is due."""
        self._profile.start_if_due(self._batches + batch - self._last_batch)

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Count batches; stop the profiler and write scalars if they are due."""
        before = self._batches
        self._batches += batch - self._last_batch
        self._last_batch = batch
        if self._profile.last:
            self._profile.stop_if_due(self._batches)
        if self.update_freq != "epoch" and before // self.update_freq < self._batches // self.update_freq:
            self._write_batch(logs or {})

    def on_test_end(self, logs: Logs | None = None) -> None:
        """Write the results of an evaluation against the updates of the optimizer."""
        step = getattr(getattr(self.model, "optimizer", None), "iterations", None)
        if step is not None:
            writer = self._writer("validation")
            write_scalars(writer, "evaluation_", logs or {}, int(step), "_vs_iterations")
            writer.flush()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Write the scalars of the epoch, and whatever else is due."""
        train, module = self._writer("train"), self.model.module
        values = dict(logs or {})
        held_out = {name[4:]: value for name, value in values.items() if name.startswith("val_")}
        values = {name: value for name, value in values.items() if not name.startswith("val_")}
        rate = getattr(self.model.optimizer, "learning_rate", None)
        values |= {} if rate is None else {"learning_rate": float(rate)}
        values |= self._speed(self._epoch_mark)
        write_scalars(train, "epoch_", values, epoch)
        if held_out:
            write_scalars(self._writer("validation"), "epoch_", held_out, epoch)
        self._write_graph()
        if _is_due(epoch, self.histogram_freq):
            write_histograms(train, module, epoch)
        if _is_due(epoch, self.histogram_freq) and self.write_images:
            write_images(train, module, epoch)
        if _is_due(epoch, self.embeddings_freq):
            write_embeddings(train, module, self.embeddings_metadata, epoch)
        for writer in self._writers.values():
            writer.flush()

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Close the files."""
        self.release_resources()

    def state_dict(self) -> StateDict:
        """Return the count of batches."""
        return {"batches": self._batches, "last_batch": self._last_batch}

    def load_state_dict(self, state: StateDict) -> None:
        """Restore the count of batches."""
        self._batches, self._last_batch = state["batches"], state["last_batch"]

    def __getstate__(self) -> StateDict:
        """Omit open files, the hook on the module and a running profiler from copies and pickles."""
        return {**super().__getstate__(), "_writers": {}, "_inputs": None}

    def _write_batch(self, logs: Results) -> None:
        values = {**logs, **self._speed(self._batch_mark)}
        write_scalars(self._writer("train"), "batch_", values, self._batches)
        self._batch_mark = (perf_counter(), self._batches)

    def _speed(self, mark: tuple[float, int]) -> dict[str, float]:
        """Return the steps per second since a time and count, or nothing if they are not written."""
        if not self.write_steps_per_second:
            return {}
        since, before = mark
        return {"steps_per_second": (self._batches - before) / max(perf_counter() - since, 1e-9)}

    def _write_graph(self) -> None:
        """Write the graph once there are inputs. Called between epochs, so that no step waits for it."""
        found = self._inputs
        if found is not None and found.inputs is not None:
            self._inputs = None
            write_graph(self._writer("train"), self.model.module, found.inputs, found.named)

    def _writer(self, run: str) -> _SummaryWriter:
        if run not in self._writers:
            self._writers[run] = open_writer(os.path.join(self.log_dir, run))
        return self._writers[run]

    def unneeded_hooks(self) -> Collection[str]:
        """Return the batch hooks, if nothing is written or recorded in them."""
        if self._profile.last > 0:
            return ()
        counts = self.write_steps_per_second or self.update_freq != "epoch"
        return ("on_train_batch_begin",) if counts else ("on_train_batch_begin", "on_train_batch_end")

    def release_resources(self) -> None:
        """Close the files, stop the profiler and remove the hook from the module."""
        self._profile.stop()
        if self._inputs is not None:
            self._inputs.remove()
        self._inputs = None
        for writer in self._writers.values():
            writer.close()
        self._writers = {}


def _is_due(epoch: int, frequency: int) -> bool:
    return frequency > 0 and epoch % frequency == 0


def _checked_range(profile_batch: object) -> tuple[int, int]:
    """Return the first and the last batch, or (0, 0) for none."""
    pair = profile_batch if isinstance(profile_batch, (tuple, list)) else (profile_batch, profile_batch)
    if len(pair) == 2 and all(isinstance(batch, int) for batch in pair) and 0 <= pair[0] <= pair[1]:
        return int(pair[0]), int(pair[1])
    raise ValueError(
        "profile_batch: expected a batch, counted from 1, a pair of first and last batch, or 0. "
        f"Received: {describe(profile_batch)}"
    )
