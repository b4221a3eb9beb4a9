"""Arrays and tensors: a batch is one gather over whole tensors, never a sample at a time."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchfit._data.arguments import Form, Loading, check_batch_size
from torchfit._data.batches import Batches, Gather, draw_seed
from torchfit._data.class_weight import ClassWeights
from torchfit._data.convert import Conversion, Leaf, check_lengths, host_leaf
from torchfit._data.disk import DiskRows, MemoryRows, is_on_disk
from torchfit._data.forms import Source
from torchfit._data.order import Order, order_for
from torchfit._data.placement import fits_on
from torchfit._data.split import split_last, warn_of_sorted_labels
from torchfit._utils import tree
from torchfit._utils.batch import Batch

Parts = tuple[Any, ...]


class ArraySource(Source):
    """Nests `(x, y, sample_weight)` of tensors and of arrays on disk, all with the same number of rows."""

    form = Form("arrays", {})

    def __init__(self, parts: Parts, conversion: Conversion, class_weights: ClassWeights | None = None) -> None:
        """Take converted parts, which need not be on the device yet."""
        super().__init__(conversion, class_weights)
        self.parts = parts

    @classmethod
    def of(cls, x: Any, y: Any, sample_weight: Any, conversion: Conversion) -> "ArraySource":
        """Convert what the user passed; arrays on disk stay there.

        Raises:
            ValueError: If there is no sample, the lengths differ, or something holds no numbers.
        """
        parts = conversion.parts(x, y, sample_weight, _leaf)
        check_lengths(dict(zip(("x", "y", "sample_weight"), parts)))
        return cls(parts, conversion)

    def split(self, fraction: float) -> tuple["ArraySource", "ArraySource"]:
        """Set the last `fraction` of the rows apart, with a warning if their labels are others than the rest's."""
        first, last = split_last(self.parts, fraction)
        warn_of_sorted_labels(first[1], last[1])
        return ArraySource(first, self.conversion), ArraySource(last, self.conversion)

    def weighted(self, class_weight: Any) -> "ArraySource":
        """Multiply the weights of the samples by those of their classes, once, unless the targets are on disk."""
        super().weighted(class_weight)
        if self.class_weights is None or any(isinstance(leaf, DiskRows) for leaf in tree.leaves(self.parts[1:])):
            return self
        x, y, sample_weight = self.parts
        return ArraySource((x, y, self.class_weights.weights(y, sample_weight)), self.conversion)

    def labels(self) -> Any:
        """Return the targets."""
        return self.parts[1]

    def batches(
        self, batch_size: int | None = None, *, shuffle: bool | str = False, loading: Loading | None = None
    ) -> Batches:
        """Give batches of `batch_size` rows (32 by default), in the order of the data or shuffled anew each epoch."""
        size, order = check_batch_size(batch_size), order_for(shuffle)
        leaves = tree.leaves(self.parts)
        on_disk = any(isinstance(leaf, DiskRows) for leaf in leaves)
        if on_disk or not fits_on(self.conversion.device, leaves):
            return GatheredBatches(self.parts, size, self.conversion, order, self.class_weights)
        device = self.conversion.device
        return ArrayBatches(tree.map(lambda leaf: leaf.to(device), self.parts), size, order)

    def batch(self) -> Batch:
        """Give all rows as one batch."""
        return next(self.batches(check_lengths({"x": self.parts})).epoch(0))


def _leaf(dtype: torch.dtype, all_floating: bool = False) -> Leaf:
    in_memory = host_leaf(dtype, all_floating)

    def convert(argument: str, value: Any) -> Any:
        return DiskRows(argument, value, dtype) if is_on_disk(value) else in_memory(argument, value)

    return convert


