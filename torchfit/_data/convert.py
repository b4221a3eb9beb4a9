"""Converts arrays of all kinds to tensors, and says to which dtypes and device (`BatchSpec`)."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Number
from time import perf_counter
from typing import Any
from warnings import catch_warnings, simplefilter

import numpy as np
import torch
from torch import Tensor

from torchfit._data.batch_source import copy_to_device
from torchfit._data.sharding import WHOLE_BATCHES, OwnData, RowsOfProcess, WholeBatches
from torchfit._types import Array, Nested, UserData
from torchfit._utils import tree
from torchfit._utils.errors import describe
from torchfit._utils.tensors import dense


def is_frame(value: UserData) -> bool:
    """Return whether `value` is a pandas object (DataFrame, Series, Index, Categorical, …)."""
    is_of_pandas = any(kind.__module__.partition(".")[0] == "pandas" for kind in type(value).__mro__[:-1])
    return is_of_pandas and (hasattr(value, "dtype") or hasattr(value, "columns"))  # `pandas.NA` has neither.


def is_series(value: UserData) -> bool:
    """Return whether `value` is a pandas object without columns: a Series, Index or Categorical."""
    return is_frame(value) and not hasattr(value, "columns")


def series_holds_numbers(series: UserData) -> bool:
    """Return whether a Series holds numbers or bools."""
    return getattr(series.dtype, "kind", "") in "fiub"


def array_of(argument: str, value: UserData) -> Array:
    """Return a DataFrame as a matrix `(rows, columns)`, and any other pandas object as a column `(rows, 1)`.

    Raises:
        ValueError: If columns are not numeric; the message names them.
    """
    if hasattr(value, "columns"):
        return _matrix(argument, value)
    _check_numeric({getattr(value, "name", None): value.dtype}, argument, value)
    _check_labels(argument, value)
    return _column(value)[:, None]


def columns_by_input(argument: str, frame: UserData, input_names: Collection[str]) -> dict[str, UserData]:
    """Return the columns that are named after the inputs of a model, each as a Series.

    Raises:
        ValueError: If some of the inputs have no column.
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


def _column(values: UserData) -> Array:
    """Return a column of any numeric dtype, including the nullable ones; missing values become NaN."""
    if isinstance(values.dtype, np.dtype):
        return np.asarray(values)
    if values.isna().any():
        return np.asarray(values.to_numpy(dtype=np.float64, na_value=np.nan))
    plain = getattr(values.dtype, "numpy_dtype", getattr(values.dtype, "subtype", None))
    return np.asarray(values.to_numpy(dtype=plain))


def _check_labels(argument: str, series: UserData) -> None:
    """Check that integer or boolean targets have no missing values, which would turn classes into floats and NaN."""
    if argument.startswith("y") and series.dtype.kind in "iub" and series.hasnans:
        raise ValueError(
            f"`{argument}` is {describe(series)} with missing values (NA), which no class stands for. Leave out these "
            "rows, or fill them in with fillna."
        )


def _check_numeric(dtypes: Mapping[object, Any], argument: str, value: UserData) -> None:
    non_numeric = {name: dtype for name, dtype in dtypes.items() if dtype.kind not in "fiub"}
    if not non_numeric:
        return
    listed = ", ".join(f"{name!r} ({dtype})" for name, dtype in list(non_numeric.items())[:8])
    more = f" and {len(non_numeric) - 8} more" if len(non_numeric) > 8 else ""
    raise ValueError(
        f"`{argument}` is {describe(value)} with columns that hold no numbers: {listed}{more}. Encode them first, "
        "with pandas.get_dummies(frame) or column.astype('category').cat.codes, or leave them out with "
        "frame.drop(columns=…)."
    )


def _format_names(columns: Iterable[object]) -> str:
    names = [str(name) for name in columns]
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


