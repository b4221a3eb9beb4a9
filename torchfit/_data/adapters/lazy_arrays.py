"""Arrays whose rows are read, and made dense, when a batch is drawn: memory maps, HDF5, Zarr, sparse matrices."""

import copy
import mmap
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from torchfit._data.convert import from_numpy, is_numeric, share_memory
from torchfit._types import Array, UserData
from torchfit._utils import tree
from torchfit._utils.compat import mapping_of
from torchfit._utils.errors import describe

Rows: TypeAlias = "slice | Array"
LazyArrayT = TypeVar("LazyArrayT", bound="LazyArray")

# The system may map a huge page around each page that is read. Pages are released once this much may be mapped.
_MAX_MAPPED_BYTES = 512 * 2**20
_FAULT_AROUND_BYTES = 2 * 2**20


def is_on_disk(value: UserData) -> bool:
    """Return whether `value` is a memory map, or an array in a file that is read in slices."""
    if isinstance(value, np.ndarray):
        return _memory_map(value) is not None
    if isinstance(value, Tensor):
        return False
    is_array = all(hasattr(value, name) for name in ("shape", "dtype", "__getitem__", "__len__"))
    in_memory = hasattr(value, "__array_interface__")
    in_file = hasattr(value, "chunks") or not hasattr(value, "__array__")
    return is_array and in_file and not in_memory and not hasattr(value, "toarray")


class LazyArray:
    """Rows `start` to `stop` of an array `(samples, …)`, read into a tensor batch by batch."""

    def __init__(self, start: int, stop: int, sample_shape: tuple[int, ...]) -> None:
        """Refer to some rows of an array, without reading them."""
        self.start, self.stop = start, stop
        self._sample_shape = sample_shape

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of these rows."""
        return (len(self), *self._sample_shape)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self._sample_shape) + 1

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self: LazyArrayT, rows: slice) -> LazyArrayT:
        start, stop, _ = rows.indices(len(self))
        part = copy.copy(self)
        part.start, part.stop = self.start + start, self.start + stop
        return part

    def read(self, rows: Rows) -> Tensor:
        """Return these rows, counted from `start`, as a new tensor in memory, in the given order."""
        raise NotImplementedError(f"{type(self).__name__} cannot be read: define `read`.")


class DiskArray(LazyArray):
    """Rows of an array `(samples, …)` on disk."""

    def __init__(self, argument: str, array: UserData, dtype: torch.dtype | None) -> None:
        """Read from an array; floating values are cast to `dtype` unless it is `None`."""
        super().__init__(0, len(array), tuple(array.shape[1:]))
        self._argument = argument
        self._array = array
        self._dtype = dtype
        self._pages = _PageCache(array)
        self.read(slice(0, 0))

    def read(self, rows: Rows) -> Tensor:
        """Return these rows as a new tensor in memory, in the given order."""
        self._pages.reserve(rows.stop - rows.start if isinstance(rows, slice) else len(rows))
        block, order = self._block(rows)
        tensor = from_numpy(self._argument, block)
        if tensor.is_floating_point() and self._dtype is not None:
            tensor = tensor.to(self._dtype)
        return tensor if order is None else torch.empty_like(tensor).index_copy_(0, order, tensor)

    def _block(self, rows: Rows) -> tuple[Array, Tensor | None]:
        """Read rows in ascending order, as HDF5 requires, and also return the position of each in the batch."""
        if isinstance(rows, slice):
            return np.array(self._array[self.start + rows.start : self.start + rows.stop]), None
        if _is_contiguous(rows):
            return np.array(self._array[self.start + int(rows[0]) : self.start + int(rows[-1]) + 1]), None
        order = np.argsort(rows)
        return np.asarray(self._array[rows[order] + self.start]), torch.from_numpy(order)


class InMemoryArray:
    """Rows of a tensor `(samples, …)` in memory, read like those of an array on disk."""

    def __init__(self, tensor: Tensor, device: torch.device) -> None:
        """Read from a tensor, for batches on `device` that a step may write to."""
        self._tensor = tensor
        self._copies = tensor.device == device

    def read(self, rows: Rows) -> Tensor:
        """Return these rows, as a view if they will be copied to another device anyway."""
        if isinstance(rows, slice):
            return self._tensor[rows].clone() if self._copies else self._tensor[rows]
        return self._tensor.index_select(0, torch.from_numpy(rows).to(self._tensor.device))


class _PageCache:
    """Limits how much of a file a memory map keeps in memory."""

    def __init__(self, array: UserData) -> None:
        self._mapping = _mapping(array)
        self._row_bytes = _FAULT_AROUND_BYTES + array.dtype.itemsize * int(np.prod(array.shape[1:]))
        self._bytes = self._mapping.size() if self._mapping is not None else 0
        self._mapped = 0

    def reserve(self, rows: int) -> None:
        """Release mapped pages if `rows` more rows would exceed the limit."""
        new_bytes = min(rows * self._row_bytes, self._bytes)
        if self._mapped + new_bytes > _MAX_MAPPED_BYTES and self._mapping is not None:
            self._mapping.madvise(mmap.MADV_DONTNEED)
            self._mapped = 0
        self._mapped += new_bytes


def _memory_map(array: UserData) -> np.memmap[Any, Any] | None:
    """Return the memory map that an array is a view of."""
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap) and mapping_of(array) is not None:
            return array
        array = array.base
    return None


def _mapping(array: UserData) -> mmap.mmap | None:
    """Return the mapping whose pages may be released; a private one would lose what was written to it."""
    memory_map = _memory_map(array)
    can_release = hasattr(mmap, "MADV_DONTNEED") and memory_map is not None and memory_map.mode != "c"
    return mapping_of(memory_map) if can_release else None


def _is_contiguous(rows: Array) -> bool:
    return rows[-1] - rows[0] == len(rows) - 1 and bool((np.diff(rows) == 1).all())


def is_sparse(value: UserData) -> bool:
    """Return whether `value` is a sparse matrix or array of SciPy, or a sparse tensor."""
    if isinstance(value, Tensor):
        return value.layout != torch.strided and value.layout in _LAYOUTS
    return hasattr(value, "toarray") and hasattr(value, "tocsr") and hasattr(value, "nnz")


def dok_to_csr(value: UserData) -> UserData:
    """Convert a sparse array that is also a dictionary, such as SciPy's `dok_matrix`, to the CSR format."""
    return value if tree.is_leaf(value) or not is_sparse(value) else value.tocsr()


