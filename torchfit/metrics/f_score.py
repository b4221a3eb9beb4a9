"""F-scores: precision and recall as one number."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from torchfit._types import Config, DTypeLike, TensorLike
from torchfit._utils.errors import describe
from torchfit._utils.tensors import as_tensor
from torchfit.losses.checks import LossTraits
from torchfit.metrics._validation import choice, weigh
from torchfit.metrics.base import SUM_DTYPE
from torchfit.metrics.confusion import BinaryDecisionMetric, Samples

_AVERAGES = (None, "micro", "macro", "weighted")
_EPSILON = 1e-7
_MIN_SCORE = 1e-9  # a largest score no farther from 0 than this predicts no class


class FBetaScore(BinaryDecisionMetric):
    """Weighted harmonic mean of precision and recall: `(1 + β²)·P·R / (β²·P + R)`.

    Args:
        average: `None` for a score per class `(classes,)`, `"macro"` for their mean, `"weighted"` for their mean
            by the number of positives, `"micro"` to count over all classes together.
        beta: how much more recall weighs than precision. Default 1.0.
        threshold: scores above it are predicted positives; `None` (default) for the largest of each sample.
        name: default `"fbeta_score"`.
        dtype: see `Metric`.
        from_logits: whether scores are logits, compared with the threshold as probabilities (sigmoid).

    Raises:
        ValueError: for values out of range, and for data that is not `(batch, classes)`.

    `update_state(y_true, y_pred, sample_weight=None)`: labels, those above one half being positive, and scores, both
    `(batch, classes)`, or `(batch,)` for a single class; weights `(batch,)`.

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
        dtype: DTypeLike = None,
        from_logits: bool = False,
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
        self.from_logits = bool(from_logits)

    @property
    def expects_probabilities(self) -> bool:  # type: ignore[override]
        """Whether the threshold is a probability."""
        return not self.from_logits and self.threshold is not None

    def follow_loss(self, traits: LossTraits) -> None:
        """Read labels and predictions as the loss does; a single class is predicted above one half."""
        super().follow_loss(traits)
        if traits.kind == "binary" and self.threshold is None:
            self.threshold = 0.5

    def build(self, y_true: TensorLike, y_pred: TensorLike) -> None:
        """Make the counters for the classes of the first batch."""
        if not self._own_variables():
            _, y_pred, _ = self._samples(y_true, y_pred, None)
            self._make_counters(() if self.average == "micro" else y_pred.shape[1:])
            self.to(y_pred.device)

    def _make_counters(self, shape: Sequence[int]) -> None:
        self.true_positives = self.add_weight(shape, dtype=SUM_DTYPE, name="true_positives")
        self.false_positives = self.add_weight(shape, dtype=SUM_DTYPE, name="false_positives")
        self.false_negatives = self.add_weight(shape, dtype=SUM_DTYPE, name="false_negatives")
        self.intermediate_weights = self.add_weight(shape, dtype=SUM_DTYPE, name="intermediate_weights")

    def _build_from_state(self, state_dict: Mapping[str, Tensor], prefix: str) -> None:
        saved = state_dict.get(prefix + "true_positives")
        if saved is not None and not self._own_variables():
            self._make_counters(tuple(saved.shape))

    def update_state(self, y_true: TensorLike, y_pred: TensorLike, sample_weight: TensorLike = None) -> None:
        """Add one batch."""
        self.build(y_true, y_pred)
        labels, y_pred, weights = self._samples(y_true, y_pred, sample_weight)
        predicted = self._predicted_positive(y_pred)
        self._add(self.true_positives, predicted & labels, weights)
        self._add(self.false_positives, predicted & ~labels, weights)
        self._add(self.false_negatives, ~predicted & labels, weights)
        self._add(self.intermediate_weights, labels, weights)

    def _samples(
        self, y_true: TensorLike, y_pred: TensorLike, sample_weight: TensorLike, top_k: int | None = None
    ) -> Samples:
        """Return labels, scores and weights `(batch, classes)`."""
        labels, scores, weights = super()._samples(y_true, y_pred, sample_weight)
        if scores.ndim == 1:
            labels, scores = labels.unsqueeze(-1), scores.unsqueeze(-1)
            weights = weights if weights is None else weights.unsqueeze(-1)
        if scores.ndim > 2 and self._has_class_indices:
            labels, scores = labels.flatten(0, -2), scores.flatten(0, -2)
            weights = weights if weights is None else weights.flatten(0, -2)
        if scores.ndim != 2:
            raise ValueError(
                f"{type(self).__name__} expects y_true and y_pred of shape (batch, classes). "
                f"Received: y_true, {describe(labels)}, and y_pred, {describe(scores)}."
            )
        return labels, scores, weights

    def _predicted_positive(self, y_pred: Tensor) -> Tensor:
        if self.threshold is not None:
            return y_pred > self.threshold
        return (y_pred >= y_pred.amax(-1, keepdim=True)) & (y_pred.abs() > _MIN_SCORE)

    def _add(self, variable: Tensor, counted: Tensor, weights: Tensor | None) -> None:
        values = counted if weights is None else weigh(counted.to(weights.dtype), weights)
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
            scores = (scores * self.intermediate_weights / (self.intermediate_weights.sum() + _EPSILON)).sum()
        elif self.average == "macro":
            scores = scores.mean()
        return scores.to(self._dtype)

    def get_config(self) -> Config:
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
        dtype: DTypeLike = None,
        from_logits: bool = False,
    ):
        super().__init__(average, 1.0, threshold, name, dtype, from_logits)

    def get_config(self) -> Config:
        """Return the constructor's arguments."""
        config = super().get_config()
        del config["beta"]
        return config
