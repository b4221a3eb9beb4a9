"""DataFrames and sparse matrices, as arrays."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchfit._data.adapters.arrays import LazyArray, Rows
from torchfit._data.convert import is_numeric, share_memory
from torchfit._types import Array, UserData
from torchfit._utils import tree
from torchfit._utils.errors import describe


def is_frame(value: UserData) -> bool:
    """Return whether `value` is an object of pandas (DataFrame, Series, Index, Categorical, …)."""
    is_of_pandas = any(kind.__module__.partition(".")[0] == "pandas" for kind in type(value).__mro__[:-1])
    return is_of_pandas and (hasattr(value, "dtype") or hasattr(value, "columns"))  # `pandas.NA` has neither.


def is_series(value: UserData) -> bool:
    """Return whether `value` is an object of pandas without columns: a Series, Index or Categorical."""
    return is_frame(value) and not hasattr(value, "columns")


def holds_numbers(series: Any) -> bool:
    """Return whether a Series holds numbers or bools."""
    return getattr(series.dtype, "kind", "") in "fiub"


def array_of(argument: str, value: UserData) -> Array:
    """Return a DataFrame as a matrix `(rows, columns)`, and any other pandas object as a column `(rows, 1)`.

    Raises:
        ValueError: If columns hold no numbers, with their names.
    """
    if hasattr(value, "columns"):
        return _matrix(argument, value)
    _check_numeric({getattr(value, "name", None): value.dtype}, argument, value)
    _check_labels(argument, value)
    return _column(value)[:, None]


def columns_by_input(argument: str, frame: UserData, input_names: Collection[str]) -> dict[str, UserData]:
    """Return the columns that are named like the inputs of a model, each as a Series.

    Raises:
        ValueError: If only some of the inputs have a column.
    """
    missing = [name for name in input_names if name not in frame.columns]
    if missing:
        raise ValueError(
            f"`{argument}` has no column for the inputs {missing} of the model, whose inputs are {list(input_names)}. "
            f"Its columns are {_format_names(frame.columns)}. Rename them, or pass a dictionary by input."
        )
    return {name: frame[name] for name in input_names}


def _matrix(argument: str, frame: UserData) -> Array:
    dtypes = list(frame.dtypes.items())
    if not dtypes:
        raise ValueError(f"`{argument}` is {describe(frame)}: it has no columns.")
    _check_numeric(dict(dtypes), argument, frame)
    if all(isinstance(dtype, np.dtype) for _, dtype in dtypes):
        matrix: Array = frame.to_numpy(dtype=np.result_type(*(dtype for _, dtype in dtypes)))
        return matrix
    columns = [frame.iloc[:, position] for position in range(len(dtypes))]
    for column in columns:
        _check_labels(argument, column)
    return np.column_stack([_column(column) for column in columns])


def _column(values: Any) -> Array:
    """Return a column of any numeric dtype, including the nullable ones; missing values become NaN."""
    if isinstance(values.dtype, np.dtype):
        return np.asarray(values)
    if values.isna().any():
        return np.asarray(values.to_numpy(dtype=np.float64, na_value=np.nan))
    plain = getattr(values.dtype, "numpy_dtype", getattr(values.dtype, "subtype", None))
    return np.asarray(values.to_numpy(dtype=plain))


def _check_labels(argument: str, series: UserData) -> None:
    """Check that integer or boolean targets are complete: as floats, which have NaN, they would be no classes."""
    if argument.startswith("y") and series.dtype.kind in "iub" and series.hasnans:
        raise ValueError(
            f"`{argument}` is {describe(series)} with missing values (NA), which no class stands for. Leave out these "
            "rows, or fill them in with fillna."
        )


def _check_numeric(dtypes: Mapping[object, Any], argument: str, value: UserData) -> None:
    wrong = {name: dtype for name, dtype in dtypes.items() if dtype.kind not in "fiub"}
    if not wrong:
        return
    listed = ", ".join(f"{name!r} ({dtype})" for name, dtype in list(wrong.items())[:8])
    more = f" and {len(wrong) - 8} more" if len(wrong) > 8 else ""
    raise ValueError(
        f"`{argument}` is {describe(value)} with columns that hold no numbers: {listed}{more}. Encode them first, "
        "with pandas.get_dummies(frame) or column.astype('category').cat.codes, or leave them out with "
        "frame.drop(columns=…)."
    )


def _format_names(columns: Any) -> str:
    names = [str(name) for name in columns]
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


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
