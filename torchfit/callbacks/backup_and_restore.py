"""`BackupAndRestore`, which resumes an interrupted run where it stopped."""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from torchfit._distribution.processes import current
from torchfit._serialization import archive, files
from torchfit._types import Logs, Results, RunState, StateDict, Stateful
from torchfit._utils import console, validation
from torchfit._utils.errors import describe, reason_of, warn
from torchfit.callbacks.base import HOOKS, Callback
from torchfit.callbacks.history import History, Record
from torchfit.callbacks.model_checkpoint import BackgroundWriter

_LATEST, _PREVIOUS = "latest.pt", "previous.pt"
_CHUNK_EPOCHS = 256  # epochs of a history stored in one file


class BackupAndRestore(Callback):
    """Checkpoints the full training state periodically, and resumes from it on the next `fit`.

    The state is one file in `backup_dir`, written atomically: weights, buffers, optimizer, metrics, the state of
    every callback, the history, the random generators and the position in the data. The same `fit` in a new process,
    with the same data and arguments, continues with the next step and gives bitwise the same results as an
    uninterrupted run.

    An epoch can be resumed in the middle if its data can be replayed: arrays, tensors, DataFrames, Datasets,
    Sequences that do not change between epochs, DataLoaders over a Dataset with torch's samplers, and everything
    that has `state_dict` and `load_state_dict`. With other data, such as generators, the state is stored only at
    the end of epochs, and a warning says so before training starts.

    The history of a long run is stored in additional files, every few hundred epochs, so that checkpoints do not grow.

    With several processes, the primary one reads and writes. The run may be resumed with a different number of them.

    Custom callbacks are included if they define `state_dict` and `load_state_dict`. When an epoch is resumed in the
    middle, `on_train_begin` and `on_epoch_begin` are called before the states are restored. Random numbers drawn in
    the workers of a DataLoader with `persistent_workers` are not reproduced.

    Args:
        backup_dir: A folder, created if missing; also an address such as `s3://bucket/name`. Use one for each run.
        save_freq: `"epoch"`, or a number of batches, counted across epochs. The step waits only for the copy to host
            memory; a thread writes the file. After a power failure the previous checkpoint may be restored.
        double_checkpoint: Whether to keep the previous state as well, in case a disk damages the file.
        delete_checkpoint: Whether to delete the state when training completes.

    Raises:
        ValueError: If an argument is invalid; before the first epoch, if the file is damaged, or belongs to another
            model or other data; when saving, if the state could not be resumed because a callback replaced the
            optimizer or changed its parameter groups.
        TypeError: Before the first epoch, if the state of a callback contains anything but tensors, arrays and plain
            data.
        OSError: If a file cannot be written. The message names it, and the previous file is kept.

    >>> backup = BackupAndRestore("runs/backup", save_freq=500)
    """

    written_logs = ()
    reads_logs_synchronously = True
    runs_last = HOOKS  # after the callbacks whose states it stores

    _not_copied = ("training_state", "_optimizer")
    _epoch: int
    _last_batch: int
    _batches_since_save: int

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
        self.save_freq = validation.save_freq("save_freq", save_freq)
        self.double_checkpoint = double_checkpoint
        self.delete_checkpoint = delete_checkpoint
        path_of = partial(_path_in, self.backup_dir)
        self._latest, self._previous = path_of(_LATEST), path_of(_PREVIOUS)
        self._history = HistoryArchive(path_of)
        self._writer = BackgroundWriter()
        self._restored: StateDict | None = None
        self._reset()

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Resume the interrupted run, if there is one."""
        self._reset()
        files.check_writable("BackupAndRestore: backup_dir", self._latest)
        state = self._state()
        if not state.is_resumable:
            warn(
                "BackupAndRestore: with these data an epoch cannot be resumed in the middle (a generator, or data "
                "whose order is not known). The state is stored at the end of epochs only, and an interrupted run "
                "resumes at the start of its epoch. Arrays, Datasets, DataLoaders over a Dataset, and data with "
                "`state_dict` and `load_state_dict` resume with the very next step."
            )
        self._check_serializable(state)
        self._optimizer = OptimizerStructure(self.model.optimizer)
        self._restored = current().share(self._read)
        self._restore()

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Record the epoch, and restore the state again if the epoch is resumed in the middle."""
        self._epoch = epoch
        if self._restored is not None and self._state().is_mid_epoch:
            self._restore()
        self._restored = None

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Count batches, and store the state every `save_freq` batches."""
        self._batches_since_save += batch - self._last_batch
        self._last_batch = batch
        if not self._is_due() or self.model.stop_training or not self._state().is_resumable:
            return
        self._batches_since_save = 0
        self._save(self._epoch, batch + 1, logs or {})

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Wait for the file, so that no thread writes while the validation starts worker processes."""
        self._writer.wait()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Store the state, if `save_freq` is "epoch" or the data cannot be resumed within an epoch."""
        self._writer.wait()
        self._last_batch = -1
        if self.save_freq == "epoch" or (self._is_due() and not self._state().is_resumable):
            self._batches_since_save = 0
            self._save(epoch + 1, 0, {})
            self._writer.wait()

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Delete the state, unless `delete_checkpoint` is False."""
        self._writer.wait()
        if self.delete_checkpoint and not current().rank:
            files.remove(self._latest)
            files.remove(self._previous)
            self._history.remove()
            files.remove_empty_folder(self.backup_dir)

    def _reset(self) -> None:
        self._epoch = 0
        self._last_batch = -1
        self._batches_since_save = 0
        self._history.reset()

    def _is_due(self) -> bool:
        return self.save_freq != "epoch" and self._batches_since_save >= int(self.save_freq)

    def _state(self) -> RunState:
        if self.training_state is None:
            raise RuntimeError("BackupAndRestore works in `fit` only, not in a custom training loop.")
        return self.training_state

    def _check_serializable(self, state: RunState) -> None:
        """Raise now if the state could not be stored later."""
        files.require_writable(self.backup_dir)
        archive.to_host(state.state_of("callbacks"))

    def _restore(self) -> None:
        """Load the state from the file into the run."""
        if self._restored is None:
            return
        try:
            with self._history.put_back(self.model.history, self._restored.get("history_chunks", 0)):
                self._state().load_state_dict(self._restored)
            position = self._restored["position"]
            # The next batch is the one after the last step of the state.
            self._epoch, self._last_batch = position["epoch"], position["step"] - 1
        except Exception as error:  # A file may contain anything.
            raise ValueError(
                f"BackupAndRestore: the state in {self.backup_dir!r} does not fit this training run: "
                f"{reason_of(error)}. To start again, delete the folder or pass another one."
            ) from error

    def _read(self) -> Any:
        """Return the latest readable state, or None if there is none."""
        if not files.exists(self._previous):
            return archive.read(self._latest) if files.exists(self._latest) else None
        try:
            return archive.read(self._latest)
        except (ValueError, FileNotFoundError) as error:
            console.write_line(f"BackupAndRestore: {error} The previous state is used instead.")
            return archive.read(self._previous)

    def on_interrupt(self, epoch: int, step: int) -> None:
        """Store the state before a step at which all processes stop because of a signal."""
        if step == 0 or self._state().is_resumable:
            self._save(epoch, step, {})
            self._writer.wait()

    def _save(self, epoch: int, step: int, logs: Results) -> None:
        self._optimizer.check(self.model.optimizer)
        if current().rank:
            return
        history = self.model.history
        write_chunk = self._history.prepare_chunk(history)
        with self._history.leave_out(history):
            state = self._state().state_dict(epoch, step, logs)
        write = archive.prepare_write(self._latest, {**state, "history_chunks": self._history.num_chunks})
        self._writer.start(lambda: self._write(write, write_chunk))

    def _write(self, write: Callable[[], None], write_chunk: Callable[[], None] | None) -> None:
        if write_chunk is not None:
            write_chunk()
        if self.double_checkpoint:
            files.move(self._latest, self._previous)
        write()

    def unneeded_hooks(self) -> Collection[str]:
        """Return the hook that counts batches, if `save_freq` is "epoch"."""
        return ("on_train_batch_end",) if self.save_freq == "epoch" else ()

    def release_resources(self) -> None:
        """Wait for the last file."""
        self._restored = None
        self._writer.close()


