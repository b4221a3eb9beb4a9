"""ModelCheckpoint: save the model now and then."""

import os
import re
from collections.abc import Mapping
from string import Formatter
from typing import Any

from torchfit._serialization.files import check_writable
from torchfit._utils import console
from torchfit._utils.errors import describe
from torchfit.callbacks._monitor import Watch, check_monitor
from torchfit.callbacks._writer import Writer
from torchfit.callbacks.base import Callback


class ModelCheckpoint(Callback):
    """Save the model or its weights at the end of epochs, or every so many batches.

    Args:
        filepath: where to, a string or path. Fields are filled in: `{epoch}` and `{batch}`, both from 1, and
            any name in the logs: `"{epoch:02d}-{val_loss:.2f}"`. Missing folders are made when saving.
        monitor: name in the logs that tells which model is best.
        verbose: 1 says what is saved.
        save_best_only: save only if `monitor` has improved.
        save_weights_only: call `model.save_weights`, else `model.save`.
        mode: `"min"`, `"max"`, or `"auto"`: the metric itself says which way is better.
        save_freq: `"epoch"`, or a number of batches, counted across epochs. With `steps_per_execution=K` it
            is looked at every K batches. Values of `logs` are then averages over the epoch so far.
        initial_value_threshold: the value to beat at first, with `save_best_only`.

    Attributes:
        best: the best value so far, or `initial_value_threshold`, or None. It is kept over several `fit`s.

    Raises:
        ValueError: before the first epoch, for settings that can never save: a monitor or a field that cannot
            occur, a validation value or nothing but epochs where batches are counted.
        OSError: before the first epoch, if the folder, or the nearest one above that is there, cannot be written; when
            a file could not be written, which it names.
        KeyError: when saving, if a field is missing in this epoch's logs.

    Counting batches costs one call per step; reading values for the file name or `monitor` waits for the
    device, only when it is time to save. Where batches are counted, training goes on as soon as the model is
    copied, and a thread writes the file. It is there, whole, when the next one is begun, when a validation or the
    end of the epoch is told to the callbacks that come after this one, and when `fit` ends, by an exception as
    well; until then, the one before it is. At the end of epochs, it is there at once. A model with a `save` (or
    `save_weights`) of its own is always written at once, by it.

    >>> checkpoint = ModelCheckpoint("runs/{epoch:02d}-{val_loss:.2f}", save_best_only=True)
    """

    _is_builtin = True
    _reads_logs_at_once = True

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
        self.save_freq = _checked_frequency(save_freq)
        self.initial_value_threshold = initial_value_threshold
        self.best: Any = initial_value_threshold
        self._watch = Watch(type(self).__name__, monitor, mode)
        self._fields = _fields(self.filepath)
        self._epoch = 0
        self._last_batch = -1
        self._unsaved_batches = 0
        self._writer = Writer()

    def on_train_begin(self, logs: Any = None) -> None:
        """Refuse settings that can never save."""
        names = [name for name in self._fields if name not in ("epoch", "batch")]
        if self.save_freq == "epoch" and "batch" in self._fields:
            raise ValueError("ModelCheckpoint: filepath: {batch} needs an integer save_freq.")
        if self.save_best_only:
            self._watch.check(self.model, self.params)
            names.append(self.monitor)
        for name in names:
            self._check_name(name)
        check_writable("ModelCheckpoint: filepath", self.filepath.partition("{")[0])

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Remember the epoch, for file names."""
        self._epoch = epoch

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Save, if epochs are counted."""
        self._writer.wait()
        if self.save_freq == "epoch":
            self._consider({"epoch": epoch + 1}, logs or {})

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Count, and save when enough batches have come."""
        if self.save_freq == "epoch":
            return
        # A smaller index than the last one: a new epoch.
        self._unsaved_batches += batch + 1 if batch <= self._last_batch else batch - self._last_batch
        self._last_batch = batch
        if self._unsaved_batches >= int(self.save_freq):
            self._unsaved_batches = 0
            self._consider({"epoch": self._epoch + 1, "batch": batch + 1}, logs or {})

    def on_test_begin(self, logs: Any = None) -> None:
        """Let no thread write while the workers of a validation are started."""
        self._writer.wait()

    def on_train_end(self, logs: Any = None) -> None:
        """Wait for the last file."""
        self._writer.wait()

    def state_dict(self) -> dict[str, Any]:
        """Return the best value and the count of batches; their files are there then."""
        self._writer.wait()
        return {"best": self.best, "last_batch": self._last_batch, "unsaved_batches": self._unsaved_batches}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting."""
        self.best = state["best"]
        self._last_batch, self._unsaved_batches = state["last_batch"], state["unsaved_batches"]

    def _consider(self, position: dict[str, int], logs: Mapping[str, Any]) -> None:
        """Save if there is no reason against it, and say so."""
        epoch = f"\nEpoch {position['epoch']:05d}:"
        if not self.save_best_only:
            path = self._path(position, logs)
            self._say(f"{epoch} saving model to {path}")
            self._save(path)
            return
        value = self._watch.read(self.model, self.params, logs)
        if value is None:
            return
        best = self._watch.worst if self.best is None else self.best
        if not self._watch.improved(value, self.best):
            self._say(f"{epoch} {self.monitor} did not improve from {best:.5f}")
            return
        path = self._path(position, logs)
        self._say(f"{epoch} {self.monitor} improved from {best:.5f} to {value:.5f}, saving model to {path}")
        self._save(path)
        self.best = value

    def _path(self, position: dict[str, int], logs: Mapping[str, Any]) -> str:
        """Fill the fields in; the logs are not read if no field asks for them."""
        values: dict[str, Any] = dict(position)
        for name in self._fields:
            if name not in values and name not in logs:
                raise KeyError(
                    f"ModelCheckpoint: filepath: {self.filepath!r} needs {name!r}. "
                    f"Names in these logs: {', '.join(logs) or 'none'}."
                )
            values.setdefault(name, logs[name] if name not in values else None)
        return self.filepath.format(**values)

    def _save(self, path: str) -> None:
        later = getattr(self.model, "prepare_save", None)
        write = None if later is None or self.save_freq == "epoch" else later(path, self.save_weights_only)
        if write is not None:
            self._writer.start(write)
            return
        folder = os.path.dirname(path)
        if folder and "://" not in path:
            os.makedirs(folder, exist_ok=True)
        (self.model.save_weights if self.save_weights_only else self.model.save)(path)

    def _say(self, text: str) -> None:
        if self.verbose > 0:
            console.write_line(text)

    def _check_name(self, name: str) -> None:
        if self.save_freq != "epoch" and name.startswith("val_"):
            raise ValueError(
                f"ModelCheckpoint: {name!r} is known at the end of epochs only, but save_freq counts batches. "
                "Use save_freq='epoch', or a training value."
            )
        names = self.params.get("metrics")
        if names is not None and self.params.get("metrics_complete", True):
            check_monitor(name, names, "ModelCheckpoint: filepath or monitor")

    def _hears(self, event: str) -> bool:
        return event not in ("on_train_batch_end", "on_test_begin", "on_train_end") or self.save_freq != "epoch"

    def _release(self) -> None:
        self._writer.release()


def _checked_frequency(save_freq: Any) -> str | int:
    if save_freq == "epoch":
        return "epoch"
    if isinstance(save_freq, int) and not isinstance(save_freq, bool) and save_freq > 0:
        return save_freq
    raise ValueError(f"save_freq: expected 'epoch' or a positive number of batches. Received: {describe(save_freq)}")


def _fields(template: str) -> list[str]:
    """Return the names between braces, without attributes, indices and formats."""
    names = [re.split(r"[.\[]", field)[0] for _, field, _, _ in Formatter().parse(template) if field is not None]
    if any(not name or name.isdigit() for name in names):
        raise ValueError(f"filepath: fields need names, such as {{epoch}}. Received: {template!r}")
    return names
