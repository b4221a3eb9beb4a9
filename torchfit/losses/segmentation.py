"""Losses of overlap between masks. `y_true` and `y_pred` have one shape and hold values from 0 to 1."""

from typing import Any

import torch
from torch import Tensor

from torchfit._types import DTypeLike, Nested
from torchfit._utils import validation
from torchfit.functional import confusion
from torchfit.functional.alignment import align_pair, get_mask, require_mask, with_mask
from torchfit.functional.confusion import Axes
from torchfit.losses.functional_loss import FunctionalLoss


class _OverlapLoss(FunctionalLoss):
    """A loss of sums over the dimensions `axis`, over all by default; these include the batch or are one image's."""

    expects_probabilities = "single"
    _applies_mask = True
    axis: int | tuple[int, ...] | None

    def __init__(self, *arguments: Any, axis: Axes, **numbers: Any):
        """Take the arguments of `FunctionalLoss`."""
        super().__init__(*arguments, axis=validation.axes("axis", axis), **numbers)
        self.is_separable = self.axis is not None and 0 not in self._axes()

    def call(self, y_true: Nested, y_pred: Nested) -> Tensor:
        """Return the loss of each image, or of the batch, without what the mask of the predictions leaves out."""
        mask = get_mask(y_pred)
        if mask is None:
            return super().call(y_true, y_pred)
        y_true, y_pred = align_pair(y_true, y_pred)
        mask = require_mask(mask, y_pred).expand_as(y_pred)
        values = super().call(torch.where(mask, y_true, 0), torch.where(mask, y_pred, 0))
        return with_mask(values, mask.any(self.axis)) if self.axis is not None else values

    def _axes(self) -> tuple[int, ...]:
        return self.axis if isinstance(self.axis, tuple) else (() if self.axis is None else (self.axis,))

    def _is_of_batch(self, values: Tensor, y_true: Nested) -> bool:
        rank = y_true.dim()
        return self.axis is None or any(axis % max(rank, 1) == 0 for axis in self._axes())


class Dice(_OverlapLoss):
    """`1 - 2·Σ t·p / (Σ t + Σ p)`: 0 where prediction and mask are the same, 1 where they do not meet.

    `axis` names the dimensions that are summed over; `None`, the default, is all of them, the batch included.
    `axis=(1, 2, 3)` gives one loss per image, to which weights of samples can be applied.

    >>> Dice()([[0.0, 1.0]], [[1.0, 1.0]]).item()  # doctest: +ELLIPSIS
    0.333...
    """

    def __init__(
        self,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "dice",
        axis: Axes = None,
        dtype: DTypeLike = None,
    ):
        super().__init__(confusion.dice, name, reduction, dtype, axis=axis)


class Tversky(_OverlapLoss):
    """`1 - TP / (TP + alpha·FP + beta·FN)` of soft counts (Salehi et al., 2017).

    Arguments:
        alpha: how much false positives weigh, at least 0.
        beta: how much false negatives weigh, at least 0. (Keras had the two exchanged before 3.16.)
        axis: the dimensions that are summed over; `None` is all of them, the batch included.

    >>> Tversky(alpha=1.0, beta=1.0)([[0.0, 1.0]], [[1.0, 1.0]]).item()
    0.5
    """

    def __init__(
        self,
        alpha: float = 0.5,
        beta: float = 0.5,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "tversky",
        axis: Axes = None,
        dtype: DTypeLike = None,
    ):
        super().__init__(
            confusion.tversky,
            name,
            reduction,
            dtype,
            alpha=validation.number("alpha", alpha, 0),
            beta=validation.number("beta", beta, 0),
            axis=axis,
        )
