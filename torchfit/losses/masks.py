"""Masks: which values of a batch count. Keras' convention is an attribute `_keras_mask` of the predictions."""

from typing import Any

import torch
from torch import Tensor

from torchfit._utils.tensors import as_tensor


def get_mask(values: Any) -> Any:
    """Return the mask that outputs or loss values carry, or `None`."""
    return getattr(values, "_keras_mask", None)


def with_mask(values: Tensor, mask: Any) -> Tensor:
    """Attach a mask to a tensor that nobody else holds yet."""
    values._keras_mask = mask  # type: ignore[attr-defined]
    return values


def as_mask(mask: Any, device: torch.device) -> Tensor:
    """Return a mask of any number kind, or an array, as booleans."""
    tensor = as_tensor(mask, device=device)
    return tensor if tensor.dtype is torch.bool else tensor != 0


def drop_unusable(values: Any, mask: Tensor) -> Any:
    """Replace NaN and infinity where `mask (batch, …)` is false, lest they reach sums and gradients.

    Finite values stay what they are: losses may compare samples with each other. The result carries the mask.
    """
    if not isinstance(values, Tensor) or not values.is_floating_point() or not is_leading(mask, values):
        return values
    return with_mask(torch.where(spread(mask, values) | values.isfinite(), values, 0), mask)


def is_leading(mask: Tensor, values: Tensor) -> bool:
    """Return whether the dimensions of a mask are the first ones of `values`, or 1."""
    return mask.dim() <= values.dim() and all(one in (1, other) for one, other in zip(mask.shape, values.shape))


def spread(mask: Tensor, values: Tensor) -> Tensor:
    """Append dimensions of size 1 to a mask until it has as many as `values`."""
    return mask.reshape(mask.shape + (1,) * (values.dim() - mask.dim()))
