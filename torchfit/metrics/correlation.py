"""Correlations of predictions and targets."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from torchfit._types import DTypeLike, TensorLike
from torchfit._utils.tensors import as_tensor
from torchfit.functional import correlation as of_samples
from torchfit.functional.alignment import align_pair
from torchfit.functional.masks import get_mask
from torchfit.metrics._weights import merge_weights, weigh
from torchfit.metrics.base import SUM_DTYPE
from torchfit.metrics.reductions import MeanMetricWrapper


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
