"""Distributes the rows of each batch over several processes."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, repeat
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from torchfit._data.batch_source import BatchSource
from torchfit._types import StateDict, UserData
from torchfit._utils import tree
from torchfit._utils.errors import describe
from torchfit._utils.tree import Batch

Fingerprint = tuple[object, str, str]
"""Shape, or length, of data, their dtype and a digest of some rows."""

_FINGERPRINT_ROWS = 64


class BatchPart(Batch):
    """The rows of a batch that this process takes.

    If there is no row left for a process, it gets a row of another process, so that it runs the same code, and `rows`
    is 0.

    Attributes:
        first: The position of its first row in the batch.
        rows: The number of its rows that count.
        total: The number of rows in the whole batch.
    """

    first: int
    rows: int
    total: int


class WholeBatches:
    """The share of a single process: all rows."""

    def part_of(self, batches: BatchSource) -> BatchSource:
        """Return the batches unchanged."""
        return batches

    def check(self, arguments: Mapping[str, UserData]) -> None:
        """Have nothing to compare."""


WHOLE_BATCHES = WholeBatches()


class RowsOfProcess:
    """The share of one of several processes: of a batch of k rows, those from `rank * k // size` on.

    Args:
        rank: The number of the process, from 0.
        size: The number of processes.
        gather: Returns what all processes pass to it.
        are_equal: Returns whether all processes pass the same number to it.

    Attributes:
        is_dealt_out: Whether all processes have the same data.
    """

    is_dealt_out = True

    def __init__(
        self, rank: int, size: int, gather: Callable[[object], list[Any]], are_equal: Callable[[int], bool]
    ) -> None:
        self.rank, self.size, self._gather, self._are_equal = rank, size, gather, are_equal

    def bounds(self, total: int, rank: int | None = None) -> tuple[int, int]:
        """Return the first row of a process in a batch of `total` rows, and the end of its rows.

        >>> [RowsOfProcess(rank, 3, list, bool).bounds(4) for rank in range(3)]
        [(0, 1), (1, 2), (2, 4)]
        """
        rank = self.rank if rank is None else rank
        return rank * total // self.size, (rank + 1) * total // self.size

    def slice(self, total: int) -> slice:
        """Return the rows to read from a batch: those of this process or, if there are none, one of another process."""
        first, last = self.bounds(total)
        return slice(first, last) if last > first else slice(min(first, total - 1), min(first, total - 1) + 1)

    def mark(self, batch: Batch, total: int) -> BatchPart:
        """Return the rows of this process with their position in the batch."""
        first, last = self.bounds(total)
        return _mark(batch, min(first, total - 1), last - first, total)

    def move(self, batch: Batch, part: Batch) -> BatchPart:
        """Return a batch with the position of `part`."""
        assert isinstance(part, BatchPart)
        return _mark(batch, part.first, part.rows, part.total)

    def take(self, batch: Batch) -> BatchPart:
        """Return the rows of this process from a batch.

        Raises:
            ValueError: If the parts of the batch are not tensors with the same number of rows.
        """
        total = _count_rows(batch)
        rows = self.slice(total)
        own = tree.map(lambda leaf: leaf[rows] if isinstance(leaf, Tensor) and leaf.ndim else leaf, tuple(batch))
        return self.mark(tuple.__new__(Batch, own), total)

    def part_of(self, batches: BatchSource) -> BatchSource:
        """Return the rows of this process from all batches."""
        return batches.take_part(self) or PartBatches(batches, self)

    def agreed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield batches that are read as a whole, after checking that all processes have a batch of the same size.

        Raises:
            RuntimeError: If the sizes differ, or the data end in some processes only.
        """
        for batch in chain(batches, [None]):
            total = 0 if batch is None else _count_rows(batch)
            if not self._are_equal(total):
                raise RuntimeError(
                    "The batches of the processes differ: this one has "
                    f"{f'a batch of {total} rows' if total else 'no more batches'}, and another one something else. "
                    "Every process must pass the same data, of which it takes a part: seed the random generators "
                    "that they depend on."
                )
            if batch is not None:
                yield batch

    def check(self, arguments: Mapping[str, UserData]) -> None:
        """Check that all processes pass the same data, given by argument.

        Raises:
            ValueError: If the data differ, or a sampler has distributed them already.
        """
        problems = filter(None, (_sampler_problem(argument, data) for argument, data in arguments.items()))
        own = {name: one for argument, data in arguments.items() for name, one in fingerprint(argument, data).items()}
        gathered = self._gather((next(problems, None), own))
        for other, _ in gathered:
            if other is not None:
                raise ValueError(other)
        fingerprints = [one for _, one in gathered]
        for name in dict.fromkeys(name for one in fingerprints for name in one):
            values = [one.get(name) for one in fingerprints]
            for rank, value in enumerate(values):
                if value != values[0]:
                    raise ValueError(
                        f"`{name}` differs between process 0 and process {rank}: {_format_fingerprint(values[0])} "
                        f"there, {_format_fingerprint(value)} here. Every process must pass the same data, of which it "
                        "then takes a part. Seed the generators before you make it, or load it from a file."
                    )


