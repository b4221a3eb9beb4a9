"""Metrics of binary decisions at one or a few thresholds: the four counts, precision and recall."""

import torch
from torch import Tensor

from torchfit._types import Config, DTypeLike, TensorLike
from torchfit._utils.errors import describe
from torchfit._utils.tensors import as_tensor
from torchfit.functional.alignment import align_class_indices, align_ranks, get_mask, shape_mismatch_error
from torchfit.functional.classification import NEVER, Counts, counts_above, keep_top_k, ratio
from torchfit.losses.checks import LossTraits
from torchfit.metrics.base import SUM_DTYPE, Metric, Variable
from torchfit.metrics.checks import merge_weights, optional_integer, unit_intervals

Samples = tuple[Tensor, Tensor, Tensor | None]


class BinaryDecisionMetric(Metric):
    """Base class of metrics of binary decisions, which prepares labels, scores and weights and selects a class.

    Labels above one half are positive: 1 of 0 and 1, or of -1 and 1. Counts are kept in float64, whatever the dtype of
    the scores.
    """

    axis = -1
    expects_binary_labels = True
    from_logits = False
    ignore_class: int | None = None
    _class_id: int | None = None
    _has_class_indices = False

    def follow_loss(self, traits: LossTraits) -> None:
        """Convert logits to probabilities, and class indices to one-hot labels, if the loss uses them."""
        self.from_logits = traits.from_logits
        self.ignore_class = traits.ignore_class
        if traits.is_multiclass:
            self.axis = traits.axis
            self._has_class_indices = True

    @property
    def _result_dtype(self) -> torch.dtype:
        """The dtype of rates, at least float32."""
        return torch.promote_types(self._dtype, torch.float32)

    def _samples(
        self, y_true: TensorLike, y_pred: TensorLike, sample_weight: TensorLike, top_k: int | None = None
    ) -> Samples:
        """Return labels, scores and weights of the same shape, of the selected class only."""
        mask = get_mask(y_pred)
        y_pred = as_tensor(y_pred, dtype=self._dtype).detach()
        y_true = as_tensor(y_true, device=y_pred.device)
        kept = None
        if self._has_class_indices:
            y_true, y_pred, kept = one_hot_samples(y_true, y_pred, self.axis, self.from_logits, self.ignore_class)
        else:
            y_true, y_pred = align_ranks(y_true, y_pred)
            y_pred = y_pred.sigmoid() if self.from_logits else y_pred
            kept = None if self.ignore_class is None else y_true != self.ignore_class
        if y_true.shape != y_pred.shape:
            raise shape_mismatch_error(
                y_true, y_pred, "of the shape of y_pred", "Make class indices one-hot, with utils.to_categorical."
            )
        weights = merge_weights(sample_weight, mask, y_pred)
        if kept is not None:
            weights = merge_weights(weights, kept, y_pred)
        if y_pred.device != self._device():
            self.to(y_pred.device)
        if top_k is not None:
            y_pred = keep_top_k(y_pred, top_k)
        return self._select_class(y_true if y_true.dtype is torch.bool else y_true > 0.5, y_pred, weights)

    def _select_class(self, labels: Tensor, y_pred: Tensor, weights: Tensor | None) -> Samples:
        if self._class_id is None:
            return labels, y_pred, weights
        if y_pred.ndim < 2:
            raise ValueError(
                f"`class_id` of {self.name!r} chooses among classes, so y_pred must be (batch, …, classes). "
                f"Received: y_pred, {describe(y_pred)}. Leave `class_id` out for a single class."
            )
        if self._class_id >= y_pred.shape[-1]:
            raise ValueError(
                f"`class_id` {self._class_id} of {self.name!r} is out of range: y_pred is {describe(y_pred)}."
            )
        chosen = weights if weights is None else weights[..., self._class_id]
        return labels[..., self._class_id], y_pred[..., self._class_id], chosen

    def get_config(self) -> Config:
        """Return the constructor's arguments."""
        config = super().get_config()
        return {**config, "from_logits": True} if self.from_logits else config


