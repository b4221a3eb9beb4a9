"""Distances between numbers."""

import torch
from torch import Tensor

from torchfit._types import DTypeLike, TensorLike
from torchfit._utils.tensors import as_tensor
from torchfit.functional import regression as of_samples
from torchfit.functional.alignment import align_ranks, shape_mismatch_error
from torchfit.functional.masks import get_mask
from torchfit.metrics.reductions import Mean, MeanMetricWrapper


class MeanSquaredError(MeanMetricWrapper):
    """Mean of the squared differences of `y_true` and `y_pred` `(batch, …)`.

    >>> MeanSquaredError()([[0, 1], [0, 0]], [[1, 1], [0, 0]]).item()
    0.25
    """

    mode = "min"

    def __init__(self, name: str | None = "mean_squared_error", dtype: DTypeLike = None):
        super().__init__(of_samples.mean_squared_error, name, dtype)


class MeanAbsoluteError(MeanMetricWrapper):
    """Mean of the absolute differences of `y_true` and `y_pred` `(batch, …)`.

    >>> MeanAbsoluteError()([[0, 1], [0, 0]], [[1, 1], [0, 0]]).item()
    0.25
    """

    mode = "min"

    def __init__(self, name: str | None = "mean_absolute_error", dtype: DTypeLike = None):
        super().__init__(of_samples.mean_absolute_error, name, dtype)


class MeanAbsolutePercentageError(MeanMetricWrapper):
    """Mean of the absolute differences in percent of `y_true`, both `(batch, …)`.

    >>> MeanAbsolutePercentageError()([[2.0, 4.0]], [[1.0, 4.0]]).item()
    25.0
    """

    mode = "min"

    def __init__(self, name: str | None = "mean_absolute_percentage_error", dtype: DTypeLike = None):
        super().__init__(of_samples.mean_absolute_percentage_error, name, dtype)


class MeanSquaredLogarithmicError(MeanMetricWrapper):
    """Mean of the squared differences of `log(1 + y_true)` and `log(1 + y_pred)` `(batch, …)`.

    >>> round(MeanSquaredLogarithmicError()([[0, 1], [0, 0]], [[1, 1], [0, 0]]).item(), 4)
    0.1201
    """

    mode = "min"

    def __init__(self, name: str | None = "mean_squared_logarithmic_error", dtype: DTypeLike = None):
        super().__init__(of_samples.mean_squared_logarithmic_error, name, dtype)


class LogCoshError(MeanMetricWrapper):
    """Mean of `log(cosh(y_pred - y_true))`, both `(batch, …)`: like squares near 0, like lengths far from it.

    >>> round(LogCoshError()([[0, 1], [0, 0]], [[1, 1], [0, 0]]).item(), 4)
    0.1084
    """

    mode = "min"

    def __init__(self, name: str | None = "logcosh", dtype: DTypeLike = None):
        super().__init__(of_samples.log_cosh, name, dtype)


class RootMeanSquaredError(Mean):
    """Root of the mean of the squared differences of `y_true` and `y_pred` `(batch, …)`.

    >>> RootMeanSquaredError()([[0, 1], [0, 0]], [[1, 1], [0, 0]]).item()
    0.5
    """

    mode = "min"

    def __init__(self, name: str | None = "root_mean_squared_error", dtype: DTypeLike = None):
        super().__init__(name, dtype)

    def update_state(  # type: ignore[override]
        self, y_true: TensorLike, y_pred: TensorLike, sample_weight: TensorLike = None
    ) -> None:
        """Add one batch; weights `(batch,)` or `(batch, …)`."""
        mask = get_mask(y_pred)
        y_pred = as_tensor(y_pred, dtype=self._dtype).detach()
        y_true, y_pred = align_ranks(as_tensor(y_true, self._dtype, y_pred.device), y_pred)
        if y_true.shape != y_pred.shape:
            raise shape_mismatch_error(y_true, y_pred, "of the shape of y_pred", "Reshape one of them.")
        self._accumulate((y_true - y_pred).square(), sample_weight, mask)

    def result(self) -> Tensor:
        """Return the root of the mean, a scalar."""
        return torch.sqrt(super().result())


class CosineSimilarity(MeanMetricWrapper):
    """Mean cosine of the angle between the vectors of `y_true` and `y_pred` `(batch, …)` along `axis`.

    1 is the same direction, 0 a right angle, -1 the opposite direction: the opposite sign of the loss.

    >>> CosineSimilarity()([[0.0, 1.0], [1.0, 0.0]], [[0.0, 2.0], [0.0, 2.0]]).item()
    0.5
    """

    mode = "max"

    def __init__(self, name: str | None = "cosine_similarity", dtype: DTypeLike = None, axis: int = -1):
        super().__init__(_cosine, name, dtype, axis=axis)


def _cosine(y_true: Tensor, y_pred: Tensor, axis: int) -> Tensor:
    return -of_samples.cosine_similarity(y_true, y_pred, axis)
