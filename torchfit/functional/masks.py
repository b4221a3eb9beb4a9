"""Masks: which values of a batch count. Keras' convention is an attribute `_keras_mask` of the predictions."""

import torch
from torch import Tensor

from torchfit._types import Nested, TensorLike
from torchfit._utils.errors import describe
from torchfit._utils.tensors import as_tensor


def get_mask(values: Nested) -> Nested:
    """Return the mask that outputs or loss values carry, or `None`."""
    return getattr(values, "_keras_mask", None)


def with_mask(values: Tensor, mask: TensorLike) -> Tensor:
    """Attach a mask to a tensor that nobody else holds yet."""
    values._keras_mask = mask  # type: ignore[attr-defined]
    return values


def as_mask(mask: TensorLike, device: torch.device) -> Tensor:
    """Return a mask of any number kind, or an array, as booleans."""
    tensor = as_tensor(mask, device=device)
    return tensor if tensor.dtype is torch.bool else tensor != 0


def drop_unusable(values: Nested, mask: Tensor) -> Nested:
    """Replace NaN and infinity where `mask (batch, …)` is false, lest they reach sums and gradients.

    Finite values stay what they are: losses may compare samples with each other. The result carries the mask.
    """
    if not isinstance(values, Tensor) or not values.is_floating_point():
        return values
    fitted = fit_mask(mask, values)
    return values if fitted is None else with_mask(torch.where(fitted | values.isfinite(), values, 0), mask)


def fit_mask(mask: Tensor, values: Tensor) -> Tensor | None:
    """Return a mask that broadcasts to `values`, whose first dimensions it has, or `None` if it has others.

    >>> fit_mask(torch.ones(4, 1), torch.zeros(4)).shape, fit_mask(torch.ones(4), torch.zeros(4, 5, 6)).shape
    (torch.Size([4]), torch.Size([4, 1, 1]))
    """
    while mask.dim() > values.dim() and mask.shape[-1] == 1:
        mask = mask.squeeze(-1)
    if mask.dim() > values.dim() or any(one not in (1, other) for one, other in zip(mask.shape, values.shape)):
        return None
    return mask.reshape(mask.shape + (1,) * (values.dim() - mask.dim()))


def require_mask(mask: Tensor, values: Tensor) -> Tensor:
    """Return a mask that broadcasts to `values`; raise `ValueError` if it does not fit them."""
    fitted = fit_mask(mask, values)
    if fitted is None:
        raise ValueError(
            "The mask of y_pred must have its shape or its first dimensions. "
            f"Received: the mask, {describe(mask)}, and y_pred, {describe(values)}."
        )
    return fitted
