"""Adapter for arrays and tensors: a batch is a slice of each, or one indexing operation, never a loop over samples."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any
from weakref import ref

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from torchfit._data.adapters.base import AdapterSpec, DataAdapter
from torchfit._data.adapters.lazy_arrays import (
    DiskArray,
    InMemoryArray,
    LazyArray,
    Rows,
    SparseArray,
    dok_to_csr,
    is_on_disk,
    is_sparse,
)
from torchfit._data.batch_converter import batch_packer
from torchfit._data.batch_source import BatchIndexer, BatchSource, TakesRows, draw_seed, fits_on
from torchfit._data.class_weight import ClassWeights
from torchfit._data.convert import BatchSpec, LeafConverter, check_lengths, hint_for_pairs, host_leaf
from torchfit._data.epoch_iterator import OrderFn, make_order
from torchfit._data.validation_split import split_last, warn_of_sorted_labels
from torchfit._data.workers import LoaderConfig
from torchfit._types import Nested, UserData
from torchfit._utils import tree, validation
from torchfit._utils.compat import version_of
from torchfit._utils.errors import describe, warn
from torchfit._utils.tree import Batch

XYWeights = tuple[UserData, ...]

# Up to this many bytes of batches are copied at once. Blocks of this size fit into the caches and are reused by the
# allocator, so that copying them costs next to nothing.
BLOCK_BYTES = 120 * 2**10


class ArrayAdapter(DataAdapter):
    """`(x, y, sample_weight)`: nests of tensors and of sparse or on-disk arrays, all with the same number of rows."""

    spec = AdapterSpec("arrays", {})

    def __init__(self, parts: XYWeights, batch_spec: BatchSpec, class_weights: ClassWeights | None = None) -> None:
        """Adapt converted parts, which need not be on the device yet."""
        super().__init__(batch_spec, class_weights)
        self.parts = parts

    @classmethod
    def of(cls, x: UserData, y: UserData, sample_weight: UserData, batch_spec: BatchSpec) -> "ArrayAdapter":
        """Convert what the user passed. On-disk arrays stay on disk, and sparse ones stay sparse.

        Raises:
            ValueError: If there are no samples, the lengths differ, or a part is not numeric.
        """
        if isinstance(x, PackedSequence):
            raise ValueError(
                "`x` is a PackedSequence, which is one batch and has no rows to cut batches from. Pass a DataLoader or "
                "iter([(x, y)]), or call `train_on_batch`, `test_on_batch` or `predict_on_batch`."
            )
        try:
            parts = batch_spec.parts(dok_to_csr(x), dok_to_csr(y), dok_to_csr(sample_weight), _leaf)
            check_lengths(dict(zip(("x", "y", "sample_weight"), parts)))
        except ValueError as error:
            hint = "" if y is not None else hint_for_pairs(x)
            raise (ValueError(f"`x` is {describe(x)}. {hint}") if hint else error) from error
        return cls(parts, batch_spec)

    def split(self, fraction: float) -> tuple["ArrayAdapter", "ArrayAdapter"]:
        """Hold out the last `fraction` of the rows, and warn if their labels differ from the rest."""
        first, last = split_last(self.parts, fraction)
        warn_of_sorted_labels(first[1], last[1])
        return ArrayAdapter(first, self.batch_spec), ArrayAdapter(last, self.batch_spec)

    def with_class_weight(self, class_weight: object) -> "ArrayAdapter":
        """Multiply the sample weights by the class weights: now if the targets are in memory, else batch by batch."""
        super().with_class_weight(class_weight)
        if self.class_weights is None or any(isinstance(leaf, LazyArray) for leaf in tree.leaves(self.parts[1:])):
            return self
        x, y, sample_weight = self.parts
        return ArrayAdapter((x, y, self.class_weights.weights(y, sample_weight, is_whole=True)), self.batch_spec)

    def labels(self) -> Nested:
        """Return the targets."""
        return self.parts[1]

    def batches(
        self, batch_size: int | None = None, *, shuffle: bool | str = False, loader_config: LoaderConfig | None = None
    ) -> BatchSource:
        """Return batches of `batch_size` rows (32 by default), in the order of the data or shuffled every epoch."""
        size, order = validation.batch_size(batch_size), make_order(shuffle)
        leaves = tree.leaves(self.parts)
        is_lazy = any(isinstance(leaf, LazyArray) for leaf in leaves)
        if is_lazy or not fits_on(self.batch_spec.device, leaves):
            return HostArrayBatches(self.parts, size, self.batch_spec, order, self.class_weights)
        device = self.batch_spec.device
        return ArrayBatches(tree.map(lambda leaf: leaf.to(device), self.parts), size, order)


def _leaf(dtype: torch.dtype, all_floating: bool = False) -> LeafConverter:
    in_memory = host_leaf(dtype, all_floating)

    def convert(argument: str, value: UserData) -> Nested:
        if is_on_disk(value):
            return DiskArray(argument, value, dtype)
        if is_sparse(value):
            return SparseArray(argument, value, dtype)
        return in_memory(argument, value)

    return convert


class _ArrayBatchesBase(BatchSource):
    """Base class of batches that are rows of arrays."""

    is_resumable = True
    is_indexed = True

    def __init__(self, samples: int, batch_size: int, order: OrderFn | None) -> None:
        self.samples = samples
        self.steps = -(-samples // batch_size)
        self._batch_size = min(batch_size, samples)
        self._order = order
        self.seed = 0 if order is None else draw_seed()

    def _rows(self, index: int) -> Tensor | None:
        """Return the row order of an epoch, or `None` for the order of the data."""
        if self._order is None or self.samples is None:
            return None
        return self._order(self.samples, self._batch_size, self.seed + index)


class ArrayBatches(_ArrayBatchesBase):
    """Batches of tensors that are already on the device, all with the same number of rows."""

    def __init__(self, parts: XYWeights, batch_size: int, order: OrderFn | None = None) -> None:
        """Cut `(x, y, sample_weight)` into batches: nests of tensors `(samples, …)`, or `None`.

        Args:
            parts: The nests.
            batch_size: Samples in a batch; the last one of an epoch may be smaller.
            order: A function (samples, batch size, seed) → permutation; `None` keeps the order of the data.
        """
        self._leaves: list[Tensor] = tree.leaves(parts)
        self._pack = batch_packer(Batch(*parts))
        self._defers_indexing = False
        self._part: TakesRows | None = None
        self._guard = WriteGuard(self._leaves)
        super().__init__(len(self._leaves[0]), batch_size, order)
        batch_bytes = self._batch_size * sum(leaf.nbytes // max(1, len(leaf)) for leaf in self._leaves)
        self._block_rows = self._batch_size * (BLOCK_BYTES // max(1, batch_bytes))

    @property
    def yields_views(self) -> bool:  # type: ignore[override]
        """Whether batches are views: only in the order of the data, and unless large tensors must be copied."""
        return self._order is None and not (self._guard.is_written and not self._block_rows)

    def peek(self) -> Batch | None:
        """Return a copy of the first rows."""
        return self._pack([leaf[: self._batch_size].clone() for leaf in self._leaves])

    def epoch(self, index: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch: views where the order is that of the data, else indexed rows.

        A step may write into a batch: its rows are copies, or views that are guarded.
        """
        rows, first = self._rows(index), start * self._batch_size
        if first >= len(self._leaves[0]):
            return iter(())  # torch.split would return one empty batch
        if rows is not None:
            parts: tuple[Any, ...] = torch.split(rows[first:].to(self._leaves[0].device), self._batch_size)
            if self._part is None:
                return iter(parts) if self._defers_indexing else map(self._index, parts)
            own = map(self._own_rows, parts)
            return own if self._defers_indexing else map(self._index_own, own)
        if self._block_rows:
            blocks = range(first, len(self._leaves[0]), self._block_rows)
            return chain.from_iterable(map(self._copied_block, blocks))
        views = zip(*(torch.split(leaf[first:], self._batch_size) for leaf in self._leaves))
        return map(self._pack, map(self._guard.protect, views))

    def reread(self, index: int) -> Iterator[Batch]:
        """Return copies of the batches of an epoch."""
        rows = self._rows(index)
        order = torch.arange(len(self._leaves[0])) if rows is None else rows
        return map(self._index, torch.split(order.to(self._leaves[0].device), self._batch_size))

    def _copied_block(self, first: int) -> Iterator[Batch]:
        """Return the batches of one block of rows, as views of a copy of the block."""
        copies = [leaf[first : first + self._block_rows].clone() for leaf in self._leaves]
        if len(copies[0]) <= self._batch_size:
            return iter((self._pack(copies),))
        return map(self._pack, zip(*(torch.split(copy, self._batch_size) for copy in copies)))

    def defer_indexing(self) -> BatchIndexer | None:
        """Yield row indices from now on, unless the order is that of the data: views are (almost) free.

        The row indices of one of several processes come as a batch, which contains its position in the whole batch.
        """
        if self._order is None:
            return None
        self._defers_indexing = True
        return self._index if self._part is None else self._index_own

    def take_part(self, rows: TakesRows) -> BatchSource | None:
        """Index only the rows of one process. Without shuffling return `None`: views are sliced afterwards."""
        if self._order is None:
            return None
        self._part = rows
        return self

    def _own_rows(self, rows: Tensor) -> Batch:
        """Return which of these rows are those of this process."""
        assert self._part is not None
        total = rows.shape[0]
        return self._part.mark(Batch(rows[self._part.slice(total)]), total)

    def _index_own(self, rows: Tensor | Batch) -> Batch:
        """Return the batch for what `_own_rows` returned, or for the tensor in it, as graphs get it."""
        if isinstance(rows, Tensor):
            return self._index(rows)
        assert self._part is not None
        return self._part.move(self._index(rows[0]), rows)

    def _index(self, rows: Tensor) -> Batch:
        return self._pack([leaf.index_select(0, rows) for leaf in self._leaves])


