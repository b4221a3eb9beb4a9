"""Accuracies: how often predictions are right."""

from typing import Any

from torch import Tensor

from torchfit._utils.errors import describe
from torchfit._utils.tensors import as_tensor
from torchfit.functional import accuracy as of_samples
from torchfit.metrics.reductions import MeanMetricWrapper


class _Matches(MeanMetricWrapper):
    """Fraction of samples that match: counted, without floating-point work per sample."""

    mode = "max"

    def update_state(  # type: ignore[override]
        self, y_true: Any, y_pred: Any, sample_weight: Any = None
    ) -> None:
        """Add one batch; shapes as the class says, `sample_weight (batch,)` or `(batch, …)`."""
        mask = getattr(y_pred, "_keras_mask", None)
        if not (isinstance(y_true, Tensor) and isinstance(y_pred, Tensor)):
            y_pred = as_tensor(y_pred)
            y_true = as_tensor(y_true, device=y_pred.device)
        found = self._fn(y_true, y_pred, **self._fn_kwargs)
        if sample_weight is None and mask is None and found.ndim == 1 and found.device == self.total.device:
            self.total.add_(found.count_nonzero())
            self._count(found.shape[0])
        else:
            self._accumulate(found, sample_weight, mask)


class Accuracy(_Matches):
    """How often predictions `(batch, …)` equal labels `(batch, …)`.

    >>> Accuracy()([1, 2, 3, 4], [0, 2, 3, 4]).item()
    0.75
    """

    def __init__(self, name: str | None = "accuracy", dtype: Any = None):
        super().__init__(of_samples.matches, name, dtype)


class BinaryAccuracy(_Matches):
    """How often scores `(batch, …)` above `threshold` agree with labels of 0 and 1 `(batch, …)`.

    For logits, `threshold=0.0` is the probability of one half.

    >>> BinaryAccuracy()([[1], [1], [0], [0]], [[0.98], [1], [0], [0.6]]).item()
    0.75
    """

    def __init__(self, name: str | None = "binary_accuracy", dtype: Any = None, threshold: float = 0.5):
        if not isinstance(threshold, (int, float)):
            raise ValueError(f"`threshold` must be a number. Received: {describe(threshold)}.")
        super().__init__(of_samples.binary_matches, name, dtype, threshold=threshold)


class CategoricalAccuracy(_Matches):
    """How often the largest score is that of the labelled class: labels one-hot, both `(batch, …, classes)`.

    >>> CategoricalAccuracy()([[0, 0, 1], [0, 1, 0]], [[0.1, 0.9, 0.8], [0.05, 0.95, 0]]).item()
    0.5
    """

    def __init__(self, name: str | None = "categorical_accuracy", dtype: Any = None):
        super().__init__(of_samples.categorical_matches, name, dtype)


class SparseCategoricalAccuracy(_Matches):
    """How often the largest score is that of the labelled class.

    Labels are class indices `(batch, …)` or `(batch, …, 1)`, scores are `(batch, …, classes)`.

    >>> SparseCategoricalAccuracy()([[2], [1]], [[0.1, 0.6, 0.3], [0.05, 0.95, 0]]).item()
    0.5
    """

    def __init__(self, name: str | None = "sparse_categorical_accuracy", dtype: Any = None):
        super().__init__(of_samples.sparse_categorical_matches, name, dtype)


class TopKCategoricalAccuracy(_Matches):
    """How often the labelled class is among the `k` best scores: labels one-hot, both `(batch, …, classes)`.

    >>> TopKCategoricalAccuracy(k=1)([[0, 0, 1], [0, 1, 0]], [[0.1, 0.9, 0.8], [0.05, 0.95, 0]]).item()
    0.5
    """

    def __init__(self, k: int = 5, name: str | None = "top_k_categorical_accuracy", dtype: Any = None):
        super().__init__(of_samples.top_k_matches, name, dtype, k=_checked_k(k))


class SparseTopKCategoricalAccuracy(_Matches):
    """How often the labelled class is among the `k` best scores.

    Labels are class indices `(batch, …)` or `(batch, …, 1)`, scores are `(batch, …, classes)`. With
    `from_sorted_ids=True` predictions are class indices, the best first, instead of scores.

    >>> SparseTopKCategoricalAccuracy(k=1)([2, 1], [[0.1, 0.9, 0.8], [0.05, 0.95, 0]]).item()
    0.5
    """

    def __init__(
        self,
        k: int = 5,
        name: str | None = "sparse_top_k_categorical_accuracy",
        dtype: Any = None,
        from_sorted_ids: bool = False,
    ):
        super().__init__(of_samples.sparse_top_k_matches, name, dtype, k=_checked_k(k), from_sorted_ids=from_sorted_ids)


def _checked_k(k: Any) -> int:
    if not isinstance(k, int) or k < 1:
        raise ValueError(f"`k` must be an integer of at least 1. Received: {describe(k)}.")
    return k
