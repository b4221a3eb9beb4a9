"""Dtypes by name: `"float32"` and `torch.float32` are interchangeable."""

import torch

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
    """Return the dtype for long sums: float64, or float32 on Apple's GPUs, which have no other.

    >>> sum_dtype(torch.device("cpu"))
    torch.float64
    """
    return torch.float32 if device is not None and device.type == "mps" else torch.float64


def count_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype for counts within a batch: int64, or int32 on Apple's GPUs, which add up no other.

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
