"""Predictions with several processes: each predicts its rows of every batch, and all get the full result."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from torchfit._data.sharding import BatchPart, RowsOfProcess, RowsTaken
from torchfit._distribution.process_group import ProcessGroup
from torchfit._execution.step_program import cannot_join
from torchfit._trainer.predictions import Predictions, SampleList, pad_chunks
from torchfit._types import Array, Nested, StepFn
from torchfit._utils import tree


class GatheredPredictions:
    """Collects the outputs of this process, and joins the outputs of all processes in the order of the data.

    Args:
        processes: The processes.
        rows: The rows that each process takes.
        out: Arrays to write into, as in `Predictions`.
        pad_value: Pads outputs of different shapes, as in `Predictions`.
    """

    def __init__(self, processes: ProcessGroup, rows: RowsTaken, out: Nested, pad_value: float | None) -> None:
        self._processes, self._rows = processes, rows
        self._out, self._pad_value = out, pad_value
        self._own = Predictions(None, None, pad_value)
        self._totals: list[int] = []
        self._is_per_sample = False

    def collect(self, step: StepFn) -> StepFn:
        """Return a step that records the rows of its batches, and omits rows that do not count."""

        def run(item: BatchPart | list[BatchPart]) -> Nested:
            parts: list[BatchPart] = item if isinstance(item, list) else [item]
            outputs = step(item)
            self._totals += [part.total for part in parts]
            self._is_per_sample = isinstance(outputs, SampleList)
            return outputs if all(part.rows for part in parts) else _counted(outputs, parts)

        return run

    def append(self, outputs: Nested) -> None:
        """Append the outputs of this process for one batch."""
        self._own.append(outputs)

    def result(self) -> Nested:
        """Return the outputs of all rows, or the arrays that were passed to write into."""
        own = self._own.result()
        if not self._rows.is_dealt_out:
            return self._written(own)
        if self._is_per_sample:
            return self._in_order([list(samples) for samples in self._processes.gather(own)])
        return self._written(tree.map(self._join, own))

    def _written(self, whole: Nested) -> Nested:
        """Return the outputs, or what was given to write into."""
        if self._out is None:
            return whole
        leaves = tree.leaves(whole)
        written = Predictions(len(leaves[0]) if leaves else None, self._out, self._pad_value)
        written.append(tree.map(torch.from_numpy, whole))
        return written.result()

    def _join(self, own: Array) -> Array:
        """Return the rows of all processes, in the order of the data."""
        expected = sum(last - first for first, last in self._bounds(self._processes.rank))
        if len(own) != expected:
            reason = f"of {expected} rows an output of shape {own.shape} came, whose first axis is not that of the rows"
            raise ValueError(cannot_join(reason))
        shapes = self._processes.gather(own.shape)
        if self._pad_value is not None:
            sizes = tuple(map(max, zip(*(shape[1:] for shape in shapes))))
            own = pad_chunks([own, np.empty((0, *sizes), own.dtype)], self._pad_value)[0]
            shapes = [(shape[0], *sizes) for shape in shapes]
        elif len({shape[1:] for shape in shapes}) > 1:
            raise ValueError(cannot_join(f"processes gave outputs of the shapes {', '.join(map(str, shapes))}"))
        parts = self._processes.gather_tensors(torch.from_numpy(own), [torch.Size(shape) for shape in shapes])
        whole = np.empty((sum(self._totals), *own.shape[1:]), own.dtype)
        for rank, part in enumerate(parts):
            whole[self._positions(rank)] = part.numpy()
        return whole

    def _in_order(self, parts: list[list[Nested]]) -> list[Nested]:
        whole: list[Nested] = [None] * sum(self._totals)
        for rank, samples in enumerate(parts):
            for position, sample in zip(self._positions(rank), samples):
                whole[position] = sample
        return whole

    def _bounds(self, rank: int) -> list[tuple[int, int]]:
        assert isinstance(self._rows, RowsOfProcess)
        return [self._rows.bounds(total, rank) for total in self._totals]

    def _positions(self, rank: int) -> Array:
        """Return the positions in the data of the rows of a process."""
        starts = np.cumsum([0, *self._totals[:-1]])
        ranges = [start + np.arange(*bounds) for start, bounds in zip(starts, self._bounds(rank))]
        return np.concatenate(ranges) if ranges else np.arange(0)


def _counted(outputs: Nested, parts: list[BatchPart]) -> Nested:
    """Omit the outputs of rows that belong to another process."""
    kept = [bool(part.rows) for part in parts for _ in range(max(part.rows, 1))]
    if isinstance(outputs, SampleList):
        return SampleList([output for output, is_kept in zip(outputs, kept) if is_kept])
    select = _selector(torch.tensor(kept))
    return tree.map(select, outputs)


def _selector(kept: Tensor) -> Callable[[object], object]:
    def select(leaf: object) -> object:
        if not isinstance(leaf, Tensor):
            return leaf
        rows = leaf if leaf.ndim else leaf.reshape(1)
        return (
            rows[kept.to(leaf.device)] if len(rows) == len(kept) else leaf
        )  # Outputs without rows are rejected later.

    return select
