"""F-scores: precision and recall as one number."""

from typing import Any

from torch import Tensor

from torchfit._utils.errors import describe
from torchfit._utils.tensors import as_tensor
from torchfit.functional.confusion import broadcast_weights
from torchfit.metrics._validation import choice
from torchfit.metrics.base import Metric

_AVERAGES = (None, "micro", "macro", "weighted")
_EPSILON = 1e-7
_MIN_SCORE = 1e-9  # a largest score no farther from 0 than this predicts no class


class FBetaScore(Metric):
    """Weighted harmonic mean of precision and recall: `(1 + β²)·P·R / (β²·P + R)`.

    Args:
        average: `None` for a score per class `(classes,)`, `"macro"` for their mean, `"weighted"` for their mean
            by the number of positives, `"micro"` to count over all classes together.
        beta: how much more recall weighs than precision. Default 1.0.
        threshold: scores above it are predicted positives; `None` (default) for the largest of each sample.
        name: default `"fbeta_score"`.
        dtype: see `Metric`.

    Raises:
        ValueError: for values out of range, and for data that is not `(batch, classes)`.

    `update_state(y_true, y_pred, sample_weight=None)`: labels of 0 and 1 and scores `(batch, classes)`,
    weights `(batch,)`.

    >>> y_true = [[1, 1, 1], [1, 0, 0], [1, 1, 0]]
    >>> y_pred = [[0.2, 0.6, 0.7], [0.2, 0.6, 0.6], [0.6, 0.8, 0.0]]
    >>> [round(score, 4) for score in FBetaScore(beta=2.0, threshold=0.5)(y_true, y_pred).tolist()]
    [0.3846, 0.9091, 0.8333]
    """

    mode = "max"

    def __init__(
        self,
        average: str | None = None,
        beta: float = 1.0,
        threshold: float | None = None,
        name: str | None = "fbeta_score",
        dtype: Any = None,
    ):
        super().__init__(name=name, dtype=dtype)
        self.average: str | None = choice("average", average, _AVERAGES)
        if not isinstance(beta, float) or beta <= 0:
            raise ValueError(f"`beta` must be a float above 0. Received: {describe(beta)}.")
        if threshold is not None and (not isinstance(threshold, float) or not 0 < threshold <= 1):
            raise ValueError(
                f"`threshold` must be None or a float above 0 and not above 1. Received: {describe(threshold)}."
            )
        self.beta, self.threshold = beta, threshold

    def build(self, y_true: Any, y_pred: Any) -> None:
        """Make the counters for the classes of the first batch."""
        y_true, y_pred = as_tensor(y_true), as_tensor(y_pred)
        if y_true.ndim != 2 or y_true.shape != y_pred.shape:
            raise ValueError(
                f"{type(self).__name__} expects y_true and y_pred of shape (batch, classes). "
                f"Received: y_true, {describe(y_true)}, and y_pred, {describe(y_pred)}."
            )
        if not self._own_variables():
            self._make_counters(() if self.average == "micro" else y_pred.shape[1:])
            self.to(y_pred.device)

    def _make_counters(self, shape: Any) -> None:
        self.true_positives = self.add_weight(shape, name="true_positives")
        self.false_positives = self.add_weight(shape, name="false_positives")
        self.false_negatives = self.add_weight(shape, name="false_negatives")
        self.intermediate_weights = self.add_weight(shape, name="intermediate_weights")

    def _build_from_state(self, state_dict: Any, prefix: str) -> None:
        saved = state_dict.get(prefix + "true_positives")
        if saved is not None and not self._own_variables():
            self._make_counters(tuple(saved.shape))

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add one batch."""
        y_pred = as_tensor(y_pred, dtype=self._dtype).detach()
        y_true = as_tensor(y_true, dtype=self._dtype, device=y_pred.device)
        self.build(y_true, y_pred)
        predicted_positive = self._predicted_positive(y_pred).to(self._dtype)
        weights = 1.0 if sample_weight is None else broadcast_weights(sample_weight, y_pred)
        self._add(self.true_positives, predicted_positive * y_true * weights)
        self._add(self.false_positives, predicted_positive * (1 - y_true) * weights)
        self._add(self.false_negatives, (1 - predicted_positive) * y_true * weights)
        self._add(self.intermediate_weights, y_true * weights)

    def _predicted_positive(self, y_pred: Tensor) -> Tensor:
        if self.threshold is not None:
            return y_pred > self.threshold
        return (y_pred >= y_pred.amax(-1, keepdim=True)) & (y_pred.abs() > _MIN_SCORE)

    def _add(self, variable: Tensor, values: Tensor) -> None:
        variable.add_(values.sum() if self.average == "micro" else values.sum(0))

    def result(self) -> Tensor:
        """Return the score, a scalar, or `(classes,)` without an average; 0 before the first batch."""
        if not self._own_variables():
            return as_tensor(0.0, dtype=self._dtype)
        precision = self.true_positives / (self.true_positives + self.false_positives + _EPSILON)
        recall = self.true_positives / (self.true_positives + self.false_negatives + _EPSILON)
        weight = self.beta**2
        scores = precision * recall * (1 + weight) / (weight * precision + recall + _EPSILON)
        if self.average == "weighted":
            return (scores * self.intermediate_weights / (self.intermediate_weights.sum() + _EPSILON)).sum()
        return scores.mean() if self.average == "macro" else scores

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        config = {"average": self.average, "beta": self.beta, "threshold": self.threshold}
        return {**super().get_config(), **config}


class F1Score(FBetaScore):
    """Harmonic mean of precision and recall: `2·P·R / (P + R)`; see `FBetaScore`.

    >>> round(F1Score(average="micro", threshold=0.5)([[1, 0], [0, 1]], [[0.6, 0.7], [0.2, 0.6]]).item(), 4)
    0.8
    """

    def __init__(
        self,
        average: str | None = None,
        threshold: float | None = None,
        name: str | None = "f1_score",
        dtype: Any = None,
    ):
        super().__init__(average, 1.0, threshold, name, dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        config = super().get_config()
        del config["beta"]
        return config
