"""How much each value of a batch counts: sample weights and the mask of the predictions as one tensor."""

import torch
from torch import Tensor

from torchfit._types import TensorLike
from torchfit.functional.confusion import broadcast_weights
from torchfit.functional.masks import as_mask, require_mask


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
