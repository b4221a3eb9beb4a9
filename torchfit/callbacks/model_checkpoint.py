"""ModelCheckpoint, and the thread that writes checkpoints."""

import os
import re
from collections.abc import Callable, Collection
from queue import SimpleQueue
from string import Formatter
from threading import Event, Thread
from typing import TypeAlias

from torchfit._serialization.files import check_writable
from torchfit._types import Logs, Results, StateDict
from torchfit._utils import console, validation
from torchfit._utils.errors import warn
from torchfit._utils.names import near_names
from torchfit.callbacks.base import Callback, Monitor, check_monitor

Tasks: TypeAlias = "SimpleQueue[tuple[_PendingWrite, Callable[[], None]] | None]"


class BackgroundWriter:
    """Writes one file at a time in a thread; errors are re-raised by `wait()`.

    A plain thread is used because a `ThreadPoolExecutor` spends more time holding the GIL. It is started with the first
    file. Copies and pickles have no pending file and no thread.

    A checkpoint between steps costs 2.1 to 2.5 steps of a tiny network (1 ms each), or a tenth of a 20 ms step. For the
    tiny network, 0.9 steps are spent on collecting, pickling and copying the state, nearly all of it Python code that
    has left the CPU caches since the last checkpoint; 0.3 on steps that run with cold caches; 0.8 to 1.1 on the thread.
    Of the latter, `fsync` takes 0.3 to 0.4, and the rest is waiting for the GIL, once per system call, so that the
    thread makes as few of them as possible. Alternatives that were measured and rejected: checksums in the main thread
    (no gain), reusing files (gains 0.1), opening and writing in the main thread (0.5 slower), and a writer process
    (gains 0.15 to 0.3, but must be started, monitored, and kept from outliving a killed run).
    """

    def __init__(self) -> None:
        self._tasks: Tasks | None = None
        self._thread: Thread | None = None
        self._file: _PendingWrite | None = None

    def start(self, write: Callable[[], None]) -> None:
        """Start writing a file, after the previous one is written.

        Raises:
            OSError: If the previous file could not be written.
        """
        self.wait()
        if self._tasks is None:
            self._tasks = SimpleQueue()
            self._thread = Thread(target=_run, args=[self._tasks], name="torchfit-writer", daemon=True)
            self._thread.start()
        self._file = _PendingWrite()
        self._tasks.put((self._file, write))

    def wait(self) -> None:
        """Wait until the file is written.

        Raises:
            OSError: If it could not be written.
        """
        file = self._file
        if file is not None:
            file.done.wait()  # If this is interrupted, the next call still waits for the file.
            self._file = None
            if file.error is not None:
                raise file.error

    def close(self) -> None:
        """Wait and end the thread. An error becomes a warning, because another exception may be propagating."""
        try:
            self.wait()
        except OSError as error:
            warn(f"A file of this training run was not written: {error}")
        finally:
            if self._tasks is not None and self._thread is not None:
                self._tasks.put(None)
                self._thread.join()
                self._tasks = self._thread = None

    def __getstate__(self) -> StateDict:
        """Return the attributes of a new writer."""
        return vars(BackgroundWriter())


