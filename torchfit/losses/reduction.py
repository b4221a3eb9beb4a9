"""From per-sample values, weights and a mask to what a loss returns, and what it was divided by."""

import torch
from torch import Tensor

from torchfit._types import TensorLike
from torchfit._utils.errors import describe
from torchfit._utils.tensors import as_tensor
from torchfit.functional.alignment import align_ranks
from torchfit.functional.masks import as_mask

Denominator = Tensor | float
"""A `float` where it follows from shapes, else a tensor without dimensions, left on its device."""

Reduced = tuple[Tensor, Denominator]
"""A reduced loss and its denominator."""

REDUCTIONS = ("sum_over_batch_size", "mean", "mean_with_sample_weight", "sum", "none", None)
MEANS = REDUCTIONS[:3]


def check_reduction(reduction: object) -> str | None:
    """Return `reduction` if it is one, else raise `ValueError`."""
    if not isinstance(reduction, (str, type(None))) or reduction not in REDUCTIONS:
        names = ", ".join(repr(name) for name in REDUCTIONS)
        raise ValueError(f"`reduction` must be one of {names}. Received: {describe(reduction)}.")
    return reduction


def reduce_weighted(
    values: Tensor, sample_weight: TensorLike, masks: tuple[object, ...], reduction: str | None
) -> Reduced:
    """Weight per-sample `values (batch, …)`, reduce them, and return the result with its denominator.

    The denominator is what a mean was divided by, so that the two multiplied are the total. It is 1 for a sum.

    Args:
        values: The loss values `(batch, …)`.
        sample_weight: `None`, a number, or weights of the shape of `values`, or of its first dimensions (`(batch,)`
            for values `(batch, steps)`), or with sizes of 1 in their place.
        masks: Booleans of these shapes, or `None`. Where one is false, a value does not count, whatever it is.
        reduction: One of `REDUCTIONS`. Without one, the result is the values and the denominator their number.

    Raises:
        ValueError: If weights or a mask do not fit the values.

    All weights or masks zero give 0 over 0.
    """
    mask = None
    for given in masks:
        if given is not None:
            values, mask = _combine(mask, as_mask(given, values.device), values)
    weight = None
    if sample_weight is not None:
        weight = as_tensor(sample_weight, values.dtype, values.device)
        values, weight = align_weight(weight, values, "sample_weight")
        values = values * weight
    if mask is not None:
        mask = _match_rank(mask, values)
        values = torch.where(mask, values, 0)
    if reduction == "sum":
        return values.sum(), 1.0
    denominator = count(values, weight if reduction == "mean_with_sample_weight" else None, mask)
    return (values if reduction not in MEANS else divide(values, denominator)), denominator


def align_weight(weight: Tensor, values: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Return `values` and `weight` with ranks aligned; a weight that fits no leading dimensions is an error."""
    if weight.shape == values.shape:
        return values, weight
    given = weight
    values, weight = align_ranks(values, weight)
    if 0 < weight.dim() < values.dim():
        weight = weight.reshape(weight.shape + (1,) * (values.dim() - weight.dim()))
    if weight.numel() != 1 and not _broadcasts_to(weight, values):
        raise ValueError(
            f"{name} must be a number, or of the shape of the loss values or of their first dimensions: "
            f"(batch,) or {tuple(values.shape)}. Received: {describe(given)}."
        )
    return values, weight.reshape(()) if weight.dim() > values.dim() else weight


def count(values: Tensor, weight: Tensor | None, mask: Tensor | None) -> Denominator:
    """Return the number of values, or the sum of the weights of all of them, that the mask leaves."""
    if weight is None and mask is None:
        return float(values.numel())
    if weight is None or mask is None:
        counted: TensorLike = mask if weight is None else weight
    else:
        counted = torch.where(mask, weight, 0)
    total: Tensor = counted.sum(dtype=torch.promote_types(values.dtype, torch.float32))
    return total if counted.numel() == values.numel() else total * (values.numel() / max(counted.numel(), 1))


def divide(values: Tensor, denominator: Denominator) -> Tensor:
    """Return the sum of `values` over what it is divided by; 0 where that is 0."""
    if not isinstance(denominator, Tensor):
        return values.mean() if values.numel() else values.sum()
    return safe_divide(values.sum(dtype=denominator.dtype), denominator).to(values.dtype)


def safe_divide(total: Tensor, count: Tensor) -> Tensor:
    """Return `total / count`, and 0 without NaN gradients where `count` is 0."""
    empty = count == 0
    return (total / count.masked_fill(empty, 1)).masked_fill(empty, 0)


def zero_if_empty(loss: Tensor, denominator: Denominator) -> Tensor:
    """Return a loss, or 0 if its denominator is, whatever the loss of no values is then."""
    return torch.where(denominator == 0, 0, loss) if isinstance(denominator, Tensor) else loss


def _broadcasts_to(weight: Tensor, values: Tensor) -> bool:
    return weight.dim() == values.dim() and all(one in (1, other) for one, other in zip(weight.shape, values.shape))


def _combine(mask: Tensor | None, other: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    values, other = align_weight(other, values, "the mask of y_pred")
    return values, other if mask is None else _match_rank(mask, values) & other


def _match_rank(mask: Tensor, values: Tensor) -> Tensor:
    """Follow `values`, which may have got or lost a last dimension of size 1 beside weights."""
    if mask.dim() == values.dim() or not mask.dim():
        return mask
    return mask.squeeze(-1) if mask.dim() > values.dim() else mask.unsqueeze(-1)
