"""Metrics of predicted classes: accuracies and F scores."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from torchfit._types import Config, DTypeLike, TensorLike
from torchfit._utils import validation
from torchfit._utils.errors import describe
from torchfit._utils.tensors import as_tensor
from torchfit.functional import classification as of_samples
from torchfit.functional.alignment import as_mask, require_mask
from torchfit.losses.checks import LossTraits
from torchfit.metrics.base import SUM_DTYPE
from torchfit.metrics.checks import choice, weigh
from torchfit.metrics.confusion import BinaryDecisionMetric, Samples
from torchfit.metrics.reductions import MeanMetricWrapper


class _Matches(MeanMetricWrapper):
    """Fraction of samples that match, counted without floating-point operations per sample."""

    mode = "max"
    ignore_class: int | None = None

    def update_state(  # type: ignore[override]
        self, y_true: TensorLike, y_pred: TensorLike, sample_weight: TensorLike = None
    ) -> None:
        """Add one batch, with the shapes in the class docstring and `sample_weight (batch,)` or `(batch, …)`."""
        mask = getattr(y_pred, "_keras_mask", None)
        if not (isinstance(y_true, Tensor) and isinstance(y_pred, Tensor)):
            y_pred = as_tensor(y_pred)
            y_true = as_tensor(y_true, device=y_pred.device)
        found = self._fn(y_true, y_pred, **self._fn_kwargs)
        if self.ignore_class is not None and y_true.numel() == found.numel():
            kept = y_true != self.ignore_class
            if kept.shape != found.shape:
                kept = kept.reshape(found.shape)
            self._accumulate_kept(found, kept, sample_weight, mask)
        elif sample_weight is None and mask is None and found.ndim == 1 and found.device == self.total.device:
            self.total.add_(found.count_nonzero())
            self.count.add_(self._unit, alpha=found.shape[0])
        else:
            self._accumulate(found, sample_weight, mask)

    def _accumulate_kept(self, found: Tensor, kept: Tensor, sample_weight: TensorLike, mask: TensorLike) -> None:
        """Add the samples whose label is not the ignored one."""
        if sample_weight is not None or mask is not None or found.device != self.total.device:
            if mask is not None:
                kept = kept & require_mask(as_mask(mask, kept.device), kept)
            self._accumulate(found, sample_weight, kept)
        else:
            self.total.add_(found.logical_and_(kept).count_nonzero())
            self.count.add_(kept.count_nonzero())

    def get_config(self) -> Config:
        """Return the constructor's arguments."""
        config = super().get_config()
        return config if self.ignore_class is None else {**config, "ignore_class": self.ignore_class}


class Accuracy(_Matches):
    """How often predictions `(batch, …)` equal labels `(batch, …)`.

    >>> Accuracy()([1, 2, 3, 4], [0, 2, 3, 4]).item()
    0.75
    """

    def __init__(self, name: str | None = "accuracy", dtype: DTypeLike = None):
        super().__init__(of_samples.matches, name, dtype)


