"""Metrics for regression: errors, correlations and the coefficient of determination."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from torchfit._types import Config, DTypeLike, StateDict, TensorLike
from torchfit._utils.errors import describe
from torchfit._utils.tensors import as_tensor
from torchfit.functional import regression as of_samples
from torchfit.functional.alignment import align_pair, align_ranks, as_mask, get_mask, require_mask, shape_mismatch_error
from torchfit.metrics.base import SUM_DTYPE, Metric
from torchfit.metrics.checks import choice, integer, merge_weights, weigh
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
        y_pred = self._as_values(y_pred)
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


class _Correlation(MeanMetricWrapper):
    """Mean correlation along `axis`; of a single column, that over all samples, which is computed from running sums."""

    mode = "max"

    def __init__(self, fn: Callable[..., Tensor], name: str | None, dtype: DTypeLike, axis: object):
        super().__init__(fn, name, dtype, axis=axis)

    @property
    def _is_over_samples(self) -> bool:
        return "products" in self._buffers

    def build(self, y_true: TensorLike, y_pred: TensorLike) -> None:
        """Create the sums over samples, if the first batch has a single column."""
        shape, axis = as_tensor(y_pred).shape, self._fn_kwargs["axis"]
        if not self._is_over_samples and (len(shape) == 1 or (axis == -1 and shape[-1:] == (1,))):
            self.to(as_tensor(y_pred).device)
            self._make_sums()

    def _make_sums(self) -> None:
        """Create sums of targets and predictions, of their squares and products, measured from the first mean."""
        self.sums = self.add_variable((2,), dtype=SUM_DTYPE, aggregation="none", name="sums")
        self.products = self.add_variable((2, 2), dtype=SUM_DTYPE, aggregation="none", name="products")
        self.origin = self.add_variable((2,), dtype=SUM_DTYPE, aggregation="none", name="origin")

    def _build_from_state(self, state_dict: Mapping[str, Tensor], prefix: str) -> None:
        if prefix + "products" in state_dict and not self._is_over_samples:
            self._make_sums()

    def update_state(  # type: ignore[override]
        self, y_true: TensorLike, y_pred: TensorLike, sample_weight: TensorLike = None
    ) -> None:
        """Add one batch; weights are for whole correlations, or of a single column for samples."""
        self.build(y_true, y_pred)
        if not self._is_over_samples:
            super().update_state(y_true, y_pred, sample_weight)
            return
        mask = get_mask(y_pred)
        y_pred = as_tensor(y_pred, dtype=self.sums.dtype).detach()
        y_true, y_pred = align_pair(as_tensor(y_true, dtype=self.sums.dtype, device=y_pred.device), y_pred)
        weights = merge_weights(sample_weight, mask, y_pred)
        self._add_pairs(torch.stack([y_true.flatten(), y_pred.flatten()]), weights)

    def _add_pairs(self, pairs: Tensor, weights: Tensor | None) -> None:
        """Add pairs of targets and predictions, `(2, samples)`."""
        weights = torch.ones_like(pairs[0]) if weights is None else weights.flatten()
        count = weights.sum()
        mean = weigh(pairs, weights).sum(1) / count
        self.origin.copy_(torch.where(self.count == 0, mean, self.origin))
        distances = torch.where(weights != 0, pairs - self.origin.unsqueeze(1), 0)
        weighted = distances * weights
        self.sums.add_(weighted.sum(1))
        # No matrix product: compiled, it would be written into the variable, which torch cannot dispatch.
        self.products.add_((weighted.unsqueeze(1) * distances).sum(-1))
        self.count.add_(count)

    def result(self) -> Tensor:
        """Return the correlation, a scalar."""
        if not self._is_over_samples:
            return super().result()
        means = self.sums / self.count
        covariances = self.products / self.count - means.outer(means)
        return self._of_moments(means + self.origin, covariances).to(self._dtype)

    def _of_moments(self, means: Tensor, covariances: Tensor) -> Tensor:
        raise NotImplementedError


class PearsonCorrelation(_Correlation):
    """Mean linear correlation of `y_true` and `y_pred` `(batch, …)` along `axis`; NaN where one does not vary.

    With a single value per sample, `(batch,)` or `(batch, 1)`, it is the correlation over all samples.

    >>> round(PearsonCorrelation()([[0, 1, 0.5], [1, 1, 0.2]], [[0.1, 0.9, 0.5], [1, 0.9, 0.2]]).item(), 4)
    0.9967
    >>> round(PearsonCorrelation()([1.0, 2.0, 3.0], [1.0, 2.0, 4.0]).item(), 4)
    0.982
    """

    def __init__(self, name: str | None = "pearson_correlation", dtype: DTypeLike = None, axis: object = -1):
        super().__init__(of_samples.pearson_correlation, name, dtype, axis)

    def _of_moments(self, means: Tensor, covariances: Tensor) -> Tensor:
        spreads = covariances.diagonal().clamp(min=0).sqrt()
        return covariances[0, 1] / spreads.prod()


class ConcordanceCorrelation(_Correlation):
    """Mean concordance of `y_true` and `y_pred` `(batch, …)` along `axis`: 1 only where they are equal.

    With a single value per sample, `(batch,)` or `(batch, 1)`, it is the concordance over all samples.

    >>> round(ConcordanceCorrelation()([[0, 1, 0.5], [1, 1, 0.2]], [[0.1, 0.9, 0.5], [1, 0.9, 0.2]]).item(), 4)
    0.9816
    """

    def __init__(self, name: str | None = "concordance_correlation", dtype: DTypeLike = None, axis: object = -1):
        super().__init__(of_samples.concordance_correlation, name, dtype, axis)

    def _of_moments(self, means: Tensor, covariances: Tensor) -> Tensor:
        shift = (means[0] - means[1]).square()
        return 2 * covariances[0, 1] / (covariances.diagonal().sum() + shift + of_samples.EPSILON)


_AGGREGATIONS = (None, "uniform_average", "variance_weighted_average")


class R2Score(Metric):
    """Coefficient of determination: 1 - residual sum of squares / total sum of squares.

    1 is a perfect prediction, 0 is as good as the mean, less is worse than it. Targets that do not vary give 0
    for a wrong prediction and NaN for a perfect one. Targets may lie far from 0.

    Args:
        class_aggregation: `"uniform_average"` (default) for the mean over the columns,
            `"variance_weighted_average"` for their mean by the variance of the targets, `None` for all of them.
        num_regressors: Number of independent variables, for the adjusted score; 0 (default) is the plain one. Where
            the rows do not exceed the regressors, the plain score is returned. Rows are counted, not their columns.
        name: Default `"r2_score"`.
        dtype: See `Metric`.

    Raises:
        ValueError: For values out of range, and for data that is not `(batch, columns)` or `(batch,)`.

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

    def _build_from_state(self, state_dict: StateDict, prefix: str) -> None:
        saved = state_dict.get(prefix + "squared_sum")
        if saved is not None and not self._built:
            self._make_sums(saved.shape[0])
        if saved is not None:
            state_dict.setdefault(prefix + "origin", torch.zeros_like(saved))  # missing in files of version 0.1

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
        """Set the origin to the mean of the first batch: squares of large targets would lose their differences."""
        self.origin.copy_(torch.where(self.count == 0, mean, self.origin))

    def align(self, share: Callable[[Callable[[], Tensor]], Tensor]) -> None:
        """Use the same origin in all processes."""
        if self._has_common_origin or not self._built:
            return
        self._has_common_origin = True
        common = share(lambda: self.origin.as_subclass(Tensor).nan_to_num(0.0).cpu()).to(self.origin.device)
        shift = torch.where(self.count == 0, 0.0, self.origin - common)
        self.squared_sum.add_(2 * shift * self.sum + self.count * shift.square())
        self.sum.add_(self.count * shift)
        self.origin.copy_(common)

    def reset_state(self) -> None:
        """Reset the state; the next batch sets the origin."""
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
