"""The coefficient of determination."""

from typing import Any

import torch
from torch import Tensor

from torchfit._utils.errors import describe
from torchfit._utils.tensors import as_tensor
from torchfit.functional.confusion import broadcast_weights
from torchfit.metrics._validation import choice, integer
from torchfit.metrics.base import Metric

_AGGREGATIONS = (None, "uniform_average", "variance_weighted_average")


class R2Score(Metric):
    """Coefficient of determination: 1 - residual sum of squares / total sum of squares.

    1 is a perfect prediction, 0 is as good as the mean, less is worse than it. Targets that do not vary give 0
    for a wrong prediction and NaN for a perfect one.

    Args:
        class_aggregation: `"uniform_average"` (default) for the mean over the columns,
            `"variance_weighted_average"` for their mean by the variance of the targets, `None` for all of them.
        num_regressors: number of independent variables, for the adjusted score; 0 (default) is the plain one.
            The number of samples in its formula is that of all targets, columns included, as in Keras; where
            it does not exceed the regressors, the plain score is returned.
        name: default `"r2_score"`.
        dtype: see `Metric`.

    Raises:
        ValueError: for values out of range, and for data that is not `(batch, columns)`.

    `update_state(y_true, y_pred, sample_weight=None)`: both `(batch, columns)`, weights `(batch,)` or the same.

    >>> round(R2Score()([[1], [4], [3]], [[2], [4], [4]]).item(), 4)
    0.5714
    """

    mode = "max"

    def __init__(
        self,
        class_aggregation: str | None = "uniform_average",
        num_regressors: int = 0,
        name: str | None = "r2_score",
        dtype: Any = None,
    ):
        super().__init__(name=name, dtype=dtype)
        self.class_aggregation: str | None = choice("class_aggregation", class_aggregation, _AGGREGATIONS)
        self.num_regressors = integer("num_regressors", num_regressors, 0)
        self.num_samples = self.add_weight(name="num_samples")

    def build(self, y_true: Any, y_pred: Any) -> None:
        """Make the sums for the columns of the first batch."""
        y_true, y_pred = as_tensor(y_true), as_tensor(y_pred)
        if y_true.ndim != 2 or y_true.shape != y_pred.shape:
            raise ValueError(
                "R2Score expects y_true and y_pred of shape (batch, columns). "
                f"Received: y_true, {describe(y_true)}, and y_pred, {describe(y_pred)}."
            )
        if not self._built:
            self.to(y_pred.device)
            self._make_sums(y_pred.shape[1])

    @property
    def _built(self) -> bool:
        return "squared_sum" in self._buffers

    def _make_sums(self, columns: int) -> None:
        self.squared_sum = self.add_weight((columns,), name="squared_sum")
        self.sum = self.add_weight((columns,), name="sum")
        self.residual = self.add_weight((columns,), name="residual")
        self.count = self.add_weight((columns,), name="count")

    def _build_from_state(self, state_dict: Any, prefix: str) -> None:
        saved = state_dict.get(prefix + "squared_sum")
        if saved is not None and not self._built:
            self._make_sums(saved.shape[0])

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add one batch."""
        y_pred = as_tensor(y_pred, dtype=self._dtype).detach()
        y_true = as_tensor(y_true, dtype=self._dtype, device=y_pred.device)
        self.build(y_true, y_pred)
        weights = torch.ones_like(y_pred) if sample_weight is None else broadcast_weights(sample_weight, y_pred)
        weighted = y_true * weights
        self.sum.add_(weighted.sum(0))
        self.squared_sum.add_((y_true * weighted).sum(0))
        self.residual.add_(((y_true - y_pred).square() * weights).sum(0))
        self.count.add_(weights.sum(0))
        self.num_samples.add_(y_true.numel())

    def result(self) -> Tensor:
        """Return the score, a scalar, or `(columns,)` without an aggregation; NaN before the first batch."""
        if not self._built:
            return self.num_samples.new_full((), float("nan"))
        total = self.squared_sum - self.sum * (self.sum / self.count)
        scores = 1 - self.residual / total
        scores = torch.where(scores.isinf(), 0.0, scores)
        return self._adjusted(self._aggregated(scores, total))

    def _aggregated(self, scores: Tensor, total: Tensor) -> Tensor:
        if self.class_aggregation == "uniform_average":
            return scores.mean()
        if self.class_aggregation == "variance_weighted_average":
            return (scores * total).sum() / total.sum()
        return scores

    def _adjusted(self, scores: Tensor) -> Tensor:
        if self.num_regressors == 0:
            return scores
        freedom = self.num_samples - self.num_regressors - 1
        adjusted = 1 - (1 - scores) * (self.num_samples - 1) / freedom
        return torch.where(freedom > 0, adjusted, scores)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        config = {"class_aggregation": self.class_aggregation, "num_regressors": self.num_regressors}
        return {**super().get_config(), **config}