_LAYOUTS = (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)


class SparseArray(LazyArray):
    """Rows `start` to `stop` of a sparse array `(samples, …)`, stored by rows; each batch is made dense.

    Only the rows of the current batch take dense memory.
    """

    def __init__(self, argument: str, array: UserData, dtype: torch.dtype | None) -> None:
        """Store an array by rows; floating values are cast to `dtype` unless it is `None`.

        Raises:
            ValueError: If it has no rows of numbers.
        """
        tensor = isinstance(array, Tensor)
        self._offsets, self._columns, self._values, shape = (
            _rows_of_tensor(argument, array) if tensor else _rows_of_matrix(argument, array)
        )
        if dtype is not None and self._values.is_floating_point():
            self._values = self._values.to(dtype)
        super().__init__(0, shape[0], tuple(shape[1:]))

    def read(self, rows: Rows) -> Tensor:
        """Return these rows as a dense tensor `(rows, …)`."""
        if isinstance(rows, slice):
            index = torch.arange(self.start + rows.start, self.start + rows.stop)
        else:
            index = torch.from_numpy(rows) + self.start
        index = index.to(self._offsets.device)
        first, last = self._offsets[index], self._offsets[index + 1]
        counts = last - first
        row = torch.repeat_interleave(torch.arange(len(index), device=index.device), counts)
        position = torch.arange(len(row), device=index.device) + (first - counts.cumsum(0) + counts)[row]
        width = int(np.prod(self.shape[1:], dtype=np.int64))
        dense = torch.zeros(len(index) * width, dtype=self._values.dtype, device=index.device)
        dense[row * width + self._columns[position]] = self._values[position]
        return dense.reshape(len(index), *self.shape[1:])


_RowStorage = tuple[Tensor, Tensor, Tensor, tuple[int, ...]]


def _rows_of_matrix(argument: str, matrix: UserData) -> _RowStorage:
    """Return the offsets of rows, the columns and the values of a matrix of SciPy, and its shape."""
    if len(matrix.shape) != 2 or not is_numeric(matrix.dtype):
        raise ValueError(
            f"`{argument}` is {describe(matrix)}: a sparse array must have the axes (samples, features) and hold "
            f"numbers. Pass {argument}.toarray()."
        )
    rows = matrix.tocsr()
    if not rows.has_canonical_format:
        rows = rows.copy()
        rows.sum_duplicates()
    offsets, columns = (torch.from_numpy(part.astype(np.int64)) for part in (rows.indptr, rows.indices))
    return offsets, columns, share_memory(rows.data), tuple(matrix.shape)


def _rows_of_tensor(argument: str, tensor: Tensor) -> _RowStorage:
    """Return the offsets of rows, the flat position within a row and the values of a sparse tensor, and its shape."""
    entries = tensor.detach().to_sparse().coalesce()
    if entries.dense_dim() or entries.ndim < 1:
        raise ValueError(
            f"`{argument}` is {describe(tensor)}, a sparse tensor with dense axes: pass {argument}.to_dense()."
        )
    indices, shape = entries.indices(), tuple(tensor.shape)
    offsets = torch.zeros(shape[0] + 1, dtype=torch.int64, device=indices.device)
    offsets[1:] = torch.bincount(indices[0], minlength=shape[0]).cumsum(0)
    columns = torch.zeros_like(indices[0])
    for axis, size in enumerate(shape[1:], start=1):
        columns = columns * size + indices[axis]
    return offsets, columns, entries.values(), shape