class _RowBatches(Batches):
    """What batches of rows of any kind have in common."""

    replayable = True
    repeats = True

    def __init__(self, samples: int, batch_size: int, order: Order | None) -> None:
        self.samples = samples
        self.steps = -(-samples // batch_size)
        self._batch_size = batch_size
        self._order = order
        self.seed = 0 if order is None else draw_seed()

    def _rows(self, index: int) -> Tensor | None:
        """Return the order of an epoch, `None` for that of the data."""
        if self._order is None or self.samples is None:
            return None
        return self._order(self.samples, self._batch_size, self.seed + index)


class ArrayBatches(_RowBatches):
    """Batches of tensors that lie where they are used, all with the same number of rows."""

    def __init__(self, parts: Parts, batch_size: int, order: Order | None = None) -> None:
        """Take `(x, y, sample_weight)`, nests of tensors `(samples, …)`, missing parts being `None`.

        Args:
            parts: The nests.
            batch_size: Samples in a batch; the last one of an epoch may be smaller.
            order: A function (samples, batch size, seed) → permutation; `None` keeps the order of the data.
        """
        self._leaves: list[Tensor] = tree.leaves(parts)
        self._pack = batch_packer(parts)
        self._give: Callable[[Tensor], Any] = self._gather
        super().__init__(len(self._leaves[0]), batch_size, order)

    @property
    def lasting(self) -> bool:  # type: ignore[override]
        """Batches are views where the order is that of the data."""
        return self._order is None

    def example(self) -> Batch | None:
        """Give the first rows."""
        return self._pack([leaf[: self._batch_size] for leaf in self._leaves])

    def epoch(self, index: int, start: int = 0) -> Iterator[Batch]:
        """Give the batches of one epoch: views where the order is that of the data, gathered rows elsewhere."""
        rows, first = self._rows(index), start * self._batch_size
        if first >= len(self._leaves[0]):
            return iter(())  # torch.split would give one empty batch
        if rows is None:
            return map(self._pack, zip(*(torch.split(leaf[first:], self._batch_size) for leaf in self._leaves)))
        return map(self._give, torch.split(rows[first:].to(self._leaves[0].device), self._batch_size))

    def defer(self) -> Gather | None:
        """Give the numbers of rows from now on, unless the order is that of the data: views cost nothing."""
        if self._order is None:
            return None
        self._give = _whole
        return self._gather

    def _gather(self, rows: Tensor) -> Batch:
        return self._pack([leaf.index_select(0, rows) for leaf in self._leaves])


class GatheredBatches(_RowBatches):
    """Batches of arrays on disk, or too large for the device: gathered where they are, then sent."""

    def __init__(
        self,
        parts: Parts,
        batch_size: int,
        conversion: Conversion,
        order: Order | None = None,
        weigh: Callable[[Batch], Batch] | None = None,
    ) -> None:
        """Take `(x, y, sample_weight)` as `ArrayBatches` does; `weigh` is applied to every batch."""
        leaves = tree.leaves(parts)
        kinds = [(conversion.input_dtype, False)] * len(tree.leaves(parts[0]))
        kinds += [(conversion.target_dtype, False)] * len(tree.leaves(parts[1]))
        kinds += [(conversion.target_dtype, True)] * (len(leaves) - len(kinds))
        self._readers = [leaf if isinstance(leaf, DiskRows) else MemoryRows(leaf) for leaf in leaves]
        self._places = [conversion.placement(*kind) for kind in kinds]
        self._pack = batch_packer(parts)
        self._weigh = weigh
        super().__init__(len(leaves[0]), batch_size, order)

    def example(self) -> Batch | None:
        """Give the first rows."""
        return self._gather(slice(0, self._batch_size))

    def epoch(self, index: int, start: int = 0) -> Iterator[Batch]:
        """Give the batches of one epoch, each read when it is asked for."""
        order, size = self._rows(index), self._batch_size
        rows = None if order is None else order.numpy()
        for first in range(start * size, self.samples or 0, size):
            last = min(first + size, self.samples or 0)
            batch = self._gather(slice(first, last) if rows is None else rows[first:last])
            yield batch if self._weigh is None else self._weigh(batch)

    def _gather(self, rows: slice | np.ndarray[Any, Any]) -> Batch:
        return self._pack([place(reader.read(rows)) for reader, place in zip(self._readers, self._places)])


def batch_packer(parts: Parts) -> Callable[[Sequence[Tensor]], Batch]:
    """Return a function that makes a `Batch` from a flat sequence of the leaves of `parts`."""
    if all(tree.is_leaf(part) for part in Batch(*parts)):
        return _flat_batch
    pack = tree.unflattener(tuple(parts))
    return lambda leaves: Batch(*pack(leaves))


def _whole(rows: Tensor) -> Tensor:
    return rows


def _flat_batch(leaves: Sequence[Tensor]) -> Batch:
    return tuple.__new__(Batch, leaves)