_SIGNED_DTYPE = {"uint16": np.int32, "uint32": np.int64, "uint64": np.int64}
_SHARED_DTYPES = frozenset(
    map(np.dtype, ("f4", "f8", "f2", "i8", "i4", "i2", "i1", "u1", "?", "c8", "c16"))  # dtypes that torch has as well
)
_MAX_LISTED = 4  # arrays in a message about lengths
NUMERIC_KINDS = "fiubc"
LeafConverter = Callable[[str, UserData], Nested]
Transfer = Callable[[Tensor], Tensor]


@dataclass
class TransferTimer:
    """Adds up the seconds spent on moving batches to their device and dtype."""

    seconds: float = 0.0


@dataclass
class SampleLists:
    """Whether a list of inputs in these data had an entry for each sample; `None` before the first batch."""

    found: bool | None = None


def as_label_names(label_names: UserData) -> dict[str | None, str]:
    """Return the key of each target by output, `None` for the only target.

    Raises:
        TypeError: If `label_names` does not consist of strings.

    >>> as_label_names(["labels"]), as_label_names({"digit": "label"}), as_label_names(None)
    ({None: 'labels'}, {'digit': 'label'}, {})
    """
    if label_names is None:
        return {}
    keys = [label_names] if isinstance(label_names, str) else label_names
    is_list = isinstance(keys, (list, tuple))
    pairs: list[tuple[Any, Any]] = list(keys.items()) if isinstance(keys, Mapping) else [(None, None)]
    if is_list:
        pairs = [(key, key) for key in keys]
    if not all(isinstance(part, str) for pair in pairs for part in pair):
        raise TypeError(
            "`label_names` must be a list of the keys of targets, or a dictionary {output: key}, but it is "
            f"{describe(label_names)}."
        )
    return {None: keys[0]} if is_list and len(keys) == 1 else dict(pairs)