class HostArrayBatches(_ArrayBatchesBase):
    """Batches of arrays that are sparse, on disk or too large for the device: read on the host, then transferred."""

    def __init__(
        self,
        parts: XYWeights,
        batch_size: int,
        batch_spec: BatchSpec,
        order: OrderFn | None = None,
        apply_class_weight: Callable[[Batch], Batch] | None = None,
    ) -> None:
        """Take `(x, y, sample_weight)` as `ArrayBatches` does; `apply_class_weight` is called with every batch."""
        leaves = tree.leaves(parts)
        kinds = [(batch_spec.input_dtype, False)] * len(tree.leaves(parts[0]))
        kinds += [(batch_spec.target_dtype, False)] * len(tree.leaves(parts[1]))
        kinds += [(batch_spec.target_dtype, True)] * (len(leaves) - len(kinds))
        device = batch_spec.device
        self._readers = [leaf if isinstance(leaf, LazyArray) else InMemoryArray(leaf, device) for leaf in leaves]
        self._transfers = [batch_spec.make_transfer(*kind) for kind in kinds]
        self._pack = batch_packer(Batch(*parts))
        self._apply_class_weight = apply_class_weight
        self._part: TakesRows | None = None
        super().__init__(len(leaves[0]), batch_size, order)

    def peek(self) -> Batch | None:
        """Return the first rows."""
        return self._index(slice(0, self._batch_size))

    def epoch(self, index: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch, each read when it is drawn."""
        order, size = self._rows(index), self._batch_size
        rows = None if order is None else order.numpy()
        for first in range(start * size, self.samples or 0, size):
            last = min(first + size, self.samples or 0)
            whole, part = range(first, last), self._part
            own = whole if part is None else whole[part.slice(len(whole))]
            batch = self._index(slice(own.start, own.stop) if rows is None else rows[own.start : own.stop])
            batch = batch if self._apply_class_weight is None else self._apply_class_weight(batch)
            yield batch if part is None else part.mark(batch, len(whole))

    def take_part(self, rows: TakesRows) -> BatchSource:
        """Read only the rows of one process."""
        self._part = rows
        return self

    reread = epoch

    def _index(self, rows: Rows) -> Batch:
        return self._pack([transfer(reader.read(rows)) for reader, transfer in zip(self._readers, self._transfers)])


class WriteGuard:
    """Hands out views of large tensors, or copies where a step writes into them.

    The first batches are copies. Once the step that received the first one has finished without writing into it, views
    are handed out, and the version counters of the tensors are compared: any write into a view increments them.
    """

    def __init__(self, sources: Sequence[Tensor]) -> None:
        """Guard tensors `(samples, …)`."""
        self._sources = sources
        self._versions: list[int] | None = None  # of the sources, once views are handed out
        self._probes: list[tuple[ref[Tensor], Tensor]] = []  # the first copies, and aliases that outlive them
        self.is_written = any(source.is_inference() for source in sources)  # Inference tensors have no version counter.

    def protect(self, views: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return what to pass to a step for these views of the sources: copies, or the views themselves."""
        if self._versions is None and not self.is_written:
            self._examine_probes()
        if self._versions is not None and self._versions != _versions(self._sources):
            self._report_late_write()
        if self._versions is not None:
            return views
        copies = [view.clone() for view in views]
        if not self._probes and not self.is_written:
            self._probes = [(ref(copy), copy.detach()) for copy in copies]
        return copies

    def _examine_probes(self) -> None:
        """Decide whether steps write into batches, once the step that received the first copies has released them."""
        if any(alias.is_inference() or version_of(alias) for _, alias in self._probes):
            self.is_written, self._probes = True, []
        elif self._probes and all(copy() is None for copy, _ in self._probes):
            self._versions, self._probes = _versions(self._sources), []

    def _report_late_write(self) -> None:
        self.is_written, self._versions = True, None
        warn(
            "The module, the loss or a metric wrote into a batch in place, after steps that did not. Batches are "
            "copied from now on, but the rows of that one were changed in the data that you passed. Work on a copy: "
            "x = x.clone()."
        )


def _versions(tensors: Sequence[Tensor]) -> list[int]:
    return [version_of(tensor) for tensor in tensors]
