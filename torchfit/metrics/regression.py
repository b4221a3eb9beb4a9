"""Distances between targets and predictions."""

from typing import Any

from torchfit.functional import regression as of_samples
from torchfit.metrics.reductions import MeanMetricWrapper


class MeanSquaredError(MeanMetricWrapper):
    """Mean of the squared differences of `y_true` and `y_pred` `(batch, …)`.

    >>> MeanSquaredError()([[0, 1], [0, 0]], [[1, 1], [0, 0]]).item()
    0.25
    """

    direction = "down"

    def __init__(self, name: str | None = "mean_squared_error", dtype: Any = None):
        super().__init__(of_samples.mean_squared_error, name, dtype)


class MeanAbsoluteError(MeanMetricWrapper):
    """Mean of the absolute differences of `y_true` and `y_pred` `(batch, …)`.

    >>> MeanAbsoluteError()([[0, 1], [0, 0]], [[1, 1], [0, 0]]).item()
    0.25
    """

    direction = "down"

    def __init__(self, name: str | None = "mean_absolute_error", dtype: Any = None):
        super().__init__(of_samples.mean_absolute_error, name, dtype)
