"""BackupAndRestore: a training that was interrupted goes on as if nothing had happened."""

import os
import warnings
from collections.abc import Callable
from typing import Any

from torchfit._serialization import archive, files
from torchfit._utils import console
from torchfit._utils.errors import describe
from torchfit.callbacks._writer import Writer
from torchfit.callbacks.base import Callback

_LATEST, _PREVIOUS = "latest.pt", "previous.pt"


class BackupAndRestore(Callback):
    """Store the whole state of a training now and then, and go on from there when `fit` is called again.

    The state is one file in `backup_dir`, written whole or not at all: weights, buffers, optimizer, metrics, the
    state of every callback, the history, the random generators and the position in the data. The same `fit` in a new
    process, with the same data and arguments, goes on with the next step and ends as it would have ended.

    An epoch can be entered in the middle if its data can be gone through again: arrays, tensors, DataFrames,
    Datasets, Sequences that do not change between epochs, DataLoaders over a Dataset with torch's samplers, and
    everything that has `state_dict` and `load_state_dict`. Of all else, such as generators, the state is stored at
    the end of epochs only, with a warning before training starts.

    Callbacks of yours take part if they define `state_dict` and `load_state_dict`. In an epoch that is entered in the
    middle, `on_train_begin` and `on_epoch_begin` are called before the states are restored. Random numbers
    that a Dataset draws in the workers of a DataLoader with `persistent_workers` do not come again.

    Args:
        backup_dir: A folder, made if it is missing; also an address such as `s3://bucket/name`. One for each training.
        save_freq: `"epoch"`, or a number of batches, counted across epochs. The step waits only for the copy to host
            memory; the file is written by a thread. A power cut may bring back the state before the last.
        double_checkpoint: Whether to keep the state before the last as well, for the case that a disk damages the file.
        delete_checkpoint: Whether to delete the state when training ends by itself.

    Raises:
        ValueError: If an argument is not what it must be; before the first epoch, if the file is damaged, or belongs to
            another model or other data.
        TypeError: Before the first epoch, if the state of a callback is more than tensors, arrays and plain data.
        OSError: If a file cannot be written; it is named, and the last one stays as it was.

    >>> backup = BackupAndRestore("runs/backup", save_freq=500)
    """

    _is_builtin = True
    _reads_logs_at_once = True
    _comes_last = True  # behind the callbacks whose states it stores

    _epoch: int
    _last_batch: int
    _unsaved_batches: int

    def __init__(
        self,
        backup_dir: str | os.PathLike[str],
        save_freq: str | int = "epoch",
        double_checkpoint: bool = False,
        delete_checkpoint: bool = True,
    ) -> None:
        if not isinstance(backup_dir, (str, os.PathLike)) or not os.fspath(backup_dir):
            raise ValueError(f"backup_dir: expected a folder. Received: {describe(backup_dir)}")
        self.backup_dir = os.fspath(backup_dir)
        self.save_freq = _checked_frequency(save_freq)
        self.double_checkpoint = double_checkpoint
        self.delete_checkpoint = delete_checkpoint
        self._latest, self._previous = (_join(self.backup_dir, name) for name in (_LATEST, _PREVIOUS))
        self._writer = Writer()
        self._restored: Any = None
        self._forget()

    def on_train_begin(self, logs: Any = None) -> None:
        """Go on with the training that was interrupted, if there was one."""
        self._forget()
        course = self._course()
        if not course.is_resumable:
            warnings.warn(
                "BackupAndRestore: these data cannot be entered in the middle of an epoch (a generator, or data whose "
                "order is not known). The state is stored at the end of epochs only, and a training that was "
                "interrupted goes on with the epoch that it was in. Arrays, Datasets, DataLoaders over a Dataset, and "
                "data with `state_dict` and `load_state_dict` go on with the very next step.",
                stacklevel=2,
            )
        self._try_out(course)
        self._restored = self._read()
        self._take_up()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Remember the epoch. One that was entered in the middle goes on where it was."""
        self._epoch = epoch
        if self._restored is not None and self._course().is_mid_epoch:
            self._take_up()
        self._restored = None

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Count, and store the state when enough batches have come."""
        self._unsaved_batches += batch - self._last_batch
        self._last_batch = batch
        if not self._is_due() or self.model.stop_training or not self._course().is_resumable:
            return
        self._unsaved_batches = 0
        self._save(self._epoch, batch + 1, logs or {})

    def on_test_begin(self, logs: Any = None) -> None:
        """Let no thread write while the workers of a validation are started."""
        self._writer.wait()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Store the state, if epochs are counted or are all that can be stored."""
        self._writer.wait()
        self._last_batch = -1
        if self.save_freq == "epoch" or (self._is_due() and not self._course().is_resumable):
            self._unsaved_batches = 0
            self._save(epoch + 1, 0, {})
            self._writer.wait()

    def on_train_end(self, logs: Any = None) -> None:
        """Delete the state, unless it is to be kept."""
        self._writer.wait()
        if self.delete_checkpoint:
            files.remove(self._latest)
            files.remove(self._previous)
            files.remove_empty_folder(self.backup_dir)

    def _forget(self) -> None:
        self._epoch = 0
        self._last_batch = -1
        self._unsaved_batches = 0

    def _is_due(self) -> bool:
        return self.save_freq != "epoch" and self._unsaved_batches >= int(self.save_freq)

    def _course(self) -> Any:
        course = self.training_state
        if course is None:
            raise RuntimeError("BackupAndRestore: only a training by `fit` can be stored, not a loop of one's own.")
        return course

    def _try_out(self, course: Any) -> None:
        """Find out now what would prevent the first state from being stored."""
        files.require_writable(self.backup_dir)
        archive.to_host(course.state_of("callbacks"))

    def _take_up(self) -> None:
        """Put everything into the state that was read."""
        if self._restored is None:
            return
        try:
            self._course().load_state_dict(self._restored)
        except (ValueError, KeyError) as error:
            raise ValueError(
                f"BackupAndRestore: the state in {self.backup_dir!r} does not fit this training: {error} "
                "To start anew, delete the folder or pass another one."
            ) from error
        position = self._restored["position"]
        # Behind the last step of a state, the next one follows at once.
        self._epoch, self._last_batch = position["epoch"], position["step"] - 1

    def _read(self) -> Any:
        """Return the latest state that can be read, `None` if there is none."""
        if not files.exists(self._previous):
            return archive.read(self._latest) if files.exists(self._latest) else None
        try:
            return archive.read(self._latest)
        except (ValueError, FileNotFoundError) as error:
            console.write_line(f"BackupAndRestore: {error} The state before it is used instead.")
            return archive.read(self._previous)

    def _save(self, epoch: int, step: int, logs: Any) -> None:
        write = archive.prepare_write(self._latest, self._course().state_dict(epoch, step, logs))
        self._writer.start(lambda: self._write(write))

    def _write(self, write: Callable[[], None]) -> None:
        if self.double_checkpoint:
            files.move(self._latest, self._previous)
        write()

    def _hears(self, event: str) -> bool:
        return event != "on_train_batch_end" or self.save_freq != "epoch"

    def _release(self) -> None:
        self._restored = None
        self._writer.release()


def _checked_frequency(save_freq: Any) -> str | int:
    if save_freq == "epoch":
        return "epoch"
    if isinstance(save_freq, int) and not isinstance(save_freq, bool) and save_freq > 0:
        return save_freq
    raise ValueError(f"save_freq: expected 'epoch' or a positive number of batches. Received: {describe(save_freq)}")


def _join(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}" if files.is_remote(folder) else os.path.join(folder, name)