class BinaryAccuracy(_Matches):
    """How often scores above `threshold` agree with labels, both `(batch, …)`.

    Labels above one half are positive: 1 of 0 and 1, or of -1 and 1.

    Args:
        name: Default `"binary_accuracy"`.
        dtype: See `Metric`.
        threshold: The probability above which a prediction is positive. Default 0.5.
        from_logits: Whether scores are logits instead of probabilities; 0.5 is the logit 0 then.
        ignore_class: A label whose samples do not count.

    Raises:
        ValueError: If `threshold` is not a number, or with `from_logits` not between 0 and 1.

    >>> BinaryAccuracy()([[1], [1], [0], [0]], [[0.98], [1], [0], [0.6]]).item()
    0.75
    >>> BinaryAccuracy(from_logits=True)([[1], [1], [0], [0]], [[2.0], [0.3], [-1.0], [0.1]]).item()
    0.75
    """

    def __init__(
        self,
        name: str | None = "binary_accuracy",
        dtype: DTypeLike = None,
        threshold: float = 0.5,
        from_logits: bool = False,
        ignore_class: int | None = None,
    ):
        if not isinstance(threshold, (int, float)):
            raise ValueError(f"`threshold` must be a number. Received: {describe(threshold)}.")
        super().__init__(of_samples.binary_matches, name, dtype)
        self.threshold = threshold
        self.ignore_class = ignore_class
        self._set_from_logits(bool(from_logits))

    expects_binary_labels = True

    @property
    def expects_probabilities(self) -> bool:  # type: ignore[override]
        """Whether the threshold is a probability."""
        return not self.from_logits and 0 < self.threshold < 1

    def follow_loss(self, traits: LossTraits) -> None:
        """Expect logits if the loss does."""
        if not traits.is_multiclass:
            self.ignore_class = traits.ignore_class
            self._set_from_logits(traits.from_logits)

    def _set_from_logits(self, from_logits: bool) -> None:
        self.from_logits = from_logits
        self._fn_kwargs = {"threshold": logit(self.threshold) if from_logits else self.threshold}

    def get_config(self) -> Config:
        """Return the constructor's arguments."""
        config = {**super().get_config(), "threshold": self.threshold}
        return {**config, "from_logits": True} if self.from_logits else config


class _ClassMatches(_Matches):
    """Matches of labels and scores of exclusive classes along `axis`."""

    axis = -1
    has_class_axis = True

    @property
    def counts_every_label(self) -> bool:  # type: ignore[override]
        """Whether no label is ignored."""
        return self.ignore_class is None

    def __init__(
        self,
        fn: Callable[..., Tensor],
        name: str | None,
        dtype: DTypeLike,
        axis: int,
        ignore_class: int | None,
        **kwargs: Any,
    ):
        super().__init__(fn, name, dtype, **kwargs)
        self.ignore_class = ignore_class
        self._set_axis(validation.integer("axis", axis))

    def _set_axis(self, axis: int) -> None:
        self.axis = axis
        self._fn_kwargs = {**self._fn_kwargs, "axis": axis}

    def follow_loss(self, traits: LossTraits) -> None:
        """Adopt the class axis and ignored label of a loss, and accept labels of either form in each batch."""
        if traits.is_multiclass:
            self._set_axis(traits.axis)
            self.ignore_class = traits.ignore_class
        self._fn = _FOR_ANY_LABELS.get(self._fn, self._fn)

    def get_config(self) -> Config:
        """Return the constructor's arguments."""
        config = super().get_config()
        return {key: value for key, value in config.items() if key != "axis" or value != -1}


class CategoricalAccuracy(_ClassMatches):
    """How often the largest score is that of the labelled class.

    Labels are one-hot or soft, both `(batch, …)` with the classes along `axis`, by default the last dimension.

    >>> CategoricalAccuracy()([[0, 0, 1], [0, 1, 0]], [[0.1, 0.9, 0.8], [0.05, 0.95, 0]]).item()
    0.5
    """

    def __init__(self, name: str | None = "categorical_accuracy", dtype: DTypeLike = None, axis: int = -1):
        super().__init__(of_samples.categorical_matches, name, dtype, axis, None)


class SparseCategoricalAccuracy(_ClassMatches):
    """How often the largest score is that of the labelled class.

    Scores are `(batch, …)` with the classes along `axis`, by default the last dimension. Labels are class indices of
    the same shape without it, or with a size of 1 in its place or at the end. Samples whose label is `ignore_class` do
    not count.

    >>> SparseCategoricalAccuracy()([[2], [1]], [[0.1, 0.6, 0.3], [0.05, 0.95, 0]]).item()
    0.5
    >>> SparseCategoricalAccuracy(ignore_class=2)([2, 1], [[0.1, 0.6, 0.3], [0.05, 0.95, 0]]).item()
    1.0
    """

    def __init__(
        self,
        name: str | None = "sparse_categorical_accuracy",
        dtype: DTypeLike = None,
        axis: int = -1,
        ignore_class: int | None = None,
    ):
        super().__init__(of_samples.sparse_categorical_matches, name, dtype, axis, ignore_class)