@dataclass(frozen=True)
class BatchSpec:
    """What batches are converted to: their device and dtypes, and what the model expects of inputs and targets.

    Inputs have the floating dtype of the module. Targets and weights are float32, or float64 if the inputs are.

    Attributes:
        device: The device of the batches.
        input_dtype: The floating dtype of inputs.
        input_names: The `input_names` that the user passed to the model, or `None`.
        parameter_names: The required parameters of `forward`. If there are several, and no `input_names`, they take the
            columns of a DataFrame by name.
        output_names: The `output_names` that the user passed to the model, or `None`.
        inputs_only: Whether targets and weights in the batches of an iterable are dropped.
        label_names: The key of each target, by output, in data that are one dictionary or DataFrame; the output `None`
            is the only one.
        kept_labels: The keys in `label_names` that are inputs as well.
        index_targets: For each output (`None` for the only one) whether its integer targets are class indices, as for
            a sparse crossentropy. Outputs whose loss does not determine this are left out. `class_weight` uses it for
            targets of two axes.
        sample_lists: Whether lists of inputs have an entry for each sample.
        share: The part of every batch that this process takes.
    """

    device: torch.device
    input_dtype: torch.dtype = torch.float32
    input_names: Sequence[str] | None = None
    output_names: Sequence[str] | None = None
    inputs_only: bool = False
    parameter_names: Collection[str] = ()
    label_names: Mapping[str | None, str] = field(default_factory=dict)
    kept_labels: Collection[str] = ()
    index_targets: Mapping[str | None, bool] = field(default_factory=dict, compare=False)
    transfer_timer: TransferTimer = field(default_factory=TransferTimer, compare=False)
    sample_lists: SampleLists = field(default_factory=SampleLists, compare=False)
    share: WholeBatches | RowsOfProcess | OwnData = field(default=WHOLE_BATCHES, compare=False)

    @property
    def target_dtype(self) -> torch.dtype:
        """The floating dtype of targets and sample weights."""
        return torch.float64 if self.input_dtype == torch.float64 else torch.float32

    def parts(
        self, x: UserData, y: UserData, sample_weight: UserData, leaf: Callable[[torch.dtype, bool], LeafConverter]
    ) -> tuple[Nested, Nested, Nested]:
        """Convert the three parts; `leaf(dtype, all_floating)` returns the function that converts one array."""
        return (
            _convert("x", self.split_columns(x), leaf(self.input_dtype, False)),
            _convert("y", y, leaf(self.target_dtype, False)),
            _convert("sample_weight", squeeze_weights(sample_weight), leaf(self.target_dtype, True)),
        )

    def split_labels(self, x: UserData) -> tuple[UserData, UserData]:
        """Split a dictionary or DataFrame into inputs and targets by `label_names`; else return `(x, None)`."""
        is_table = is_frame(x) and not is_series(x)
        if not is_table and not isinstance(x, Mapping):
            return x, None
        keys = {name: key for name, key in self.label_names.items() if key in x}
        if not keys:
            return x, None
        targets = {name: x[key] for name, key in keys.items()}
        dropped = [key for key in keys.values() if key not in self.kept_labels]
        inputs = x.drop(columns=dropped) if is_table else {key: x[key] for key in x if key not in dropped}
        return inputs, targets.get(None, targets)

    def split_batch(self, raw: UserData) -> UserData:
        """Return a batch or sample that is one dictionary as `(x, y)`, and anything else as it is."""
        is_wrapped = isinstance(raw, (tuple, list)) and len(raw) == 1
        x, y = self.split_labels(raw[0] if is_wrapped else raw)
        return raw if y is None else (x, y)

    def split_columns(self, x: UserData) -> UserData:
        """Return a DataFrame whose columns are the inputs as a dictionary, and anything else as it is.

        Raises:
            ValueError: If some of the inputs have no column.
        """
        if not is_frame(x) or is_series(x):
            return x
        names = self.input_names or ()
        if len(names) > 1 or (names and names[0] in x.columns):
            return columns_by_input("x", x, names)
        parameters = self.parameter_names
        if not names and len(parameters) > 1 and all(name in x.columns for name in parameters):
            return columns_by_input("x", x, parameters)
        return x

    def make_transfer(self, dtype: torch.dtype, all_floating: bool = False) -> Transfer:
        """Return a function that moves a tensor to the device and casts floating values to `dtype`."""
        device, transfer_timer = self.device, self.transfer_timer

        def transfer(tensor: Tensor) -> Tensor:
            new_dtype = dtype if all_floating or tensor.is_floating_point() else tensor.dtype
            if new_dtype is tensor.dtype and tensor.device == device:
                return tensor
            start_time = perf_counter()
            if tensor.device.type == "cpu":
                placed = copy_to_device(tensor.to(new_dtype), device)
            else:
                placed = tensor.to(device, new_dtype)
            transfer_timer.seconds += perf_counter() - start_time
            return placed

        return transfer

    @cached_property
    def transfers(self) -> tuple[Transfer, Transfer, Transfer]:
        """The functions that transfer the tensors of x, y and sample_weight."""
        to_targets = self.make_transfer(self.target_dtype)
        return self.make_transfer(self.input_dtype), to_targets, self.make_transfer(self.target_dtype, True)


def host_leaf(dtype: torch.dtype, all_floating: bool = False) -> LeafConverter:
    """Return a function that converts one array to a tensor that stays on the host."""

    def convert(argument: str, value: UserData) -> Tensor:
        tensor = tensor_of(argument, value)
        return tensor.to(dtype) if all_floating or tensor.is_floating_point() else tensor

    return convert


def _convert(argument: str, value: UserData, leaf: LeafConverter) -> Nested:
    if value is None:
        return None
    if tree.is_leaf(value):  # A fast path for the common case.
        return leaf(argument, value)
    value = lists_to_arrays(argument, value)
    converted = [leaf(tree.format_path(path, argument), part) for path, part in tree.leaves_with_path(value)]
    if not converted:
        raise ValueError(f"`{argument}` is {describe(value)}: it holds no array.")
    return tree.unflattener(value)(converted)


def squeeze_weights(value: UserData) -> UserData:
    """Return the weights with each Series as an array `(samples,)`."""
    if value is None:
        return None
    return tree.map(lambda leaf: array_of("sample_weight", leaf).squeeze(-1) if is_series(leaf) else leaf, value)


