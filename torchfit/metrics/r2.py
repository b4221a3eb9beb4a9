"""The coefficient of determination."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from torchfit._types import Config, DTypeLike, TensorLike
from torchfit._utils.errors import describe
from torchfit._utils.tensors import as_tensor
from torchfit.functional.alignment import align_ranks
from torchfit.functional.masks import as_mask, get_mask, require_mask
from torchfit.metrics._validation import choice, integer
from torchfit.metrics._weights import merge_weights, weigh
from torchfit.metrics.base import SUM_DTYPE, Metric

_AGGREGATIONS = (None, "uniform_average", "variance_weighted_average")


class R2Score(Metric):
    """Coefficient of determination: 1 - residual sum of squares / total sum of squares.

    1 is a perfect prediction, 0 is as good as the mean, less is worse than it. Targets that do not vary give 0
    for a wrong prediction and NaN for a perfect one. Targets may lie far from 0.

    Args:
        class_aggregation: `"uniform_average"` (default) for the mean over the columns,
            `"variance_weighted_average"` for their mean by the variance of the targets, `None` for all of them.
        num_regressors: number of independent variables, for the adjusted score; 0 (default) is the plain one. Where
            the rows do not exceed the regressors, the plain score is returned. Rows are counted, not their columns.
        name: default `"r2_score"`.
        dtype: see `Metric`.

    Raises:
        ValueError: for values out of range, and for data that is not `(batch, columns)` or `(batch,)`.

    `update_state(y_true, y_pred, sample_weight=None)`: both `(batch, columns)` or `(batch,)`, weights `(batch,)` or the
    same.

    >>> round(R2Score()([[1], [4], [3]], [[2], [4], [4]]).item(), 4)
    0.5714
    """

    mode = "max"
    updates_depend_on_state = True  # by the origin
    _has_common_origin = False

    def __init__(
        self,
        class_aggregation: str | None = "uniform_average",
        num_regressors: int = 0,
        name: str | None = "r2_score",
        dtype: DTypeLike = None,
    ):
        super().__init__(name=name, dtype=dtype)
        self.class_aggregation: str | None = choice("class_aggregation", class_aggregation, _AGGREGATIONS)
        self.num_regressors = integer("num_regressors", num_regressors, 0)
        self.num_samples = self.add_weight(name="num_samples", dtype=SUM_DTYPE)

    def build(self, y_true: TensorLike, y_pred: TensorLike) -> None:
        """Create the sums for the columns of the first batch."""
        if not self._built:
            _, y_pred = _as_columns(as_tensor(y_true), as_tensor(y_pred))
            self.to(y_pred.device)
            self._make_sums(y_pred.shape[1])

    @property
    def _built(self) -> bool:
        return "squared_sum" in self._buffers

    def _make_sums(self, columns: int) -> None:
        self.squared_sum = self.add_variable((columns,), dtype=SUM_DTYPE, name="squared_sum")
        self.sum = self.add_variable((columns,), dtype=SUM_DTYPE, name="sum")
        self.residual = self.add_weight((columns,), dtype=SUM_DTYPE, name="residual")
        self.count = self.add_weight((columns,), dtype=SUM_DTYPE, name="count")
        self.origin = self.add_variable((columns,), dtype=SUM_DTYPE, aggregation="none", name="origin")

    def _build_from_state(self, state_dict: Any, prefix: str) -> None:
        saved = state_dict.get(prefix + "squared_sum")
        if saved is not None and not self._built:
            self._make_sums(saved.shape[0])
        if saved is not None:
            state_dict.setdefault(prefix + "origin", torch.zeros_like(saved))  # files of version 0.1 have none

    def update_state(self, y_true: TensorLike, y_pred: TensorLike, sample_weight: TensorLike = None) -> None:
        """Add one batch."""
        mask = get_mask(y_pred)
        self.build(y_true, y_pred)
        y_pred = as_tensor(y_pred, dtype=self.sum.dtype).detach()
        y_true, y_pred = _as_columns(as_tensor(y_true, dtype=self.sum.dtype, device=y_pred.device), y_pred)
        weights = merge_weights(sample_weight, mask, y_pred)
        count = len(y_pred) if weights is None else weights.sum(0)
        self._set_origin(weigh(y_true, weights).sum(0) / count)
        distance = y_true - self.origin
        self.sum.add_(weigh(distance, weights).sum(0))
        self.squared_sum.add_(weigh(distance.square(), weights).sum(0))
        self.residual.add_(weigh((y_true - y_pred).square(), weights).sum(0))
        self.count.add_(count)
        self._count_rows(y_pred, mask)

    def _set_origin(self, mean: Tensor) -> None:
        """Measure targets from the mean of the first batch: squares of large ones would lose what they differ by."""
        self.origin.copy_(torch.where(self.count == 0, mean, self.origin))

    def align(self, share: Callable[[Callable[[], Tensor]], Tensor]) -> None:
        """Measure targets from where all processes do."""
        if self._has_common_origin or not self._built:
            return
        self._has_common_origin = True
        common = share(lambda: self.origin.as_subclass(Tensor).nan_to_num(0.0).cpu()).to(self.origin.device)
        shift = torch.where(self.count == 0, 0.0, self.origin - common)
        self.squared_sum.add_(2 * shift * self.sum + self.count * shift.square())
        self.sum.add_(self.count * shift)
        self.origin.copy_(common)

    def reset_state(self) -> None:
        """Start again, and measure from the next batch."""
        super().reset_state()
        self._has_common_origin = False

    def _count_rows(self, y_pred: Tensor, mask: TensorLike) -> None:
        if mask is None:
            self.num_samples.add_(y_pred.shape[0])
        else:
            kept = require_mask(as_mask(mask, y_pred.device), y_pred)
            self.num_samples.add_(kept.any(-1).expand(y_pred.shape[0]).sum())

    def result(self) -> Tensor:
        """Return the score, a scalar, or `(columns,)` without an aggregation; NaN before the first batch."""
        if not self._built:
            return self.num_samples.new_full((), float("nan"), dtype=self._dtype)
        total = self.squared_sum - self.sum * (self.sum / self.count)
        scores = 1 - self.residual / total
        scores = torch.where(scores.isinf(), 0.0, scores)
        return self._adjusted(self._aggregated(scores, total)).to(self._dtype)

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

    def get_config(self) -> Config:
        """Return the constructor's arguments."""
        config = {"class_aggregation": self.class_aggregation, "num_regressors": self.num_regressors}
        return {**super().get_config(), **config}


def _as_columns(y_true: Tensor, y_pred: Tensor) -> tuple[Tensor, Tensor]:
    """Return targets and predictions `(batch, columns)`."""
    given = y_true, y_pred
    y_true, y_pred = align_ranks(y_true, y_pred)
    if y_pred.ndim == 1:
        y_true, y_pred = y_true.unsqueeze(-1), y_pred.unsqueeze(-1)
    if y_true.ndim != 2 or y_true.shape != y_pred.shape:
        raise ValueError(
            "R2Score expects y_true and y_pred of shape (batch, columns) or (batch,). "
            f"Received: y_true, {describe(given[0])}, and y_pred, {describe(given[1])}."
        )
    return y_true, y_pred
