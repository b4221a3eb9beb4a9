"""DataFrames and Series: numeric columns as arrays, without importing pandas."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from torchfit._types import Array, UserData
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
