"""Conversion to tensors, and functions of all tensors in a structure."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchfit._utils import tree


def as_tensor(value: object, dtype: torch.dtype | None = None, device: torch.device | None = None) -> Tensor:
    """Return `value` (tensor, NumPy array, number, nested list) as a tensor, sharing memory where possible.

    Without `dtype`, float64 that is not a tensor becomes torch's default dtype (float32), as Keras does with
    NumPy arrays and Python floats; tensors and integers keep their dtype.
    """
    if isinstance(value, Tensor):
        return value.to(device=device, dtype=dtype)
    array = np.asarray(value)
    if dtype is None and array.dtype == np.float64:
        dtype = torch.get_default_dtype()
    return torch.as_tensor(array, dtype=dtype, device=device)


def is_plain(value: Any) -> bool:
    """Return whether `value` is a tensor with values in memory, one beside the other."""
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and not (value.is_nested or value.is_quantized or value.is_meta)
    )


def map_tensors(function: Callable[[Tensor], Tensor], structure: tree.Tree) -> tree.Tree:
    """Apply a function to every tensor in a structure; masks and other attributes of the tensors are kept."""

    def apply(leaf: object) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        result = function(leaf)
        vars(result).update(vars(leaf))
        return result

    return tree.map(apply, structure)