def lists_to_arrays(argument: str, value: UserData) -> UserData:
    """Convert (nested) lists of numbers to arrays, and leave everything else as it is.

    >>> lists_to_arrays("y", {"a": [0, 1, 1]})
    {'a': array([0, 1, 1])}
    """
    if tree.is_leaf(value) or not tree.children(value):
        return value
    if not holds_numbers(value):
        return tree.rebuild(value, [lists_to_arrays(argument, part) for _, part in tree.children(value)])
    try:
        return array_of_numbers(value)
    except ValueError as error:
        raise ValueError(
            f"`{argument}` is a nested list of numbers whose rows differ in length. Pad them to one length, or pass "
            "a Dataset with a `collate_fn` that does."
        ) from error


def holds_numbers(value: UserData) -> bool:
    """Return whether `value` is a (nested) list or tuple of numbers: Python's, NumPy's or 0-dimensional tensors.

    >>> holds_numbers([[1, 2.5], [True, 3]]), holds_numbers([]), holds_numbers({"a": 1})
    (True, False, False)
    """
    if not isinstance(value, (list, tuple)) or hasattr(value, "_fields"):
        return False
    leaves = tree.leaves(value)
    return bool(leaves) and all(map(_is_number, leaves))


def array_of_numbers(value: Sequence[Nested]) -> Array | Tensor:
    """Return a (nested) list of numbers as an array, or as a tensor if its entries are tensors.

    Raises:
        ValueError: If its rows differ in length.
    """
    if all(isinstance(entry, Tensor) for entry in value):
        return torch.stack([entry.detach() for entry in value])
    return np.asarray(tree.map(lambda entry: entry.item() if isinstance(entry, Tensor) else entry, value))


def _is_number(value: UserData) -> bool:
    return value.ndim == 0 if isinstance(value, Tensor) else isinstance(value, (Number, np.bool_))


def tensor_of(argument: str, value: UserData) -> Tensor:
    """Convert an array-like to a tensor that shares its memory if possible.

    Raises:
        ValueError: If it holds text, objects or dates, or has no axis of samples.
    """
    tensor = dense(argument, value) if isinstance(value, Tensor) else from_numpy(argument, value)
    if tensor.ndim == 0:
        raise ValueError(
            f"`{argument}` must have samples along its first axis, but it is {describe(value)}. "
            "A single sample needs a batch axis: x[None]."
        )
    return tensor.detach() if tensor.requires_grad else tensor


def from_numpy(argument: str, value: UserData) -> Tensor:
    """Convert anything that NumPy reads as an array to a tensor.

    Raises:
        ValueError: If it is not numeric.
    """
    return share_memory(array_of(argument, value) if is_frame(value) else _array(argument, value))


def share_memory(array: Array) -> Tensor:
    """Return a tensor that shares the memory of a numeric array, or of a copy if torch lacks its dtype or layout."""
    dtype = array.dtype
    if dtype in _SHARED_DTYPES and array.flags.c_contiguous and array.flags.writeable:
        return torch.from_numpy(array)
    if dtype.kind == "f" and dtype.itemsize > 8:
        array = array.astype(np.float64)
    elif dtype.name in _SIGNED_DTYPE:
        array = array.astype(_SIGNED_DTYPE[dtype.name])
    if not dtype.isnative or min(array.strides, default=0) < 0:
        array = array.astype(array.dtype.newbyteorder("="), copy=True)
    return torch.from_numpy(array) if array.flags.writeable else _read_only(array)


def is_numeric(dtype: object) -> bool:
    """Return whether a NumPy dtype is numeric or bool."""
    return getattr(dtype, "kind", "") in NUMERIC_KINDS


def _read_only(array: Array) -> Tensor:
    """Share the memory of a read-only array, without torch's warning: steps get copies of what they may write to."""
    with catch_warnings():
        simplefilter("ignore", UserWarning)
        return torch.from_numpy(array)


