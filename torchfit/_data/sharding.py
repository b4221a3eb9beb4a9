"""The rows of every batch that one of several processes takes."""

import hashlib
from collections.abc import Callable, Iterator
from itertools import chain
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

    A process for which no row is left gets one that another one takes, so that it runs the same code: `rows` is 0.

    Attributes:
        first: The position of the first of its rows in the batch.
        rows: How many of its rows count.
        total: How many rows the whole batch has.
    """

    first: int
    rows: int
    total: int


class WholeBatches:
    """What a process that works alone takes: everything."""

    def part_of(self, batches: BatchSource) -> BatchSource:
        """Return the batches as they are."""
        return batches

    def check(self, argument: str, data: UserData) -> None:
        """Have nothing to compare."""


WHOLE_BATCHES = WholeBatches()


class RowsOfProcess:
    """The share of one of several processes: of a batch of k rows, those from `rank * k // size` on.

    Args:
        rank: The number of the process, from 0.
        size: The number of processes.
        gather: Returns what all processes pass to it.
        are_equal: Returns whether all processes pass the same number to it.
    """

    def __init__(
        self, rank: int, size: int, gather: Callable[[object], list[Any]], are_equal: Callable[[int], bool]
    ) -> None:
        self.rank, self.size, self._gather, self._are_equal = rank, size, gather, are_equal

    def bounds(self, total: int, rank: int | None = None) -> tuple[int, int]:
        """Return the first of the rows of a process in a batch of `total` rows, and the first after them.

        >>> [RowsOfProcess(rank, 3, list, bool).bounds(4) for rank in range(3)]
        [(0, 1), (1, 2), (2, 4)]
        """
        rank = self.rank if rank is None else rank
        return rank * total // self.size, (rank + 1) * total // self.size

    def slice(self, total: int) -> slice:
        """Return what to read of a batch: the own rows, or, without any, one of the others."""
        first, last = self.bounds(total)
        return slice(first, last) if last > first else slice(min(first, total - 1), min(first, total - 1) + 1)

    def mark(self, batch: Batch, total: int) -> BatchPart:
        """Return own rows with their position in the batch."""
        part: BatchPart = tuple.__new__(BatchPart, batch)
        first, last = self.bounds(total)
        part.first, part.rows, part.total = min(first, total - 1), last - first, total
        return part

    def take(self, batch: Batch) -> BatchPart:
        """Return the own rows of a batch.

        Raises:
            ValueError: If its parts are not tensors with the same number of rows.
        """
        total = _count_rows(batch)
        rows = self.slice(total)
        own = tree.map(lambda leaf: leaf[rows] if isinstance(leaf, Tensor) and leaf.ndim else leaf, tuple(batch))
        return self.mark(tuple.__new__(Batch, own), total)

    def part_of(self, batches: BatchSource) -> BatchSource:
        """Return the own rows of all batches."""
        return batches.take_part(self) or PartBatches(batches, self)

    def agreed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield batches that are read as a whole, all processes having one of the same size.

        Raises:
            RuntimeError: If they do not, or the data end for some processes only.
        """
        for batch in chain(batches, [None]):
            total = 0 if batch is None else _count_rows(batch)
            if not self._are_equal(total):
                raise RuntimeError(
                    "The batches of the processes differ: this one has "
                    f"{f'a batch of {total} rows' if total else 'no batch any more'}, and another one something else. "
                    "Every process must pass the same data, of which it takes a part: seed the generators that they "
                    "depend on."
                )
            if batch is not None:
                yield batch

    def check(self, argument: str, data: UserData) -> None:
        """Compare the data of all processes.

        Raises:
            ValueError: If they differ, or a sampler has dealt them out already.
        """
        problem = _sampler_problem(argument, data)
        found = self._gather((problem, fingerprint(argument, data)))
        for other, _ in found:
            if other is not None:
                raise ValueError(other)
        prints = [print_ for _, print_ in found]
        for name in dict.fromkeys(name for print_ in prints for name in print_):
            values = [print_.get(name) for print_ in prints]
            for rank, value in enumerate(values):
                if value != values[0]:
                    raise ValueError(
                        f"`{name}` differs between process 0 and process {rank}: {_shown(values[0])} there, "
                        f"{_shown(value)} here. Every process must pass the same data, of which it then takes a part. "
                        "Seed the generators before you make it, or load it from a file."
                    )


