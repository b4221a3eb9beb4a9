"""Conversion to tensors, dtypes by name, and functions applied to all tensors of a structure."""

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from torchfit._utils import tree
from torchfit._utils.errors import describe
from torchfit._utils.names import did_you_mean

_BY_NAME = {
    str(value).removeprefix("torch."): value for value in vars(torch).values() if isinstance(value, torch.dtype)
}


def as_dtype(dtype: object, argument: str = "dtype") -> torch.dtype:
    """Return the torch dtype of a name, a torch dtype or a NumPy dtype; `None` is float32.

    >>> as_dtype("int32"), as_dtype(None)
    (torch.int32, torch.float32)
    """
    if dtype is None:
        return torch.float32
    if isinstance(dtype, torch.dtype):
        return dtype
    name = dtype if isinstance(dtype, str) else getattr(dtype, "name", getattr(dtype, "__name__", ""))
    if name not in _BY_NAME:
        hint = did_you_mean(name, _BY_NAME) if isinstance(dtype, str) else "Pass a name such as 'float32'."
        raise ValueError(f"`{argument}` must be the name of a dtype. Received: {describe(dtype)}. {hint}")
    return _BY_NAME[name]


def sum_dtype(device: torch.device | None) -> torch.dtype:
    """Return the dtype for long sums: float64, or float32 on Apple's GPUs, which lack float64.

    >>> sum_dtype(torch.device("cpu"))
    torch.float64
    """
    return torch.float32 if device is not None and device.type == "mps" else torch.float64


def count_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype for counts within a batch: int64, or int32 on Apple's GPUs, which cannot sum int64.

    >>> count_dtype(torch.device("cpu"))
    torch.int64
    """
    return torch.int32 if device.type == "mps" else torch.int64


def dtype_name(dtype: torch.dtype) -> str:
    """Return the bare name of a dtype.

    >>> dtype_name(torch.bfloat16)
    'bfloat16'
    """
    return str(dtype).removeprefix("torch.")


def as_tensor(value: object, dtype: torch.dtype | None = None, device: torch.device | None = None) -> Tensor:
    """Return `value` (tensor, NumPy array, number, nested list) as a tensor, sharing memory where possible.

    Without `dtype`, float64 that is not a tensor becomes torch's default dtype (float32), as Keras does with
    NumPy arrays and Python floats; tensors and integers keep their dtype.

    Raises:
        TypeError: If complex numbers would become real.
    """
    if isinstance(value, Tensor):
        if dtype is not None and value.is_complex() and not dtype.is_complex:
            raise TypeError(
                f"Complex numbers would lose their imaginary parts in {dtype_name(dtype)}. Received: "
                f"{describe(value)}. Pass real numbers, such as torch.view_as_real(value), or use a function of your "
                "own, such as `lambda y_true, y_pred: (y_pred - y_true).abs()`."
            )
        return value.to(device=device, dtype=dtype)
    array = np.asarray(value)
    if dtype is None and array.dtype == np.float64:
        dtype = torch.get_default_dtype()
    return torch.as_tensor(array, dtype=dtype, device=device)


def compute_dtype(dtype: torch.dtype, values: tree.Tree) -> torch.dtype:
    """Return the dtype to compute in: `dtype`, or that of the values if float32, the default, cannot hold them.

    >>> compute_dtype(torch.float32, torch.ones(1, dtype=torch.float64))
    torch.float64
    """
    if dtype is not torch.float32:
        return dtype
    dtypes = {leaf.dtype for leaf in tree.leaves(values) if isinstance(leaf, Tensor)}
    kept = [each for each in dtypes if each is torch.float64 or each.is_complex]
    return functools.reduce(torch.promote_types, kept, dtype)


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return float16 and bfloat16 in float32, as `torch.autocast` does for losses, and anything else as it is.

    >>> at_least_float32(torch.ones(1, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    return tensor.float() if tensor.is_floating_point() and tensor.dtype.itemsize < 4 else tensor


def is_plain(value: object) -> bool:
    """Return whether `value` is an ordinary strided tensor, with its values in memory."""
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and not (value.is_nested or value.is_quantized or value.is_meta)
    )


def dense(argument: str, tensor: Tensor) -> Tensor:
    """Convert a sparse, quantized or otherwise special tensor to an ordinary strided one.

    Raises:
        ValueError: If it has no values, or rows of different lengths.
    """
    if is_plain(tensor):
        return tensor
    if tensor.is_meta or tensor.is_nested:
        kind = "without values, on the device meta" if tensor.is_meta else "with rows of different lengths"
        raise ValueError(f"`{argument}` is a tensor {kind}. Pass a tensor with values `(samples, …)`.")
    return tensor.dequantize() if tensor.is_quantized else tensor.to_dense()


def map_tensors(function: Callable[[Tensor], Tensor], structure: tree.Tree) -> tree.Tree:
    """Apply a function to every tensor of a structure, and keep masks and other attributes of the tensors."""

    def apply(leaf: object) -> object:
        if not isinstance(leaf, Tensor):
            return leaf
        result = function(leaf)
        vars(result).update(vars(leaf))
        return result

    return tree.map(apply, structure)


def real(tensor: Tensor) -> Tensor:
    """Return the real part of a complex tensor, and any other tensor as it is."""
    return tensor.real if tensor.is_complex() else tensor
