"""Losses that ask for a margin. `y_true` and `y_pred` have one shape `(batch, …, values)`; one loss per sample."""

from torchfit._types import DTypeLike
from torchfit.functional import margins
from torchfit.losses.functional_loss import FunctionalLoss


class Hinge(FunctionalLoss):
    """The mean of `max(1 - y_true · y_pred, 0)`, with labels -1 and 1, or 0 and 1.

    >>> Hinge()([[-1.0, 1.0]], [[0.5, 0.5]]).item()
    1.0
    """

    def __init__(
        self,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "hinge",
        dtype: DTypeLike = None,
    ):
        super().__init__(margins.hinge, name, reduction, dtype)


class SquaredHinge(FunctionalLoss):
    """The mean of `max(1 - y_true · y_pred, 0)²`, with labels -1 and 1, or 0 and 1.

    >>> SquaredHinge()([[-1.0, 1.0]], [[0.5, 0.5]]).item()
    1.25
    """

    def __init__(
        self,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "squared_hinge",
        dtype: DTypeLike = None,
    ):
        super().__init__(margins.squared_hinge, name, reduction, dtype)


class CategoricalHinge(FunctionalLoss):
    """`max(neg - pos + 1, 0)`: the best wrong score less the right one, plus 1; `y_true` holds one-hot labels.

    >>> CategoricalHinge()([[0.0, 1.0]], [[0.5, 0.25]]).item()
    1.25
    """

    def __init__(
        self,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "categorical_hinge",
        dtype: DTypeLike = None,
    ):
        super().__init__(margins.categorical_hinge, name, reduction, dtype)