def _array(argument: str, value: UserData) -> Array:
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"`{argument}` is {describe(value)}, which NumPy cannot read as an array: {error}") from error
    if not is_numeric(array.dtype):
        raise ValueError(
            f"`{argument}` must hold numbers, but it is {_kind_of(value)}. Encode text and categories as "
            "integers first, and give ragged data one shape."
        )
    return array


def _kind_of(value: UserData) -> str:
    """Describe a value for a message, without showing the data: of text, only that it is text."""
    return "text" if isinstance(value, (str, bytes)) else describe(value)


def check_lengths(parts: Mapping[str, UserData]) -> int:
    """Return the number of samples, which must be the same for all arrays.

    Raises:
        ValueError: If the numbers differ, or there are no samples.
    """
    lengths = [len(leaf) for nest in parts.values() for leaf in tree.leaves(nest)]
    if len(set(lengths)) > 1:
        raise ValueError(
            f"All arrays must have the same number of samples (rows), but {_listed(parts)}.{_stacking_hint(parts)}"
        )
    samples = next(iter(lengths), 0)
    if samples == 0:
        raise ValueError(f"`{next(iter(parts))}` has no samples: there is nothing to make a batch from.")
    return samples


def _listed(parts: Mapping[str, UserData]) -> str:
    """List the lengths of the first arrays, the last array and the first array with a different length."""
    lengths = {
        tree.format_path(path, argument): len(leaf)
        for argument, nest in parts.items()
        for path, leaf in tree.leaves_with_path(nest)
    }
    names = list(lengths)
    different = next(name for name in names if lengths[name] != lengths[names[0]])
    shown = [name for name in names if name in (*names[:_MAX_LISTED], different, names[-1])]
    listed = ", ".join(f"`{name}` has {lengths[name]}" for name in shown)
    hidden = len(names) - len(shown)
    return listed + (f" (and {hidden} more)" if hidden else "")


def _stacking_hint(parts: Mapping[str, object]) -> str:
    """Return a hint if `x` is a list with one array per sample: a list is read as one array per input."""
    x, y = parts.get("x"), parts.get("y")
    is_list = isinstance(x, (list, tuple)) and not hasattr(x, "_fields") and all(map(tree.is_leaf, x))
    rows = {len(leaf) for leaf in tree.leaves(y)}
    if is_list and rows == {len(x)}:  # type: ignore[arg-type]
        return f" A list is one array for each input: stack {len(x)} samples with torch.stack(x) or np.stack(x)."  # type: ignore[arg-type]
    return ""


def hint_for_pairs(x: UserData) -> str:
    """Return what to pass instead of a list of samples or batches `(x, y)`, which is read as a list of inputs.

    The result is empty for other data.

    >>> import torch
    >>> hint_for_pairs([(torch.zeros(4, 5), torch.zeros(4))])
    'A list is one array for each input, and not one batch (x, y): pass iter(x), or lambda: iter(x) for several epochs.'
    >>> hint_for_pairs([torch.zeros(4, 5), torch.zeros(4)])
    ''
    """
    is_list = isinstance(x, (list, tuple)) and bool(x) and not hasattr(x, "_fields")
    if not is_list or not all(map(_is_pair, x)) or holds_numbers(x):
        return ""
    kind, way_out = "sample", "torch.utils.data.DataLoader(x, batch_size=32)"
    if all(map(_has_rows, x)):
        kind, way_out = "batch", "iter(x), or lambda: iter(x) for several epochs"
    return f"A list is one array for each input, and not one {kind} (x, y): pass {way_out}."


def _is_pair(value: UserData) -> bool:
    """Return whether a value may be a sample or a batch with its targets."""
    return (isinstance(value, (list, tuple)) and len(value) in (2, 3)) or (
        isinstance(value, Mapping) and len(value) > 1
    )


def _has_rows(pair: UserData) -> bool:
    """Return whether the parts of a sample or batch have the same number of rows, and the first part other axes."""
    shapes = [tuple(getattr(leaf, "shape", ())) for leaf in tree.leaves(pair)]
    return len({shape[:1] for shape in shapes}) == 1 and len(shapes[0]) > 1
