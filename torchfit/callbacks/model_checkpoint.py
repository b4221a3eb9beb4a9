"""`ModelCheckpoint`, which saves the model periodically."""

import os
import re
from collections.abc import Collection
from string import Formatter

from torchfit._serialization.files import check_writable
from torchfit._types import Logs, Results, StateDict
from torchfit._utils import console, validation
from torchfit._utils.names import near_names
from torchfit.callbacks._background_writer import BackgroundWriter
from torchfit.callbacks.base import Callback, Monitor, check_monitor


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
        """Fill in the fields. The logs are read only if a field needs them."""
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