def _path_in(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}" if files.is_remote(folder) else os.path.join(folder, name)


class OptimizerStructure:
    """The parts of an optimizer that a new `fit` recreates and a state cannot restore: the object and its groups."""

    def __init__(self, optimizer: Stateful) -> None:
        self._optimizer = optimizer
        self._groups = _groups_of(optimizer)

    def check(self, optimizer: Stateful) -> None:
        """Check that a state of the optimizer could be loaded into the one that the next `fit` starts with.

        Raises:
            ValueError: If a callback replaced the optimizer, or changed parameter groups whose names it does not know.
        """
        if optimizer is not self._optimizer:
            raise ValueError(
                "BackupAndRestore: a callback replaced the optimizer, as `compile` does. The run could not be resumed, "
                "because `fit` would start with the first one. Change the settings of the optimizer instead, or train "
                "in two calls of `fit`."
            )
        groups = _groups_of(optimizer)
        if not self._groups:
            self._groups = groups  # It was not built before.
        if groups != self._groups and None in optimizer.state_dict().get("names", [None]):
            raise ValueError(
                "BackupAndRestore: a callback changed the parameter groups of the optimizer: "
                f"{self._groups} parameters before, {groups} now. The run could not be resumed, because `fit` "
                "would start with the first ones. Create all groups before `fit`, or use FineTuning."
            )


