"""Correlations of predictions and targets."""

from typing import Any

from torchfit.functional import correlation as of_samples
from torchfit.metrics.reductions import MeanMetricWrapper


class PearsonCorrelation(MeanMetricWrapper):
    """Mean linear correlation of `y_true` and `y_pred` `(batch, …)` along `axis`; NaN where one does not vary.

    >>> round(PearsonCorrelation()([[0, 1, 0.5], [1, 1, 0.2]], [[0.1, 0.9, 0.5], [1, 0.9, 0.2]]).item(), 4)
    0.9967
    """

    mode = "max"

    def __init__(self, name: str | None = "pearson_correlation", dtype: Any = None, axis: Any = -1):
        super().__init__(of_samples.pearson_correlation, name, dtype, axis=axis)


class ConcordanceCorrelation(MeanMetricWrapper):
    """Mean concordance of `y_true` and `y_pred` `(batch, …)` along `axis`: 1 only where they are equal.

    >>> round(ConcordanceCorrelation()([[0, 1, 0.5], [1, 1, 0.2]], [[0.1, 0.9, 0.5], [1, 0.9, 0.2]]).item(), 4)
    0.9816
    """

    mode = "max"

    def __init__(self, name: str | None = "concordance_correlation", dtype: Any = None, axis: Any = -1):
        super().__init__(of_samples.concordance_correlation, name, dtype, axis=axis)
