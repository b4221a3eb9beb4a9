"""From what users hold to tensors of the right dtype: done once for arrays, per batch for streams."""

from dataclasses import dataclass
from numbers import Number
from typing import Any, cast
from warnings import catch_warnings, simplefilter

import numpy as np
import torch
from torch import Tensor

from torchfit._support import tree
from torchfit._support.errors import describe

_WIDER = {"uint16": np.int32, "uint32": np.int64, "uint64": np.int64}


@dataclass(frozen=True)
class Conversion:
    """Which dtype floating inputs and targets get, and the device that batches are wanted on.

    Inputs follow the floating dtype of the module; targets and weights are float32, or float64 with it.
    """

    device: torch.device
    input_dtype: torch.dtype = torch.float32

    @property
    def target_dtype(self) -> torch.dtype:
        """The floating dtype of targets and sample weights."""
        return torch.float64 if self.input_dtype == torch.float64 else torch.float32

    def inputs(self, argument: str, value: Any) -> Any:
        """Convert a nest of arrays that the module is called with."""
        return self._convert(argument, value, self.input_dtype)

    def targets(self, argument: str, value: Any) -> Any:
        """Convert a nest of targets or weights."""
        return self._convert(argument, value, self.target_dtype)

    def _convert(self, argument: str, value: Any, dtype: torch.dtype) -> Any:
        value = join_numbers(argument, value)
        converted = [
            self._place(tensor_of(tree.format_path(path, argument), leaf), dtype)
            for path, leaf in tree.leaves_with_path(value)
        ]
        return tree.packer(value)(converted) if value is not None else None

    def _place(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        wanted = dtype if tensor.is_floating_point() else tensor.dtype
        return tensor.to(device=self.device, dtype=wanted, non_blocking=True)


def join_numbers(argument: str, value: Any) -> Any:
    """Read a (nested) list of nothing but numbers as one array, and leave everything else alone.

    >>> join_numbers("y", [0, 1, 1])
    array([0, 1, 1])
    """
    if not isinstance(value, (list, tuple)) or not value or not all(map(_is_number, tree.leaves(value))):
        return value
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
    tensor = value if isinstance(value, Tensor) else _from_numpy(argument, value)
    if tensor.ndim == 0:
        raise ValueError(
            f"`{argument}` must have samples along its first axis, but it is {describe(value)}. "
            "A single sample needs a batch axis: x[None]."
        )
    return tensor.detach()


def _from_numpy(argument: str, value: Any) -> Tensor:
    array = np.asarray(value)
    if array.dtype.kind not in "fiubc":
        raise ValueError(
            f"`{argument}` must hold numbers, but it is {describe(value)}. Encode text and categories as "
            "integers first, and give ragged data one shape."
        )
    if array.dtype.name in _WIDER:
        array = array.astype(_WIDER[array.dtype.name])
    if any(stride < 0 for stride in array.strides) or not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="), copy=True)
    with catch_warnings():
        simplefilter("ignore", UserWarning)  # A read-only array is fine: batches are never written to.
        return cast(Tensor, torch.as_tensor(array))


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