class PartBatches(BatchSource):
    """The own rows of batches that are read as a whole."""

    def __init__(self, batches: BatchSource, rows: RowsOfProcess) -> None:
        """Take a part of each batch of `batches`."""
        self._batches, self._rows = batches, rows
        self.is_resumable, self.is_repeatable = batches.is_resumable, batches.is_repeatable
        self.may_be_exhausted, self.has_exact_length = batches.may_be_exhausted, batches.has_exact_length

    @property
    def steps(self) -> int | None:  # type: ignore[override]
        """The number of batches."""
        return self._batches.steps

    @property
    def samples(self) -> int | None:  # type: ignore[override]
        """The number of samples of all processes."""
        return self._batches.samples

    @property
    def seed(self) -> int:
        """Determines the order of an epoch."""
        return self._batches.seed

    @seed.setter
    def seed(self, value: int) -> None:
        self._batches.seed = value

    @property
    def yields_views(self) -> bool:  # type: ignore[override]
        """Whether batches take no memory of their own."""
        return self._batches.yields_views

    def epoch(self, index: int, start: int = 0) -> Iterator[Batch]:
        """Yield the own rows of the batches of an epoch; their sizes are compared where they are not known."""
        batches = self._batches.epoch(index, start)
        return map(self._rows.take, batches if self.samples is not None else self._rows.agreed(batches))

    def reread(self, index: int) -> Iterator[Batch] | None:
        """Return the whole batches of an epoch once more, where drawing them has no side effect."""
        return self._batches.reread(index)

    def on_epoch_end(self) -> None:
        """Called at the end of an epoch."""
        self._batches.on_epoch_end()

    def peek(self) -> Batch | None:
        """Return a part of a batch like the first one."""
        batch = self._batches.peek()
        return None if batch is None else self._rows.take(batch)

    def state_dict(self, is_mid_epoch: bool = False) -> StateDict:
        """Return what the batches to come depend on."""
        return self._batches.state_dict(is_mid_epoch)

    def load_state_dict(self, state: StateDict) -> None:
        """Continue with the batches that were to come."""
        self._batches.load_state_dict(state)


def _count_rows(batch: Batch) -> int:
    """Return the number of rows that all tensors of a batch have."""
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
            f"`{argument}` is a DataLoader with a DistributedSampler, which repeats rows and gives every process other "
            "ones. Pass a DataLoader without it, or the Dataset itself: every process takes its own rows of each batch."
        )
    return None


def fingerprint(argument: str, data: UserData) -> dict[str, Fingerprint]:
    """Return what tells data apart: shape, dtype and some rows of tensors and arrays, else the length."""
    leaves = dict(tree.leaves_with_path(data))
    if all(hasattr(leaf, "shape") and hasattr(leaf, "dtype") for leaf in leaves.values()):
        return {tree.format_path(path, argument): _print_of(leaf) for path, leaf in leaves.items()}
    try:
        return {argument: (len(data), "", "")}
    except (TypeError, NotImplementedError):
        return {}


def _print_of(array: UserData) -> Fingerprint:
    rows = int(array.shape[0]) if len(array.shape) else 0
    some = array[:: max(1, rows // _FINGERPRINT_ROWS)] if rows else array
    return tuple(array.shape), str(array.dtype), _digest(some)


def _digest(array: UserData) -> str:
    """Return a short digest of numbers; "" of what holds none, or cannot be read like this, such as sparse arrays."""
    try:
        values = np.asarray(array.detach().cpu() if isinstance(array, Tensor) else array)
    except (TypeError, ValueError, RuntimeError, NotImplementedError):
        return ""
    return "" if values.dtype.hasobject else hashlib.sha256(values.tobytes()).hexdigest()[:8]


def _shown(value: Fingerprint | None) -> str:
    if value is None:
        return "nothing"
    shape, dtype, digest = value
    return f"{shape} {dtype} (contents {digest})" if digest else f"{shape} {dtype}".strip()
