"""From per-sample values, weights and a mask to what a loss returns."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from torchfit._utils.errors import describe
from torchfit._utils.tensors import as_tensor
from torchfit.functional.alignment import align_ranks, batch_mean

Reduce = Callable[[Tensor, Tensor | None], Tensor]


def _identity(values: Tensor, weight: Tensor | None) -> Tensor:
    return values


def _sum(values: Tensor, weight: Tensor | None) -> Tensor:
    return values.sum()


def _mean(values: Tensor, weight: Tensor | None) -> Tensor:
    return values.mean() if values.numel() else values.sum()


def _weighted_mean(values: Tensor, weight: Tensor | None) -> Tensor:
    if weight is None or not values.dim():
        return batch_mean(values)
    return safe_divide(values.sum(), weight.sum())


REDUCTIONS: dict[str | None, Reduce] = {
    "sum_over_batch_size": _mean,
    "mean": _mean,
    "mean_with_sample_weight": _weighted_mean,
    "sum": _sum,
    "none": _identity,
    None: _identity,
}
MEANS = ("sum_over_batch_size", "mean", "mean_with_sample_weight")


def check_reduction(reduction: Any) -> str | None:
    """Return `reduction` if it is one, else raise `ValueError`."""
    if not isinstance(reduction, (str, type(None))) or reduction not in REDUCTIONS:
        names = ", ".join(repr(name) for name in REDUCTIONS)
        raise ValueError(f"`reduction` must be one of {names}. Received: {describe(reduction)}.")
    return reduction


def reduce_weighted(values: Tensor, sample_weight: Any, mask: Any, reduction: str | None) -> Tensor:
    """Weight per-sample `values (batch, …)` and reduce them.

    `sample_weight` is a number, or has the shape of `values`, or its first dimensions (`(batch,)` for values
    `(batch, steps)`), or sizes of 1 in their place. Where `mask` is false, values do not count; a mean is then
    taken over those that do. All weights or masks zero give 0.
    """
    if mask is None and type(sample_weight) is Tensor and sample_weight.shape == values.shape:
        return REDUCTIONS[reduction](values * sample_weight.to(values.dtype), sample_weight)
    weight = None
    if mask is not None:
        values, weight = align_weight(_mask_weight(mask, values, reduction), values, "the mask of y_pred")
    if sample_weight is not None:
        given = as_tensor(sample_weight, values.dtype, values.device)
        values, given = align_weight(given, values, "sample_weight")
        weight = given if weight is None else weight.reshape(weight.shape + given.shape[weight.dim() :]) * given
    if weight is not None:
        values = values * weight
    return REDUCTIONS[reduction](values, weight)


def align_weight(weight: Tensor, values: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Return `values` and `weight` with ranks aligned; a weight that fits no leading dimensions is an error."""
    if weight.shape == values.shape:
        return values, weight
    given = weight
    values, weight = align_ranks(values, weight)
    if 0 < weight.dim() < values.dim():
        weight = weight.reshape(weight.shape + (1,) * (values.dim() - weight.dim()))
    if weight.dim() and values.dim() and not _broadcastable(weight, values):
        raise ValueError(
            f"{name} must be a number, or of the shape of the loss values or of their first dimensions: "
            f"(batch,) or {tuple(values.shape)}. Received: {describe(given)}."
        )
    return values, weight


def _broadcastable(weight: Tensor, values: Tensor) -> bool:
    sizes = zip(weight.shape, values.shape)
    return weight.dim() == values.dim() and all(one == other or 1 in (one, other) for one, other in sizes)


def _mask_weight(given: Any, values: Tensor, reduction: str | None) -> Tensor:
    """Turn a mask into weights; for a mean, they rescale from all elements to the valid ones."""
    mask: Tensor = as_tensor(given, values.dtype, values.device)
    if reduction not in ("mean", "sum_over_batch_size"):
        return mask
    return mask * safe_divide(torch.full_like(mask.sum(), mask.numel()), mask.sum())


def safe_divide(total: Tensor, count: Tensor) -> Tensor:
    """Return `total / count`, and 0 without NaN gradients where `count` is 0."""
    empty = count == 0
    return (total / count.masked_fill(empty, 1)).masked_fill(empty, 0)
