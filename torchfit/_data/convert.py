"""Converts arrays of all kinds to tensors: once for arrays, per batch for everything that yields batches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from numbers import Number
from time import perf_counter
from typing import Any
from warnings import catch_warnings, simplefilter

import numpy as np
import torch
from torch import Tensor

from torchfit._data.adapters import frames
from torchfit._utils import tree
from torchfit._utils.errors import describe

_SIGNED_DTYPE = {"uint16": np.int32, "uint32": np.int64, "uint64": np.int64}
LeafConverter = Callable[[str, Any], Any]
LeafConverterFactory = Callable[..., LeafConverter]


@dataclass
class TransferTimer:
    """The seconds spent on converting batches to their device and dtype."""

    seconds: float = 0.0


@dataclass(frozen=True)
class BatchSpec:
    """The device of batches, and the floating dtypes of inputs and targets.

    Inputs follow the floating dtype of the module; targets and weights are float32, or float64 with it.
    `input_names` and `output_names` are those that the user passed to the model, `None` where there are none. With
    `inputs_only`, targets and weights in the batches of an iterable are dropped.
    """

    device: torch.device
    input_dtype: torch.dtype = torch.float32
    input_names: Sequence[str] | None = None
    output_names: Sequence[str] | None = None
    inputs_only: bool = False
    transfer_timer: TransferTimer = field(default_factory=TransferTimer, compare=False)

    @property
    def target_dtype(self) -> torch.dtype:
        """The floating dtype of targets and sample weights."""
        return torch.float64 if self.input_dtype == torch.float64 else torch.float32

    def parts(self, x: Any, y: Any, sample_weight: Any, leaf: LeafConverterFactory) -> tuple[Any, Any, Any]:
        """Convert the three parts; `leaf(dtype, all_floating)` returns the conversion of one array."""
        if frames.has_columns_for(x, self.input_names):
            x = frames.columns_by_input("x", x, self.input_names or ())
        return (
            _convert("x", x, leaf(self.input_dtype)),
            _convert("y", y, leaf(self.target_dtype)),
            _convert("sample_weight", squeeze_weights(sample_weight), leaf(self.target_dtype, all_floating=True)),
        )

    def inputs(self, argument: str, value: Any) -> Any:
        """Convert a nest of arrays that the module is called with, and move it to the device."""
        return _convert(argument, value, self.leaf(self.input_dtype))

    def leaf(self, dtype: torch.dtype, all_floating: bool = False) -> LeafConverter:
        """Return the conversion of one array to a tensor on the device."""
        transfer = self.make_transfer(dtype, all_floating)
        return lambda argument, value: transfer(tensor_of(argument, value))

    def make_transfer(self, dtype: torch.dtype, all_floating: bool = False) -> Callable[[Tensor], Tensor]:
        """Return a function that moves a tensor to the device and casts floating values to `dtype`."""
        device, pins, transfer_timer = self.device, self.device.type == "cuda", self.transfer_timer

        def transfer(tensor: Tensor) -> Tensor:
            wanted = dtype if all_floating or tensor.is_floating_point() else tensor.dtype
            if wanted is tensor.dtype and tensor.device == device:
                return tensor
            started = perf_counter()
            if pins and tensor.device.type == "cpu":
                placed = tensor.to(wanted).pin_memory().to(device, non_blocking=True)
            else:
                placed = tensor.to(device, wanted)
            transfer_timer.seconds += perf_counter() - started
            return placed

        return transfer


def host_leaf(dtype: torch.dtype, all_floating: bool = False) -> LeafConverter:
    """Return the conversion of one array to a tensor that stays on the host."""

    def convert(argument: str, value: Any) -> Tensor:
        tensor = tensor_of(argument, value)
        return tensor.to(dtype) if all_floating or tensor.is_floating_point() else tensor

    return convert


def _convert(argument: str, value: Any, leaf: LeafConverter) -> Any:
    if value is None:
        return None
    value = lists_to_arrays(argument, value)
    converted = [leaf(tree.format_path(path, argument), part) for path, part in tree.leaves_with_path(value)]
    if not converted:
        raise ValueError(f"`{argument}` is {describe(value)}: it holds no array.")
    return tree.unflattener(value)(converted)


def squeeze_weights(value: Any) -> Any:
    """Return weights with every Series as a flat array: one weight for each sample."""
    return tree.map(
        lambda leaf: frames.array_of("sample_weight", leaf).squeeze(-1) if _is_series(leaf) else leaf, value
    )


def _is_series(value: Any) -> bool:
    return frames.is_frame(value) and not hasattr(value, "columns")


def lists_to_arrays(argument: str, value: Any) -> Any:
    """Convert (nested) lists of nothing but numbers to arrays, and leave everything else as it is.

    >>> lists_to_arrays("y", {"a": [0, 1, 1]})
    {'a': array([0, 1, 1])}
    """
    if tree.is_leaf(value) or not tree.children(value):
        return value
    leaves = tree.leaves(value)
    if not isinstance(value, (list, tuple)) or not leaves or not all(map(_is_number, leaves)):
        return tree.rebuild(value, [lists_to_arrays(argument, part) for _, part in tree.children(value)])
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(
            f"`{argument}` is a nested list of numbers whose rows differ in length. Pad them to one length, or pass "
            "a Dataset with a `collate_fn` that does."
        ) from error


def _is_number(value: Any) -> bool:
    return isinstance(value, Number) and not isinstance(value, Tensor)


def tensor_of(argument: str, value: Any) -> Tensor:
    """Return an array-like as a tensor that shares its memory where it can.

    Raises:
        ValueError: If it holds text, objects or dates, or has no first axis to take samples from.
    """
    tensor = value if isinstance(value, Tensor) else from_numpy(argument, value)
    if tensor.ndim == 0:
        raise ValueError(
            f"`{argument}` must have samples along its first axis, but it is {describe(value)}. "
            "A single sample needs a batch axis: x[None]."
        )
    if tensor.layout != torch.strided:
        raise ValueError(f"`{argument}` is a sparse tensor, which has no rows to take: pass {argument}.to_dense().")
    return tensor.detach() if tensor.requires_grad else tensor


def from_numpy(argument: str, value: Any) -> Tensor:
    """Return anything that NumPy can convert to an array as a tensor.

    Raises:
        ValueError: If it holds no numbers.
    """
    array = frames.array_of(argument, value) if frames.is_frame(value) else _array(argument, value)
    dtype = array.dtype
    if dtype.kind == "u" and dtype.name in _SIGNED_DTYPE:
        array = array.astype(_SIGNED_DTYPE[dtype.name])
    if not dtype.isnative or min(array.strides, default=0) < 0:
        array = array.astype(array.dtype.newbyteorder("="), copy=True)
    return torch.from_numpy(array) if array.flags.writeable else _read_only(array)


def _read_only(array: np.ndarray[Any, Any]) -> Tensor:
    """Share the memory of a read-only array, which torch warns about: batches are never written to."""
    with catch_warnings():
        simplefilter("ignore", UserWarning)
        return torch.from_numpy(array)


def _array(argument: str, value: Any) -> np.ndarray[Any, Any]:
    if hasattr(value, "toarray"):
        raise ValueError(f"`{argument}` is {describe(value)}, a sparse matrix: pass {argument}.toarray().")
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`{argument}` is {describe(value)}, which NumPy cannot read as an array: {error}") from error
    if array.dtype.kind not in "fiubc":
        raise ValueError(
            f"`{argument}` must hold numbers, but it is {describe(value)}. Encode text and categories as "
            "integers first, and give ragged data one shape."
        )
    return array.astype(np.float64) if array.dtype.itemsize > 8 and array.dtype.kind == "f" else array


def check_lengths(parts: dict[str, Any]) -> int:
    """Return the number of samples, which all arrays must share.

    Raises:
        ValueError: If they differ, or if there are none.
    """
    lengths = {
        tree.format_path(path, argument): len(leaf)
        for argument, nest in parts.items()
        for path, leaf in tree.leaves_with_path(nest)
    }
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"`{name}` has {length}" for name, length in lengths.items())
        raise ValueError(f"All arrays must have the same number of samples (rows), but {told}.")
    samples = next(iter(lengths.values()), 0)
    if samples == 0:
        raise ValueError(f"`{next(iter(parts))}` has no samples: there is nothing to make a batch from.")
    return samples
