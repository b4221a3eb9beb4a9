"""How much each value of a batch counts: sample weights and the mask of the predictions as one tensor."""

from typing import Any

import torch
from torch import Tensor

from torchfit._utils.errors import describe
from torchfit.functional.confusion import broadcast_weights
from torchfit.losses.masks import as_mask


def merge_weights(sample_weight: Any, mask: Any, values: Tensor) -> Tensor | None:
    """Return weights of the shape and dtype of `values (batch, …)`, 0 where the mask is false; `None` without any.

    Weights and mask have the shape of `values`, or of its first dimensions, with sizes of 1 in their place.

    Raises:
        ValueError: if weights or mask do not fit.
    """
    weights = None if sample_weight is None else broadcast_weights(sample_weight, values)
    if mask is None:
        return weights
    kept = fit_mask(mask, values)
    if weights is None:
        return kept.to(values.dtype).expand_as(values)
    return torch.where(kept, weights, 0)


def fit_mask(mask: Any, values: Tensor) -> Tensor:
    """Return the mask of `values (batch, …)` as booleans that broadcast to them.

    Raises:
        ValueError: if its dimensions are not the first ones of `values`, or 1.
    """
    given = as_mask(mask, values.device)
    kept = given.squeeze(-1) if given.ndim == values.ndim + 1 and given.shape[-1] == 1 else given
    if kept.ndim > values.ndim or any(size not in (1, wanted) for size, wanted in zip(kept.shape, values.shape)):
        raise ValueError(
            "The mask of y_pred must have the shape of the values of the metric, or of their first dimensions. "
            f"Received: the mask, {describe(given)}, and the values, {describe(values)}."
        )
    return kept.reshape(kept.shape + (1,) * (values.ndim - kept.ndim))


def weigh(values: Tensor, weights: Tensor | None) -> Tensor:
    """Return `values * weights`, and 0 where the weight is 0: NaN and infinity do not count there either.

    >>> weigh(torch.tensor([1.0, float("nan")]), torch.tensor([2.0, 0.0])).tolist()
    [2.0, 0.0]
    """
    return values if weights is None else torch.where(weights != 0, values * weights, 0)
