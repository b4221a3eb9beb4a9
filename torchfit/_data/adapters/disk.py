"""Arrays on disk (memory maps, HDF5 and Zarr datasets): the rows of a batch are read when it is drawn."""

import mmap
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchfit._data.convert import from_numpy
from torchfit._utils.compat import mapping_of

Rows = slice | np.ndarray[Any, Any]

# The system maps up to a huge page around each page that is read. Once this much may be mapped, it is released.
_MAX_MAPPED_BYTES = 512 * 2**20
_FAULT_AROUND_BYTES = 2 * 2**20


def is_on_disk(value: Any) -> bool:
    """Return whether `value` is a memory map, or an array in a file that is read by slices."""
    if isinstance(value, np.ndarray):
        return _memory_map(value) is not None
    is_array = all(hasattr(value, name) for name in ("shape", "dtype", "__getitem__", "__len__"))
    in_memory = isinstance(value, Tensor) or hasattr(value, "__array_interface__")
    return is_array and not in_memory and (hasattr(value, "chunks") or not hasattr(value, "__array__"))


class DiskArray:
    """Rows `start` to `stop` of an array `(samples, …)` on disk, of which each batch reads its own."""

    def __init__(
        self, argument: str, array: Any, dtype: torch.dtype | None, start: int = 0, stop: int | None = None
    ) -> None:
        """Read from an array; floating values are cast to `dtype` unless it is `None`."""
        self._argument = argument
        self._array = array
        self._dtype = dtype
        self._start, self._stop = start, len(array) if stop is None else stop
        self._pages = _PageCache(array)
        self.shape = (len(self), *array.shape[1:])
        self.ndim = len(self.shape)
        self.read(slice(0, 0))

    def __len__(self) -> int:
        return self._stop - self._start

    def __getitem__(self, rows: slice) -> "DiskArray":
        start, stop, _ = rows.indices(len(self))
        return DiskArray(self._argument, self._array, self._dtype, self._start + start, self._start + stop)

    def read(self, rows: Rows) -> Tensor:
        """Return these rows as a tensor in memory, in this order."""
        self._pages.reserve(rows.stop - rows.start if isinstance(rows, slice) else len(rows))
        block, order = self._block(rows)
        tensor = from_numpy(self._argument, block)
        if tensor.is_floating_point() and self._dtype is not None:
            tensor = tensor.to(self._dtype)
        return tensor if order is None else torch.empty_like(tensor).index_copy_(0, order, tensor)

    def _block(self, rows: Rows) -> tuple[np.ndarray[Any, Any], Tensor | None]:
        """Read rows in ascending order, as files need it; also return the position of each in the batch."""
        if isinstance(rows, slice):
            return np.array(self._array[self._start + rows.start : self._start + rows.stop]), None
        if _is_contiguous(rows):
            return np.array(self._array[self._start + int(rows[0]) : self._start + int(rows[-1]) + 1]), None
        order = np.argsort(rows)
        return np.asarray(self._array[rows[order] + self._start]), torch.from_numpy(order)


class InMemoryArray:
    """Rows of a tensor `(samples, …)` in memory, read like those of an array on disk."""

    def __init__(self, tensor: Tensor) -> None:
        """Read from a tensor."""
        self._tensor = tensor

    def read(self, rows: Rows) -> Tensor:
        """Return these rows."""
        if isinstance(rows, slice):
            return self._tensor[rows]
        return self._tensor.index_select(0, torch.from_numpy(rows).to(self._tensor.device))


class _PageCache:
    """Limits how much of a file a memory map keeps in memory."""

    def __init__(self, array: Any) -> None:
        self._mapping = _mapping(array)
        self._row_bytes = _FAULT_AROUND_BYTES + array.dtype.itemsize * int(np.prod(array.shape[1:]))
        self._bytes = self._mapping.size() if self._mapping is not None else 0
        self._mapped = 0

    def reserve(self, rows: int) -> None:
        """Release mapped pages if those of some more rows would exceed the limit."""
        coming = min(rows * self._row_bytes, self._bytes)
        if self._mapped + coming > _MAX_MAPPED_BYTES and self._mapping is not None:
            self._mapping.madvise(mmap.MADV_DONTNEED)
            self._mapped = 0
        self._mapped += coming


def _memory_map(array: Any) -> np.memmap[Any, Any] | None:
    """Return the memory map that an array is a view of."""
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap) and mapping_of(array) is not None:
            return array
        array = array.base
    return None


def _mapping(array: Any) -> Any:
    """Return the mapping whose pages may be released: a private one would lose what was written to it."""
    memory_map = _memory_map(array)
    can_release = hasattr(mmap, "MADV_DONTNEED") and memory_map is not None and memory_map.mode != "c"
    return mapping_of(memory_map) if can_release else None


def _is_contiguous(rows: np.ndarray[Any, Any]) -> bool:
    return rows[-1] - rows[0] == len(rows) - 1 and bool((np.diff(rows) == 1).all())
