"""Losses between numbers. `y_true` and `y_pred` have one shape `(batch, …, values)`; one loss per `(batch, …)`."""

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
    """Minus the cosine of the angle between the vectors along `axis`: -1 same direction, 1 opposite.

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
