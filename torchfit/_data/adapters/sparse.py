"""Sparse matrices of SciPy and sparse tensors of torch: the rows of a batch become dense when it is drawn."""

import numpy as np
import torch
from torch import Tensor

from torchfit._data.adapters.disk import LazyArray, Rows
from torchfit._data.convert import is_numeric, share_memory
from torchfit._types import UserData
from torchfit._utils import tree
from torchfit._utils.errors import describe


def is_sparse(value: UserData) -> bool:
    """Return whether `value` is a sparse matrix or array of SciPy, or a sparse tensor."""
    if isinstance(value, Tensor):
        return value.layout != torch.strided and value.layout in _LAYOUTS
    return hasattr(value, "toarray") and hasattr(value, "tocsr") and hasattr(value, "nnz")


def by_rows(value: UserData) -> UserData:
    """Return a sparse array that is a dictionary as well, such as SciPy's `dok_matrix`, as one that is none."""
    return value if tree.is_leaf(value) or not is_sparse(value) else value.tocsr()


_LAYOUTS = (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)


class SparseArray(LazyArray):
    """Rows `start` to `stop` of a sparse array `(samples, …)`, stored row by row, of which each batch becomes dense.

    A batch costs the memory of its dense rows; the whole is never dense.
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


_Stored = tuple[Tensor, Tensor, Tensor, tuple[int, ...]]


def _rows_of_matrix(argument: str, matrix: UserData) -> _Stored:
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


def _rows_of_tensor(argument: str, tensor: Tensor) -> _Stored:
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
