"""Checks of arguments that several metrics share, and weights and masks as one tensor."""

from typing import TypeVar

import torch
from torch import Tensor

from torchfit._types import TensorLike
from torchfit._utils.errors import describe
from torchfit.functional.alignment import as_mask, require_mask
from torchfit.functional.confusion import broadcast_weights

Choice = TypeVar("Choice")


def choice(argument: str, value: Choice, allowed: tuple[Choice, ...]) -> Choice:
    """Return `value` if it is allowed; names without regard to case."""
    for choice in allowed:
        if value == choice or (isinstance(value, str) and value.lower() == str(choice).lower()):
            return choice
    raise ValueError(f"`{argument}` must be one of {allowed}. Received: {describe(value)}.")


def integer(argument: str, value: object, min_value: int) -> int:
    """Return an integer of at least `min_value`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < min_value:
        raise ValueError(f"`{argument}` must be an integer of at least {min_value}. Received: {describe(value)}.")
    return value


def optional_integer(argument: str, value: object, min_value: int) -> int | None:
    """Return `None` or an integer of at least `min_value`."""
    return None if value is None else integer(argument, value, min_value)


def unit_interval(argument: str, value: object) -> float:
    """Return a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"`{argument}` must be a number from 0 to 1. Received: {describe(value)}.")
    return value


def unit_intervals(argument: str, value: TensorLike) -> list[float]:
    """Return one or several numbers from 0 to 1 as a list."""
    values = list(value) if isinstance(value, (list, tuple)) or hasattr(value, "__len__") else [value]
    try:
        return [float(unit_interval(argument, item.item() if hasattr(item, "item") else item)) for item in values]
    except ValueError:
        raise ValueError(
            f"`{argument}` must be a number, or a list of numbers, from 0 to 1. Received: {describe(value)}."
        ) from None


def merge_weights(sample_weight: TensorLike, mask: TensorLike, values: Tensor) -> Tensor | None:
    """Return weights of the shape and dtype of `values (batch, …)`, 0 where the mask is false; `None` without any.

    Weights and mask have the shape of `values`, or of its first dimensions, with sizes of 1 in their place.

    Raises:
        ValueError: if weights or mask do not fit.
    """
    weights = None if sample_weight is None else broadcast_weights(sample_weight, values)
    if mask is None:
        return weights
    kept = require_mask(as_mask(mask, values.device), values)
    if weights is None:
        return kept.to(values.dtype).expand_as(values)
    return torch.where(kept, weights, 0)


def weigh(values: Tensor, weights: Tensor | None) -> Tensor:
    """Return `values * weights`, and 0 where the weight is 0: NaN and infinity do not count there either.

    >>> weigh(torch.tensor([1.0, float("nan")]), torch.tensor([2.0, 0.0])).tolist()
    [2.0, 0.0]
    """
    return values if weights is None else torch.where(weights != 0, values * weights, 0)