class _PendingWrite:
    """A file that is being written."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.done = Event()


def _run(tasks: Tasks) -> None:
    """Run the tasks in order, until `None` is received."""
    for file, write in iter(tasks.get, None):
        try:
            write()
        except BaseException as error:
            file.error = error
        file.done.set()
        del file, write  # Otherwise the contents would stay in memory until the next file.


class ModelCheckpoint(Callback):
    """Saves the model or its weights at the end of epochs, or every `save_freq` batches.

    Args:
        filepath: The path of the file. It may contain the fields `{epoch}` and `{batch}`, both counted from 1, and any
            name in the logs: `"{epoch:02d}-{val_loss:.2f}"`. Missing folders are created when saving.
        monitor: The name in the logs that determines which model is best.
        verbose: 1 prints what is saved.
        save_best_only: Whether to save only if `monitor` has improved.
        save_weights_only: Whether to call `model.save_weights` instead of `model.save`.
        mode: `"min"`, `"max"`, or `"auto"`, which uses the mode of the metric.
        save_freq: `"epoch"`, or a number of batches, counted across epochs. With `steps_per_execution=K` it is
            checked every K batches. Values in `logs` are then averages over the epoch so far.
        initial_value_threshold: The first value to beat, with `save_best_only`.

    Attributes:
        best: The best value so far, or `initial_value_threshold`, or None. It persists between calls of `fit`.

    Raises:
        ValueError: Before the first epoch, for settings that can never save: a monitor or a field that cannot occur,
            or a value of validation when `save_freq` counts batches.
        OSError: Before the first epoch, if the folder, or its nearest existing parent, cannot be written to; later,
            if a file could not be written; the message names it.
        KeyError: When saving, if a field is missing in the logs of this epoch.

    Counting batches costs one call per step. Values for the file name or `monitor` are read only when saving, which
    synchronizes with the device. If `save_freq` counts batches, training continues once the model is copied, and a
    thread writes the file. The file is complete before the next save starts, before validation, at the end of the
    epoch, and when `fit` returns or raises. Until then the previous file is in place. At the end of epochs, and for
    models that override `save` (or `save_weights`), the file is written immediately.

    >>> checkpoint = ModelCheckpoint("runs/{epoch:02d}-{val_loss:.2f}", save_best_only=True)
    """

    is_writer = True
    written_logs = ()
    reads_logs_synchronously = True

    def __init__(
        self,
        filepath: str | os.PathLike[str],
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: str = "auto",
        save_freq: str | int = "epoch",
        initial_value_threshold: float | None = None,
    ) -> None:
        self.filepath = os.fspath(filepath)
        self.monitor = monitor
        self.verbose = verbose
        self.save_best_only = save_best_only
        self.save_weights_only = save_weights_only
        self.mode = mode
        self.save_freq = validation.save_freq("save_freq", save_freq)
        self.initial_value_threshold = initial_value_threshold
        self.best: float | None = initial_value_threshold
        self._monitor = Monitor(type(self).__name__, monitor, mode)
        self._field_names = _field_names(self.filepath)
        self._epoch = 0
        self._last_batch = -1
        self._batches_since_save = 0
        self._writer = BackgroundWriter()

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Raise ValueError for settings that can never save."""
        names = [name for name in self._field_names if name not in ("epoch", "batch")]
        if self.save_freq == "epoch" and "batch" in self._field_names:
            raise ValueError("ModelCheckpoint: filepath: {batch} needs an integer save_freq.")
        if self.save_best_only:
            self._monitor.check(self.model, self.params)
            names.append(self.monitor)
        for name in names:
            self._check_name(name)
        check_writable("ModelCheckpoint: filepath", self.filepath.partition("{")[0])

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Record the epoch, for file names."""
        self._epoch = epoch

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Save, if `save_freq` is "epoch"."""
        self._writer.wait()
        if self.save_freq == "epoch":
            self._maybe_save({"epoch": epoch + 1}, logs or {})

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Count batches, and save every `save_freq` batches."""
        if self.save_freq == "epoch":
            return
        # A smaller index than the last one means a new epoch.
        self._batches_since_save += batch + 1 if batch <= self._last_batch else batch - self._last_batch
        self._last_batch = batch
        if self._batches_since_save >= int(self.save_freq):
            self._batches_since_save = 0
            self._maybe_save({"epoch": self._epoch + 1, "batch": batch + 1}, logs or {})

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Wait for the file, so that no thread writes while the validation starts worker processes."""
        self._writer.wait()

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Wait for the last file."""
        self._writer.wait()

    def state_dict(self) -> StateDict:
        """Return the best value and the count of batches, after the pending file is written."""
        self._writer.wait()
        return {"best": self.best, "last_batch": self._last_batch, "unsaved_batches": self._batches_since_save}

    def load_state_dict(self, state: StateDict) -> None:
        """Restore the best value and the count of batches."""
        self.best = state["best"]
        self._last_batch, self._batches_since_save = state["last_batch"], state["unsaved_batches"]

    def _maybe_save(self, position: dict[str, int], logs: Results) -> None:
        """Save, unless `monitor` must improve and did not, and print the result."""
        epoch = f"\nEpoch {position['epoch']:05d}:"
        if not self.save_best_only:
            path = self._path(position, logs)
            self._print(f"{epoch} saving model to {path}")
            self._save(path)
            return
        value = self._monitor.read(self.model, self.params, logs)
        if value is None:
            return
        best = self._monitor.worst_value if self.best is None else self.best
        if not self._monitor.is_improvement(value, self.best):
            self._print(f"{epoch} {self.monitor} did not improve from {best:.5f}")
            return
        path = self._path(position, logs)
        self._print(f"{epoch} {self.monitor} improved from {best:.5f} to {value:.5f}, saving model to {path}")
        self._save(path)
        self.best = value

    def _path(self, position: dict[str, int], logs: Results) -> str:
        """Return the path with its fields filled in. The logs are read only if a field needs them."""
        values: dict[str, object] = dict(position)
        for name in self._field_names:
            if name not in values and name not in logs:
                raise KeyError(
                    f"ModelCheckpoint: filepath: {self.filepath!r} needs {name!r}. "
                    f"Names in these logs: {', '.join(logs) or 'none'}."
                )
            values.setdefault(name, logs[name] if name not in values else None)
        return self.filepath.format(**values)

    def _save(self, path: str) -> None:
        prepare = getattr(self.model, "prepare_save", None)
        write = None if prepare is None or self.save_freq == "epoch" else prepare(path, self.save_weights_only)
        if write is not None:
            self._writer.start(write)
            return
        folder = os.path.dirname(path)
        if folder and "://" not in path:
            os.makedirs(folder, exist_ok=True)
        (self.model.save_weights if self.save_weights_only else self.model.save)(path)

    def _print(self, text: str) -> None:
        if self.verbose > 0:
            console.write_line(text)

    def _check_name(self, name: str) -> None:
        if self.save_freq != "epoch" and name.startswith("val_"):
            raise ValueError(
                f"ModelCheckpoint: {name!r} is known only at the end of epochs, but save_freq counts batches. "
                "Use save_freq='epoch', or a training value."
            )
        names = self.params.get("metrics")
        if names is not None and self.params.get("metrics_complete", True):
            near = near_names(name, ("epoch", "batch"))
            if near and name not in names:
                raise ValueError(f"ModelCheckpoint: filepath: {{{name}}} is not known. Did you mean {{{near[0]}}}?")
            check_monitor(name, names, "ModelCheckpoint: filepath or monitor")

    def unneeded_hooks(self) -> Collection[str]:
        """Return the hooks that count batches and wait for the thread, if `save_freq` is "epoch"."""
        return ("on_train_batch_end", "on_test_begin", "on_train_end") if self.save_freq == "epoch" else ()

    def release_resources(self) -> None:
        """Wait for the last file."""
        self._writer.close()


def _field_names(template: str) -> list[str]:
    """Return the names between braces, without attributes, indices and formats."""
    names = [re.split(r"[.\[]", field)[0] for _, field, _, _ in Formatter().parse(template) if field is not None]
    if any(not name or name.isdigit() for name in names):
        raise ValueError(f"filepath: fields need names, such as {{epoch}}. Received: {template!r}")
    return names
