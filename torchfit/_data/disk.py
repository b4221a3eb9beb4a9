"""Arrays on disk (memory maps, HDF5 and Zarr datasets): rows are read when a batch asks for them."""

import mmap
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchfit._data.convert import from_numpy

Rows = slice | np.ndarray[Any, Any]

# The system maps up to a huge page around each page that is touched. Once this much may be mapped, it is let go.
_MAPPED_AT_MOST = 512 * 2**20
_MAPPED_AROUND = 2 * 2**20


def is_on_disk(value: Any) -> bool:
    """Tell whether `value` is a memory map, or an array that lives in a file and is read by slices."""
    if isinstance(value, np.ndarray):
        return _memory_map(value) is not None
    is_array = all(hasattr(value, name) for name in ("shape", "dtype", "__getitem__", "__len__"))
    in_memory = isinstance(value, Tensor) or hasattr(value, "__array_interface__")
    return is_array and not in_memory and (hasattr(value, "chunks") or not hasattr(value, "__array__"))


class DiskRows:
    """Rows `start` to `stop` of an array `(samples, …)` on disk, of which each batch reads its own."""

    def __init__(
        self, argument: str, array: Any, dtype: torch.dtype | None, start: int = 0, stop: int | None = None
    ) -> None:
        """Take an array, and the dtype that floating values are wanted in (`None`: all values as they are)."""
        self._argument = argument
        self._array = array
        self._dtype = dtype
        self._start, self._stop = start, len(array) if stop is None else stop
        self._pages = _Pages(array)
        self.shape = (len(self), *array.shape[1:])
        self.ndim = len(self.shape)
        self.read(slice(0, 0))

    def __len__(self) -> int:
        return self._stop - self._start

    def __getitem__(self, rows: slice) -> "DiskRows":
        start, stop, _ = rows.indices(len(self))
        return DiskRows(self._argument, self._array, self._dtype, self._start + start, self._start + stop)

    def read(self, rows: Rows) -> Tensor:
        """Return these rows as a tensor in memory, in their order."""
        self._pages.touch(rows.stop - rows.start if isinstance(rows, slice) else len(rows))
        block, order = self._block(rows)
        tensor = from_numpy(self._argument, block)
        if tensor.is_floating_point() and self._dtype is not None:
            tensor = tensor.to(self._dtype)
        return tensor if order is None else torch.empty_like(tensor).index_copy_(0, order, tensor)

    def _block(self, rows: Rows) -> tuple[np.ndarray[Any, Any], Tensor | None]:
        """Read rows as a file likes it, in ascending order, and say where each belongs."""
        if isinstance(rows, slice):
            return np.array(self._array[self._start + rows.start : self._start + rows.stop]), None
        if _is_run(rows):
            return np.array(self._array[self._start + int(rows[0]) : self._start + int(rows[-1]) + 1]), None
        order = np.argsort(rows)
        return np.asarray(self._array[rows[order] + self._start]), torch.from_numpy(order)


class MemoryRows:
    """Rows of a tensor `(samples, …)` in memory, read like those of an array on disk."""

    def __init__(self, tensor: Tensor) -> None:
        """Take a tensor."""
        self._tensor = tensor

    def read(self, rows: Rows) -> Tensor:
        """Return these rows."""
        if isinstance(rows, slice):
            return self._tensor[rows]
        return self._tensor.index_select(0, torch.from_numpy(rows).to(self._tensor.device))


class _Pages:
    """Keeps what a memory map has mapped from growing to the size of the file."""

    def __init__(self, array: Any) -> None:
        self._mapping = _mapping(array)
        self._row_bytes = _MAPPED_AROUND + array.dtype.itemsize * int(np.prod(array.shape[1:]))
        self._bytes = self._mapping.size() if self._mapping is not None else 0
        self._mapped = 0

    def touch(self, rows: int) -> None:
        """Make room for the pages of some more rows."""
        coming = min(rows * self._row_bytes, self._bytes)
        if self._mapped + coming > _MAPPED_AT_MOST and self._mapping is not None:
            self._mapping.madvise(mmap.MADV_DONTNEED)
            self._mapped = 0
        self._mapped += coming


def _memory_map(array: Any) -> np.memmap[Any, Any] | None:
    """Return the memory map that an array is a view of."""
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap) and getattr(array, "_mmap", None) is not None:
            return array
        array = array.base
    return None


def _mapping(array: Any) -> Any:
    """Return the mapping whose pages may be dropped: a private one would lose what was written to it."""
    memory_map = _memory_map(array)
    can_drop = hasattr(mmap, "MADV_DONTNEED") and memory_map is not None and memory_map.mode != "c"
    return memory_map._mmap if can_drop and memory_map is not None else None  # type: ignore[attr-defined]


def _is_run(rows: np.ndarray[Any, Any]) -> bool:
    return rows[-1] - rows[0] == len(rows) - 1 and bool((np.diff(rows) == 1).all())
