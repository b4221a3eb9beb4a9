"""Losses for regression, similarity and margins."""

import torch

from torchfit._types import DTypeLike
from torchfit._utils import validation
from torchfit.functional import regression
from torchfit.losses.functional_loss import FunctionalLoss


class MeanSquaredError(FunctionalLoss):
    """The mean of `(y_pred - y_true)²`.

    >>> MeanSquaredError()([[0.0, 1.0]], [[1.0, 3.0]]).item()
    2.5
    """

    def __init__(
        self,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "mean_squared_error",
        dtype: DTypeLike = None,
    ):
        super().__init__(regression.mean_squared_error, name, reduction, dtype, regression.fused_mean_squared_error)


class MeanAbsoluteError(FunctionalLoss):
    """The mean of `|y_pred - y_true|`.

    >>> MeanAbsoluteError()([[0.0, 1.0]], [[1.0, 3.0]]).item()
    1.5
    """

    def __init__(
        self,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "mean_absolute_error",
        dtype: DTypeLike = None,
    ):
        super().__init__(regression.mean_absolute_error, name, reduction, dtype, regression.fused_mean_absolute_error)


class MeanAbsolutePercentageError(FunctionalLoss):
    """The mean of `100 · |y_true - y_pred| / |y_true|`, in percent; divisors below 1e-7 count as 1e-7.

    >>> MeanAbsolutePercentageError()([[2.0, 4.0]], [[1.0, 4.0]]).item()
    25.0
    """

    def __init__(
        self,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "mean_absolute_percentage_error",
        dtype: DTypeLike = None,
    ):
        super().__init__(regression.mean_absolute_percentage_error, name, reduction, dtype)


class MeanSquaredLogarithmicError(FunctionalLoss):
    """The mean of `(log(1 + y_true) - log(1 + y_pred))²`; values below 1e-7 count as 1e-7.

    >>> MeanSquaredLogarithmicError()([[0.0, 1.0]], [[0.0, 1.0]]).item()
    0.0
    """

    def __init__(
        self,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "mean_squared_logarithmic_error",
        dtype: DTypeLike = None,
    ):
        super().__init__(regression.mean_squared_logarithmic_error, name, reduction, dtype)


class Huber(FunctionalLoss):
    """The mean of `½e²` where `|e| ≤ delta`, else `delta·|e| - ½delta²`, with `e = y_pred - y_true`.

    `delta`, greater than 0, is where quadratic turns into linear; 1 by default.

    >>> Huber()([[0.0, 0.0]], [[1.0, 3.0]]).item()
    1.5
    """

    def __init__(
        self,
        delta: float = 1.0,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "huber_loss",
        dtype: DTypeLike = None,
    ):
        super().__init__(
            regression.huber,
            name,
            reduction,
            dtype,
            delta=validation.number_between("delta", delta, 0),
        )


class LogCosh(FunctionalLoss):
    """The mean of `log(cosh(y_pred - y_true))`: like the squared error for small errors, linear for large ones.

    >>> LogCosh()([[0.0]], [[0.0]]).item()
    0.0
    """

    def __init__(
        self,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "log_cosh",
        dtype: DTypeLike = None,
    ):
        super().__init__(regression.log_cosh, name, reduction, dtype)


class CosineSimilarity(FunctionalLoss):
    """The negative cosine of the angle between vectors along `axis`: -1 for the same direction, 1 for opposite ones.

    >>> CosineSimilarity()([[0.0, 1.0]], [[0.0, 2.0]]).item()
    -1.0
    """

    def __init__(
        self,
        axis: int = -1,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "cosine_similarity",
        dtype: DTypeLike = None,
    ):
        super().__init__(regression.cosine_similarity, name, reduction, dtype, axis=validation.integer("axis", axis))


class Circle(FunctionalLoss):
    """The circle loss, which weights the hardest pairs most (Sun et al., 2020).

    `y_true` holds class indices `(batch,)`, `y_pred` embeddings of length 1, `(batch, features)`; every row is
    compared with all others. Means are taken over rows with at least one row of the same and one of another label.

    Args:
        gamma: The scale, greater than 0.
        margin: The slack, from 0 to 1; small is strict.
        remove_diagonal: Do not compare rows with themselves.

    >>> loss = Circle(gamma=1.0)
    >>> round(loss([0, 0, 1], [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]).item(), 4)
    0.5459
    """

    is_separable = False

    def __init__(
        self,
        gamma: float = 80.0,
        margin: float = 0.4,
        remove_diagonal: bool = True,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "circle",
        dtype: DTypeLike = None,
    ):
        super().__init__(
            regression.circle,
            name,
            reduction,
            dtype,
            gamma=validation.number_between("gamma", gamma, 0),
            margin=validation.number("margin", margin, 0, 1),
            remove_diagonal=validation.boolean("remove_diagonal", remove_diagonal),
        )
        self._target_dtype = torch.int64


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
        super().__init__(regression.hinge, name, reduction, dtype)


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
        super().__init__(regression.squared_hinge, name, reduction, dtype)


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
        super().__init__(regression.categorical_hinge, name, reduction, dtype)