def _mark(batch: Batch, first: int, rows: int, total: int) -> BatchPart:
    part: BatchPart = tuple.__new__(BatchPart, batch)
    part.first, part.rows, part.total = first, rows, total
    return part


class OwnData:
    """What a process takes that has data of its own: all rows. A batch is made of one from each process.

    Args:
        rank: The number of the process, from 0.
        counts: Returns the numbers that all processes pass to it.
    """

    is_dealt_out = False

    def __init__(self, rank: int, counts: Callable[[int], list[int]]) -> None:
        self._rank, self.counts = rank, counts

    def take(self, batch: Batch) -> BatchPart:
        """Return a batch as the part of one that has the rows of all processes."""
        return self.join(batch, self.counts(_count_rows(batch)))

    def join(self, batch: Batch, counts: list[int]) -> BatchPart:
        """Return a batch as a part of one that has these numbers of rows from the processes."""
        return _mark(batch, sum(counts[: self._rank]), counts[self._rank], sum(counts))

    def part_of(self, batches: BatchSource) -> BatchSource:
        """Return batches that have the rows of all processes."""
        return JoinedBatches(batches, self)

    def check(self, arguments: Mapping[str, UserData]) -> None:
        """Have nothing to compare."""


RowsTaken = RowsOfProcess | OwnData
"""Which rows of a batch one of several processes takes."""


class PartBatches(BatchSource):
    """The rows of this process from batches that are read as a whole."""

    def __init__(self, batches: BatchSource, rows: RowsTaken) -> None:
        """Take a part of each batch of `batches`."""
        self._batches, self._rows = batches, rows
        self.is_resumable, self.is_indexed = batches.is_resumable, batches.is_indexed
        self.may_be_exhausted, self.has_exact_length = batches.may_be_exhausted, batches.has_exact_length

    @property
    def steps(self) -> int | None:  # type: ignore[override]
        """The number of batches."""
        return self._batches.steps

    @property
    def samples(self) -> int | None:  # type: ignore[override]
        """The number of samples in an epoch over all processes."""
        return self._batches.samples

    @property
    def seed(self) -> int:
        """The seed that determines the order of an epoch."""
        return self._batches.seed

    @seed.setter
    def seed(self, value: int) -> None:
        self._batches.seed = value

    @property
    def yields_views(self) -> bool:  # type: ignore[override]
        """Whether batches take no memory of their own."""
        return self._batches.yields_views

    def epoch(self, index: int, start: int = 0) -> Iterator[Batch]:
        """Yield the rows of this process from the batches of an epoch; unknown batch sizes are compared."""
        assert isinstance(self._rows, RowsOfProcess)
        batches = self._batches.epoch(index, start)
        return map(self._rows.take, batches if self.samples is not None else self._rows.agreed(batches))

    def reread(self, index: int) -> Iterator[Batch] | None:
        """Return the whole batches of an epoch once more, or `None` if drawing them would have side effects."""
        return self._batches.reread(index)

    def on_epoch_end(self) -> None:
        """Called at the end of an epoch."""
        self._batches.on_epoch_end()

    def peek(self) -> Batch | None:
        """Return a part of a batch like the first one."""
        batch = self._batches.peek()
        return None if batch is None else self._rows.take(batch)

    def state_dict(self, is_mid_epoch: bool = False) -> StateDict:
        """Return the state that the remaining batches depend on."""
        return self._batches.state_dict(is_mid_epoch)

    def load_state_dict(self, state: StateDict) -> None:
        """Continue with the batches that remained when `state_dict` returned this state."""
        self._batches.load_state_dict(state)


