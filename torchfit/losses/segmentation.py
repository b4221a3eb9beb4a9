"""Losses of overlap between masks. `y_true` and `y_pred` have one shape and hold values from 0 to 1."""

from collections.abc import Sequence
from typing import Any

from torchfit._utils import validation
from torchfit.functional import segmentation
from torchfit.losses.functional_loss import FunctionalLoss


class Dice(FunctionalLoss):
    """`1 - 2·Σ t·p / (Σ t + Σ p)`: 0 where prediction and mask are the same, 1 where they do not meet.

    `axis` names the dimensions that are summed over; `None`, the default, is all of them, the batch included.
    `axis=(1, 2, 3)` gives one loss per image.

    >>> Dice()([[0.0, 1.0]], [[1.0, 1.0]]).item()  # doctest: +ELLIPSIS
    0.333...
    """

    expects_probabilities = "single"

    def __init__(
        self,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "dice",
        axis: int | Sequence[int] | None = None,
        dtype: Any = None,
    ):
        super().__init__(segmentation.dice, name, reduction, dtype, axis=validation.axes("axis", axis))


class Tversky(FunctionalLoss):
    """`1 - TP / (TP + alpha·FN + beta·FP)` of soft counts (Salehi et al., 2017).

    Arguments:
        alpha: how much false negatives weigh, at least 0.
        beta: how much false positives weigh, at least 0 (as Keras computes it).
        axis: the dimensions that are summed over; `None` is all of them, the batch included.

    >>> Tversky(alpha=1.0, beta=1.0)([[0.0, 1.0]], [[1.0, 1.0]]).item()
    0.5
    """

    expects_probabilities = "single"

    def __init__(
        self,
        alpha: float = 0.5,
        beta: float = 0.5,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "tversky",
        axis: int | Sequence[int] | None = None,
        dtype: Any = None,
    ):
        super().__init__(
            segmentation.tversky,
            name,
            reduction,
            dtype,
            alpha=validation.number("alpha", alpha, 0),
            beta=validation.number("beta", beta, 0),
            axis=validation.axes("axis", axis),
        )