class TopKCategoricalAccuracy(_ClassMatches):
    """How often the labelled class is among the `k` best scores.

    Labels are one-hot or soft, both `(batch, …)` with the classes along `axis`, by default the last dimension.

    >>> TopKCategoricalAccuracy(k=1)([[0, 0, 1], [0, 1, 0]], [[0.1, 0.9, 0.8], [0.05, 0.95, 0]]).item()
    0.5
    """

    def __init__(
        self, k: int = 5, name: str | None = "top_k_categorical_accuracy", dtype: DTypeLike = None, axis: int = -1
    ):
        super().__init__(of_samples.top_k_matches, name, dtype, axis, None, k=_checked_k(k))


class SparseTopKCategoricalAccuracy(_ClassMatches):
    """How often the labelled class is among the `k` best scores.

    Scores, labels, `axis` and `ignore_class` are as for `SparseCategoricalAccuracy`. With `from_sorted_ids=True`
    predictions are class indices, the best first, instead of scores.

    >>> SparseTopKCategoricalAccuracy(k=1)([2, 1], [[0.1, 0.9, 0.8], [0.05, 0.95, 0]]).item()
    0.5
    """

    def __init__(
        self,
        k: int = 5,
        name: str | None = "sparse_top_k_categorical_accuracy",
        dtype: DTypeLike = None,
        from_sorted_ids: bool = False,
        axis: int = -1,
        ignore_class: int | None = None,
    ):
        function = of_samples.sparse_top_k_matches
        super().__init__(
            function, name, dtype, axis, ignore_class, k=_checked_k(k), from_sorted_ids=bool(from_sorted_ids)
        )


_FOR_ANY_LABELS: dict[Callable[..., Tensor], Callable[..., Tensor]] = {
    of_samples.categorical_matches: of_samples.class_matches,
    of_samples.sparse_categorical_matches: of_samples.class_matches,
    of_samples.top_k_matches: of_samples.class_top_k_matches,
    of_samples.sparse_top_k_matches: of_samples.class_top_k_matches,
}


def logit(probability: float) -> float:
    """Return the logit of a probability between 0 and 1.

    Raises:
        ValueError: For other numbers.

    >>> logit(0.5)
    0.0
    """
    if not 0 < probability < 1:
        raise ValueError(f"`threshold` must be between 0 and 1 with from_logits=True. Received: {probability}.")
    return math.log(probability / (1 - probability))


def _checked_k(k: object) -> int:
    if not isinstance(k, int) or k < 1:
        raise ValueError(f"`k` must be an integer of at least 1. Received: {describe(k)}.")
    return k


_AVERAGES = (None, "micro", "macro", "weighted")
_EPSILON = 1e-7
_MIN_SCORE = 1e-9  # if the largest score is at most this far from 0, no class is predicted


class FBetaScore(BinaryDecisionMetric):
    """Weighted harmonic mean of precision and recall: `(1 + β²)·P·R / (β²·P + R)`.

    Args:
        average: `None` for a score per class `(classes,)`, `"macro"` for their mean, `"weighted"` for their mean
            by the number of positives, `"micro"` to count over all classes together.
        beta: The weight of recall relative to precision. Default 1.0.
        threshold: Scores above it are predicted positives; `None` (default) for the largest of each sample.
        name: Default `"fbeta_score"`.
        dtype: See `Metric`.
        from_logits: Whether scores are logits, compared with the threshold as probabilities (sigmoid).

    Raises:
        ValueError: For values out of range, and for data that is not `(batch, classes)`.

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
        """Adopt the form of labels and predictions from the loss; a single class is predicted above one half."""
        super().follow_loss(traits)
        if traits.kind == "binary" and self.threshold is None:
            self.threshold = 0.5

    def build(self, y_true: TensorLike, y_pred: TensorLike) -> None:
        """Create the counters for the classes of the first batch."""
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
