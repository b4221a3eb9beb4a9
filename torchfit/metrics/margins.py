"""Hinge losses as metrics."""

from torchfit._types import DTypeLike
from torchfit.functional import margins as of_samples
from torchfit.metrics.reductions import MeanMetricWrapper


class Hinge(MeanMetricWrapper):
    """Mean of `max(1 - y_true·y_pred, 0)`, both `(batch, …)`, with labels of -1 and 1 (or 0 and 1).

    >>> round(Hinge()([[0, 1], [0, 0]], [[0.6, 0.4], [0.4, 0.6]]).item(), 4)
    1.3
    """

    mode = "min"

    def __init__(self, name: str | None = "hinge", dtype: DTypeLike = None):
        super().__init__(of_samples.hinge, name, dtype)


class SquaredHinge(MeanMetricWrapper):
    """Mean of `max(1 - y_true·y_pred, 0)²`, both `(batch, …)`, with labels of -1 and 1 (or 0 and 1).

    >>> round(SquaredHinge()([[0, 1], [0, 0]], [[0.6, 0.4], [0.4, 0.6]]).item(), 4)
    1.86
    """

    mode = "min"

    def __init__(self, name: str | None = "squared_hinge", dtype: DTypeLike = None):
        super().__init__(of_samples.squared_hinge, name, dtype)


class CategoricalHinge(MeanMetricWrapper):
    """Mean of `max(largest wrong score - right score + 1, 0)`, labels one-hot, both `(batch, …, classes)`.

    >>> round(CategoricalHinge()([[0, 1], [0, 0]], [[0.6, 0.4], [0.4, 0.6]]).item(), 4)
    1.4
    """

    mode = "min"

    def __init__(self, name: str | None = "categorical_hinge", dtype: DTypeLike = None):
        super().__init__(of_samples.categorical_hinge, name, dtype)