class JoinedBatches(PartBatches):
    """Batches made of one from each process, until the data of all of them have ended."""

    def __init__(self, batches: BatchSource, own: OwnData) -> None:
        """Join each batch of `batches` with one from every other process."""
        super().__init__(batches, own)
        self._own = own
        steps, samples = (own.counts(-1 if number is None else number) for number in (batches.steps, batches.samples))
        self._steps = None if min(steps) < 0 else max(steps)
        self._samples = None if min(samples) < 0 else sum(samples)

    @property
    def steps(self) -> int | None:  # type: ignore[override]
        """The number of batches."""
        return self._steps

    @property
    def samples(self) -> int | None:  # type: ignore[override]
        """The number of samples of all processes."""
        return self._samples

    def epoch(self, index: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch; without rows, but with one that does not count, where the own ones ended."""
        last = self._batches.peek()
        for batch in chain(self._batches.epoch(index, start), repeat(None)):
            counts = self._own.counts(0 if batch is None else _count_rows(batch))
            if not sum(counts):
                return
            last = last if batch is None else batch
            if last is None:
                raise ValueError("This process has no data, not even one row. Every process must have a batch.")
            yield self._own.join(last if batch is not None else _first_row(last), counts)

    def peek(self) -> Batch | None:
        """Return a batch like the first one of this process."""
        batch = self._batches.peek()
        return None if batch is None else _mark(batch, 0, _count_rows(batch), _count_rows(batch))


def _first_row(batch: Batch) -> Batch:
    rows = tree.map(lambda leaf: leaf[:1] if isinstance(leaf, Tensor) and leaf.ndim else leaf, tuple(batch))
    return tuple.__new__(Batch, rows)


def _count_rows(batch: Batch) -> int:
    """Return the number of rows, which must be the same for all tensors of a batch."""
    leaves = tree.leaves(tuple(batch))
    sizes = {leaf.shape[0] for leaf in leaves if isinstance(leaf, Tensor) and leaf.ndim}
    if len(sizes) != 1 or not all(isinstance(leaf, Tensor) for leaf in leaves):
        raise ValueError(
            "Several processes share the rows of a batch, so all of its parts must be tensors with the same number of "
            f"rows. Received: {', '.join(map(describe, leaves))}. Pass tensors (batch, …), or train with one process."
        )
    return int(sizes.pop())


def _sampler_problem(argument: str, data: UserData) -> str | None:
    if isinstance(data, DataLoader) and isinstance(data.sampler, DistributedSampler):
        return (
            f"`{argument}` is a DataLoader with a DistributedSampler, which repeats rows and gives each process "
            "different ones. Pass a DataLoader without it, or the Dataset itself: every process takes its own rows "
            "of each batch."
        )
    return None


def fingerprint(argument: str, data: UserData) -> dict[str, Fingerprint]:
    """Return a fingerprint of data: shape, dtype and some rows of tensors and arrays, else the length."""
    leaves = dict(tree.leaves_with_path(data))
    if all(hasattr(leaf, "shape") and hasattr(leaf, "dtype") for leaf in leaves.values()):
        return {tree.format_path(path, argument): _array_fingerprint(leaf) for path, leaf in leaves.items()}
    try:
        return {argument: (len(data), "", "")}
    except (TypeError, NotImplementedError):
        return {}


def _array_fingerprint(array: UserData) -> Fingerprint:
    rows = int(array.shape[0]) if len(array.shape) else 0
    sampled = array[:: max(1, rows // _FINGERPRINT_ROWS)] if rows else array
    return tuple(array.shape), str(array.dtype), _digest(sampled)


def _digest(array: UserData) -> str:
    """Return a short digest of numbers, or "" for anything else and for arrays that NumPy cannot read."""
    try:
        values = np.asarray(array.detach().cpu() if isinstance(array, Tensor) else array)
    except (TypeError, ValueError, RuntimeError, NotImplementedError):
        return ""
    return "" if values.dtype.hasobject else hashlib.sha256(values.tobytes()).hexdigest()[:8]


def _format_fingerprint(value: Fingerprint | None) -> str:
    if value is None:
        return "nothing"
    shape, dtype, digest = value
    return f"{shape} {dtype} (contents {digest})" if digest else f"{shape} {dtype}".strip()