def _groups_of(optimizer: object) -> list[int]:
    """Return the number of parameters in each group of a `torch.optim` optimizer."""
    groups = getattr(getattr(optimizer, "optimizer", None), "param_groups", ())
    return [len(group["params"]) for group in groups]


class HistoryArchive:
    """Stores a history in chunks that are written once; a state contains their number and the epochs since then.

    Args:
        path_of: A function that returns the path of a file, given its name.

    Attributes:
        num_chunks: The number of chunks.
    """

    def __init__(self, path_of: Callable[[str], str]) -> None:
        self._path_of = path_of
        self.reset()

    def reset(self) -> None:
        """Start again without chunks."""
        self.num_chunks = 0
        self._lengths: Mapping[str, int] = {}

    def prepare_chunk(self, history: History) -> Callable[[], None] | None:
        """Return a function that writes the next chunk, if there are enough epochs; later states omit these epochs."""
        lengths = history.lengths()
        if max(length - self._lengths.get(name, 0) for name, length in lengths.items()) < _CHUNK_EPOCHS:
            return None
        write = archive.prepare_write(self._path(self.num_chunks), history.record(self._lengths))
        self.num_chunks, self._lengths = self.num_chunks + 1, lengths
        return write

    @contextmanager
    def leave_out(self, history: History) -> Iterator[None]:
        """Make `history.state_dict` omit the epochs stored in chunks."""
        history.stored_lengths = self._lengths
        try:
            yield
        finally:
            history.stored_lengths = {}

    @contextmanager
    def put_back(self, history: History, num_chunks: int) -> Iterator[None]:
        """Make `history.load_state_dict` prepend the epochs of `num_chunks` chunks.

        Raises:
            ValueError: If a chunk is missing or damaged.
        """
        chunks: list[Record] = []
        for number in range(num_chunks):
            if not current().share(partial(files.exists, self._path(number))):
                raise ValueError(f"The file {self._path(number)!r} is missing.")
            chunks.append(current().share(partial(archive.read, self._path(number))))
        history.stored_records = chunks
        try:
            yield
        finally:
            history.stored_records = ()
        self.num_chunks, self._lengths = num_chunks, _total_lengths(chunks)

    def remove(self) -> None:
        """Delete the files."""
        for number in range(self.num_chunks):
            files.remove(self._path(number))

    def _path(self, number: int) -> str:
        return self._path_of(f"history_{number}.pt")


def _total_lengths(chunks: Iterable[Record]) -> dict[str, int]:
    lengths: dict[str, int] = {}
    for chunk in chunks:
        for name, values in {"": chunk["epoch"], **chunk["history"]}.items():
            lengths[name] = lengths.get(name, 0) + len(values)
    return lengths