def one_hot_samples(
    y_true: Tensor, y_pred: Tensor, axis: int, from_logits: bool, ignore_class: int | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return one-hot labels and probabilities `(batch, …, classes)`, and which samples count, `(batch, …)`.

    Args:
        y_true: Class indices without the dimension `axis`, or one-hot or soft labels of the shape of `y_pred`.
        y_pred: Scores `(batch, …)` with the classes along `axis`.
        axis: The dimension of the classes.
        from_logits: Whether scores are logits.
        ignore_class: The class index whose samples do not count.

    Raises:
        ValueError: If the shapes do not fit.
    """
    scores = y_pred.movedim(axis, -1)
    if from_logits:
        scores = scores.softmax(-1)
    if y_true.shape == y_pred.shape:
        return y_true.movedim(axis, -1), scores, None
    labels, _ = align_class_indices(y_true, y_pred, axis)
    one_hot = labels.unsqueeze(-1) == torch.arange(scores.shape[-1], device=scores.device)
    return one_hot, scores, None if ignore_class is None else labels != ignore_class


class ThresholdedMetric(BinaryDecisionMetric):
    """Base class of metrics that count decisions at one or a few thresholds."""

    def __init__(self, thresholds: TensorLike, default: float, name: str | None, dtype: DTypeLike, from_logits: bool):
        super().__init__(name=name, dtype=dtype)
        self.thresholds = [default] if thresholds is None else unit_intervals("thresholds", thresholds)
        self.from_logits = bool(from_logits)
        self._given_thresholds = thresholds
        self._threshold_tensor: Tensor | float = self.thresholds[0]
        if len(self.thresholds) > 1:
            del self._threshold_tensor
            limits = torch.tensor(self.thresholds, dtype=self._dtype).unsqueeze(-1)
            self.register_buffer("_threshold_tensor", limits, persistent=False)

    @property
    def expects_probabilities(self) -> bool:  # type: ignore[override]
        """Whether a threshold is a probability."""
        return not self.from_logits and any(0 < threshold < 1 for threshold in self.thresholds)

    def _counter(self, name: str) -> Variable:
        return self.add_weight((len(self.thresholds),), dtype=SUM_DTYPE, name=name)

    def _counts(
        self, y_true: TensorLike, y_pred: TensorLike, sample_weight: TensorLike, top_k: int | None = None
    ) -> Counts:
        labels, y_pred, weights = self._samples(y_true, y_pred, sample_weight, top_k)
        return counts_above(labels, y_pred, self._threshold_tensor, weights)

    def _squeeze_thresholds(self, values: Tensor) -> Tensor:
        """Return a scalar for a single threshold."""
        return values[0] if len(self.thresholds) == 1 else values

    def get_config(self) -> Config:
        """Return the constructor's arguments."""
        given = self._given_thresholds
        plain = given if given is None or isinstance(given, (int, float)) else self.thresholds
        return {**super().get_config(), "thresholds": plain}


class _Count(ThresholdedMetric):
    """One of the four counts."""

    _which: int

    def __init__(
        self, thresholds: TensorLike = None, name: str | None = None, dtype: DTypeLike = None, from_logits: bool = False
    ):
        super().__init__(thresholds, 0.5, name, dtype, from_logits)
        self.accumulator = self._counter("accumulator")

    def update_state(self, y_true: TensorLike, y_pred: TensorLike, sample_weight: TensorLike = None) -> None:
        """Add one batch: labels and scores of one shape `(batch, …)`."""
        self.accumulator.add_(self._counts(y_true, y_pred, sample_weight)[self._which])

    def result(self) -> Tensor:
        """Return the count, a scalar, or `(thresholds,)` for several."""
        return self._squeeze_thresholds(self.accumulator.clone())


class TruePositives(_Count):
    """Weighted number of positives that score above the threshold.

    `thresholds` is a number or a list of numbers from 0 to 1, default 0.5; `from_logits` says that scores are logits.

    >>> TruePositives()([0, 1, 1, 1], [1, 0, 1, 1]).item()
    2.0
    """

    mode, _which = "max", 0


class FalsePositives(_Count):
    """Weighted number of negatives that score above the threshold.

    `thresholds` is a number or a list of numbers from 0 to 1, default 0.5; `from_logits` says that scores are logits.

    >>> FalsePositives()([0, 1, 0, 0], [0, 0, 1, 1]).item()
    2.0
    """

    mode, _which = "min", 1


class TrueNegatives(_Count):
    """Weighted number of negatives that do not score above the threshold.

    `thresholds` is a number or a list of numbers from 0 to 1, default 0.5; `from_logits` says that scores are logits.

    >>> TrueNegatives()([0, 1, 0, 0], [1, 1, 0, 0]).item()
    2.0
    """

    mode, _which = "max", 2


class FalseNegatives(_Count):
    """Weighted number of positives that do not score above the threshold.

    `thresholds` is a number or a list of numbers from 0 to 1, default 0.5; `from_logits` says that scores are logits.

    >>> FalseNegatives()([0, 1, 1, 1], [0, 1, 0, 0]).item()
    2.0
    """

    mode, _which = "min", 3


class _PrecisionOrRecall(ThresholdedMetric):
    """True positives as a fraction of the predicted positives, or of the positives."""

    mode = "max"

    def __init__(
        self,
        thresholds: TensorLike,
        top_k: object,
        class_id: object,
        name: str | None,
        dtype: DTypeLike,
        from_logits: bool,
    ):
        super().__init__(thresholds, 0.5 if top_k is None else NEVER, name, dtype, from_logits)
        self.top_k = optional_integer("top_k", top_k, 1)
        self.class_id = self._class_id = optional_integer("class_id", class_id, 0)
        self.true_positives = self._counter("true_positives")

    def get_config(self) -> Config:
        """Return the constructor's arguments."""
        return {**super().get_config(), "top_k": self.top_k, "class_id": self.class_id}


class Precision(_PrecisionOrRecall):
    """Fraction of predicted positives that are true positives; 0 if nothing is predicted positive.

    Args:
        thresholds: Number or list of numbers from 0 to 1; scores above it are predicted positives. Default 0.5,
            or with `top_k` none. Several give a result `(thresholds,)`.
        top_k: Count only the `k` best scores of each sample as predicted positives.
        class_id: Evaluate this class of the last dimension only.
        name: Default `"precision"`.
        dtype: See `Metric`.
        from_logits: Whether scores are logits, compared with the thresholds as probabilities (sigmoid).

    Raises:
        ValueError: For values out of range.

    `update_state(y_true, y_pred, sample_weight=None)`: labels of 0 and 1 and scores, of one shape
    `(batch, …)` or `(batch, …, classes)`.

    >>> round(Precision()([0, 1, 1, 1], [1, 0, 1, 1]).item(), 4)
    0.6667
    """

    def __init__(
        self,
        thresholds: TensorLike = None,
        top_k: int | None = None,
        class_id: int | None = None,
        name: str | None = None,
        dtype: DTypeLike = None,
        from_logits: bool = False,
    ):
        super().__init__(thresholds, top_k, class_id, name, dtype, from_logits)
        self.false_positives = self._counter("false_positives")

    def update_state(self, y_true: TensorLike, y_pred: TensorLike, sample_weight: TensorLike = None) -> None:
        """Add one batch."""
        tp, fp, _, _ = self._counts(y_true, y_pred, sample_weight, self.top_k)
        self.true_positives.add_(tp)
        self.false_positives.add_(fp)

    def result(self) -> Tensor:
        """Return the precision, a scalar, or `(thresholds,)` for several."""
        values = ratio(self.true_positives, self.true_positives + self.false_positives)
        return self._squeeze_thresholds(values.to(self._result_dtype))


class Recall(_PrecisionOrRecall):
    """Fraction of positives that are found: true positives / (true positives + false negatives); 0 without any.

    Args:
        thresholds: Number or list of numbers from 0 to 1; scores above it are predicted positives. Default 0.5,
            or with `top_k` none. Several give a result `(thresholds,)`.
        top_k: Count only the `k` best scores of each sample as predicted positives.
        class_id: Evaluate this class of the last dimension only.
        name: Default `"recall"`.
        dtype: See `Metric`.
        from_logits: Whether scores are logits, compared with the thresholds as probabilities (sigmoid).

    Raises:
        ValueError: For values out of range.

    `update_state(y_true, y_pred, sample_weight=None)`: labels of 0 and 1 and scores, of one shape
    `(batch, …)` or `(batch, …, classes)`.

    >>> round(Recall()([0, 1, 1, 1], [1, 0, 1, 1]).item(), 4)
    0.6667
    """

    def __init__(
        self,
        thresholds: TensorLike = None,
        top_k: int | None = None,
        class_id: int | None = None,
        name: str | None = None,
        dtype: DTypeLike = None,
        from_logits: bool = False,
    ):
        super().__init__(thresholds, top_k, class_id, name, dtype, from_logits)
        self.false_negatives = self._counter("false_negatives")

    def update_state(self, y_true: TensorLike, y_pred: TensorLike, sample_weight: TensorLike = None) -> None:
        """Add one batch."""
        tp, _, _, fn = self._counts(y_true, y_pred, sample_weight, self.top_k)
        self.true_positives.add_(tp)
        self.false_negatives.add_(fn)

    def result(self) -> Tensor:
        """Return the recall, a scalar, or `(thresholds,)` for several."""
        values = ratio(self.true_positives, self.true_positives + self.false_negatives)
        return self._squeeze_thresholds(values.to(self._result_dtype))
