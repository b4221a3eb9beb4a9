"""Metrics computed from many thresholds: the area under a curve, and values at a point of a curve."""

from collections.abc import Mapping

import torch
from torch import Tensor

from torchfit._types import Config, DTypeLike, TensorLike
from torchfit._utils.errors import describe
from torchfit._utils.tensors import as_tensor
from torchfit.functional.classification import counts_by_bucket, ratio, thresholds_below
from torchfit.metrics.base import SUM_DTYPE, Variable
from torchfit.metrics.checks import choice, integer, optional_integer, unit_interval, unit_intervals
from torchfit.metrics.confusion import BinaryDecisionMetric

_EDGE_EPSILON = 1e-7  # how far the outermost thresholds are outside [0, 1], so that all scores are between them


def linspace_thresholds(count: int) -> list[float]:
    """Return `count` evenly spaced thresholds from 0 to 1; a single one is 0.5."""
    if count == 1:
        return [0.5]
    inner = [position / (count - 1) for position in range(1, count - 1)]
    return [-_EDGE_EPSILON, *inner, 1.0 + _EDGE_EPSILON]


def is_linspace(thresholds: list[float]) -> bool:
    """Return whether thresholds are those of `linspace_thresholds`."""
    even = linspace_thresholds(len(thresholds))
    return len(thresholds) > 2 and all(abs(a - b) < _EDGE_EPSILON for a, b in zip(thresholds, even))


class Curve(BinaryDecisionMetric):
    """The four counts at each of many thresholds, `(thresholds,)`, or `(thresholds, labels)` per label."""

    mode = "max"

    def __init__(self, thresholds: list[float], name: str | None, dtype: DTypeLike, from_logits: bool):
        super().__init__(name=name, dtype=dtype)
        self.from_logits = bool(from_logits)
        self._is_linspace = is_linspace(thresholds)
        self.register_buffer("_threshold_tensor", torch.tensor(thresholds, dtype=self._dtype), persistent=False)
        self._threshold_tensor: Tensor
        self.num_thresholds = len(thresholds)
        self._thresholds = thresholds

    @property
    def expects_probabilities(self) -> bool:  # type: ignore[override]
        """Whether scores are compared with probabilities."""
        return not self.from_logits

    @property
    def thresholds(self) -> list[float]:
        """The thresholds, in ascending order, with the ends a little outside of 0 to 1."""
        return list(self._thresholds)

    def _make_counters(self, *labels: int) -> None:
        shape = (self.num_thresholds, *labels)
        self.true_positives = self._counter(shape, "true_positives")
        self.false_positives = self._counter(shape, "false_positives")
        self.true_negatives = self._counter(shape, "true_negatives")
        self.false_negatives = self._counter(shape, "false_negatives")

    def _counter(self, shape: tuple[int, ...], name: str) -> Variable:
        return self.add_weight(shape, dtype=SUM_DTYPE, name=name)

    def _add_counts(self, labels: Tensor, y_pred: Tensor, weights: Tensor | None) -> None:
        """Add one batch, of the shape `(samples, columns)` with a column per label, or one."""
        below = thresholds_below(y_pred, self._threshold_tensor, self._is_linspace)
        counts = counts_by_bucket(labels, below, self.num_thresholds, weights)
        variables = (self.true_positives, self.false_positives, self.true_negatives, self.false_negatives)
        for variable, count in zip(variables, counts):
            variable.add_(count.reshape(variable.shape))


class _SensitivitySpecificityBase(Curve):
    """Base class: the best value of one rate among the thresholds at which another rate reaches a limit, or 0."""

    _condition: str

    def __init__(
        self,
        value: object,
        num_thresholds: object,
        class_id: object,
        name: str | None,
        dtype: DTypeLike,
        from_logits: bool,
    ):
        self._value = unit_interval(self._condition, value)
        super().__init__(linspace_thresholds(integer("num_thresholds", num_thresholds, 1)), name, dtype, from_logits)
        self.class_id = self._class_id = optional_integer("class_id", class_id, 0)
        self._make_counters()

    def update_state(self, y_true: TensorLike, y_pred: TensorLike, sample_weight: TensorLike = None) -> None:
        """Add one batch: labels and scores of one shape `(batch, …)`."""
        labels, y_pred, weights = self._samples(y_true, y_pred, sample_weight)
        column = None if weights is None else weights.reshape(-1, 1)
        self._add_counts(labels.reshape(-1, 1), y_pred.reshape(-1, 1), column)

    def _best(self, rate: Tensor, where: Tensor) -> Tensor:
        return torch.where(where.to(self._result_dtype) >= self._value, rate, 0.0).max().to(self._result_dtype)

    def _sensitivity(self) -> Tensor:
        return ratio(self.true_positives, self.true_positives + self.false_negatives)

    def _specificity(self) -> Tensor:
        return ratio(self.true_negatives, self.true_negatives + self.false_positives)

    def _precision(self) -> Tensor:
        return ratio(self.true_positives, self.true_positives + self.false_positives)

    def get_config(self) -> Config:
        """Return the constructor's arguments."""
        config = {"class_id": self.class_id, "num_thresholds": self.num_thresholds}
        return {**super().get_config(), **config, self._condition: self._value}


class SensitivityAtSpecificity(_SensitivitySpecificityBase):
    """Best sensitivity (recall) among the thresholds with at least a given specificity; 0 if there is none.

    Args:
        specificity: From 0 to 1; the required fraction of negatives that score below the threshold.
        num_thresholds: How many thresholds divide 0 to 1. Default 200.
        class_id: Evaluate this class of the last dimension only.
        name: Default `"sensitivity_at_specificity"`.
        dtype: See `Metric`.
        from_logits: Whether scores are logits.

    Raises:
        ValueError: For values out of range.

    >>> SensitivityAtSpecificity(0.5)([0, 0, 0, 1, 1], [0, 0.3, 0.8, 0.3, 0.8]).item()
    0.5
    """

    _condition = "specificity"

    def __init__(
        self,
        specificity: float,
        num_thresholds: int = 200,
        class_id: int | None = None,
        name: str | None = None,
        dtype: DTypeLike = None,
        from_logits: bool = False,
    ):
        super().__init__(specificity, num_thresholds, class_id, name, dtype, from_logits)
        self.specificity = specificity

    def result(self) -> Tensor:
        """Return the sensitivity, a scalar."""
        return self._best(self._sensitivity(), where=self._specificity())


class SpecificityAtSensitivity(_SensitivitySpecificityBase):
    """Best specificity among the thresholds with at least a given sensitivity (recall); 0 if there is none.

    Args:
        sensitivity: From 0 to 1; the required fraction of positives that score above the threshold.
        num_thresholds: How many thresholds divide 0 to 1. Default 200.
        class_id: Evaluate this class of the last dimension only.
        name: Default `"specificity_at_sensitivity"`.
        dtype: See `Metric`.
        from_logits: Whether scores are logits.

    Raises:
        ValueError: For values out of range.

    >>> round(SpecificityAtSensitivity(0.5)([0, 0, 0, 1, 1], [0, 0.3, 0.8, 0.3, 0.8]).item(), 4)
    0.6667
    """

    _condition = "sensitivity"

    def __init__(
        self,
        sensitivity: float,
        num_thresholds: int = 200,
        class_id: int | None = None,
        name: str | None = None,
        dtype: DTypeLike = None,
        from_logits: bool = False,
    ):
        super().__init__(sensitivity, num_thresholds, class_id, name, dtype, from_logits)
        self.sensitivity = sensitivity

    def result(self) -> Tensor:
        """Return the specificity, a scalar."""
        return self._best(self._specificity(), where=self._sensitivity())


class PrecisionAtRecall(_SensitivitySpecificityBase):
    """Best precision among the thresholds with at least a given recall; 0 if there is none.

    Args:
        recall: From 0 to 1; the required fraction of positives that score above the threshold.
        num_thresholds: How many thresholds divide 0 to 1. Default 200.
        class_id: Evaluate this class of the last dimension only.
        name: Default `"precision_at_recall"`.
        dtype: See `Metric`.
        from_logits: Whether scores are logits.

    Raises:
        ValueError: For values out of range.

    >>> PrecisionAtRecall(0.5)([0, 0, 0, 1, 1], [0, 0.3, 0.8, 0.3, 0.8]).item()
    0.5
    """

    _condition = "recall"

    def __init__(
        self,
        recall: float,
        num_thresholds: int = 200,
        class_id: int | None = None,
        name: str | None = None,
        dtype: DTypeLike = None,
        from_logits: bool = False,
    ):
        super().__init__(recall, num_thresholds, class_id, name, dtype, from_logits)
        self.recall = recall

    def result(self) -> Tensor:
        """Return the precision, a scalar."""
        return self._best(self._precision(), where=self._sensitivity())


class RecallAtPrecision(_SensitivitySpecificityBase):
    """Best recall among the thresholds with at least a given precision; 0 if there is none.

    Args:
        precision: From 0 to 1; the required fraction of predicted positives that are true positives.
        num_thresholds: How many thresholds divide 0 to 1. Default 200.
        class_id: Evaluate this class of the last dimension only.
        name: Default `"recall_at_precision"`.
        dtype: See `Metric`.
        from_logits: Whether scores are logits.

    Raises:
        ValueError: For values out of range.

    >>> RecallAtPrecision(0.8)([0, 0, 1, 1], [0, 0.5, 0.3, 0.9]).item()
    0.5
    """

    _condition = "precision"

    def __init__(
        self,
        precision: float,
        num_thresholds: int = 200,
        class_id: int | None = None,
        name: str | None = None,
        dtype: DTypeLike = None,
        from_logits: bool = False,
    ):
        super().__init__(precision, num_thresholds, class_id, name, dtype, from_logits)
        self.precision = precision

    def result(self) -> Tensor:
        """Return the recall, a scalar."""
        return self._best(self._sensitivity(), where=self._precision())


_CURVES = ("ROC", "PR", "PRGAIN")
_SUMS = ("interpolation", "majoring", "minoring")


class AUC(Curve):
    """Area under the ROC curve, the precision-recall curve or the precision-recall-gain curve.

    The curve is approximated with a fixed number of thresholds, so that memory does not grow with the samples; more
    thresholds give a more accurate area.

    Args:
        num_thresholds: How many thresholds divide 0 to 1, at least 2. Default 200.
        curve: `"ROC"` (default), `"PR"` or `"PRGAIN"` (Flach and Kull, 2015).
        summation_method: `"interpolation"` (default; trapezoids, for `"PR"` the interpolation of Davis and
            Goadrich, 2006), or a sum of bars as high as their lower (`"minoring"`) or higher (`"majoring"`) side.
        name: Default `"auc"`.
        dtype: See `Metric`.
        thresholds: Thresholds from 0 to 1 to use instead of evenly spaced ones; the ends are added.
        multi_label: Whether to average the areas of the columns of `(batch, labels)`, instead of pooling all elements.
        num_labels: Number of columns; by default that of the first batch.
        label_weights: Weight of each column, in the average or, without `multi_label`, of its elements.
        from_logits: Whether scores are logits.

    Raises:
        ValueError: For values out of range, and if `label_weights` are not as many as `num_labels`.

    `update_state(y_true, y_pred, sample_weight=None)`: labels, those above one half being positive, and scores from 0
    to 1, `(batch, …)`, with `multi_label` `(batch, labels)`.

    >>> AUC(num_thresholds=3)([0, 0, 1, 1], [0, 0.5, 0.3, 0.9]).item()
    0.75
    """

    def __init__(
        self,
        num_thresholds: int = 200,
        curve: str = "ROC",
        summation_method: str = "interpolation",
        name: str | None = None,
        dtype: DTypeLike = None,
        thresholds: TensorLike = None,
        multi_label: bool = False,
        num_labels: int | None = None,
        label_weights: TensorLike = None,
        from_logits: bool = False,
    ):
        super().__init__(_with_end_points(num_thresholds, thresholds), name, dtype, from_logits)
        self.curve: str = choice("curve", curve, _CURVES)
        self.summation_method: str = choice("summation_method", summation_method, _SUMS)
        self.multi_label = bool(multi_label)
        self.num_labels = optional_integer("num_labels", num_labels, 1)
        self._given_thresholds = thresholds
        self.label_weights = _checked_weights(label_weights, self.num_labels if multi_label else None)
        weights = torch.tensor(1.0 if self.label_weights is None else self.label_weights, dtype=self._dtype)
        self.register_buffer("_label_weights", weights, persistent=False)
        self._label_weights: Tensor
        if not multi_label:
            self._make_counters()
        elif self.num_labels:
            self._make_counters(self.num_labels)

    def build(self, y_true: TensorLike, y_pred: TensorLike) -> None:
        """Create the counters for the labels of the first batch."""
        if not self._own_variables():
            self._make_counters(as_tensor(y_pred).shape[-1])
            self.to(as_tensor(y_pred).device)

    def _build_from_state(self, state_dict: Mapping[str, Tensor], prefix: str) -> None:
        saved = state_dict.get(prefix + "true_positives")
        if saved is not None and not self._own_variables():
            self._make_counters(*saved.shape[1:])

    def update_state(self, y_true: TensorLike, y_pred: TensorLike, sample_weight: TensorLike = None) -> None:
        """Add one batch."""
        labels, y_pred, weights = self._samples(y_true, y_pred, sample_weight)
        self._check_labels(y_pred)
        self.build(labels, y_pred)
        if y_pred.device != self.true_positives.device:
            self.to(y_pred.device)
        if self.label_weights is not None and not self.multi_label:
            given = self._label_weights.expand_as(y_pred)
            weights = given if weights is None else weights * given
        self._add_counts(*(self._one_column(part) for part in (labels, y_pred, weights)))

    def _check_labels(self, y_pred: Tensor) -> None:
        if self.multi_label and y_pred.shape[1:] != (self.num_labels or y_pred.shape[-1],):
            raise ValueError(
                f"`y_pred` must be (batch, {self.num_labels or 'labels'}) with multi_label=True. "
                f"Received: {describe(y_pred)}."
            )

    def _one_column(self, part: TensorLike) -> TensorLike:
        return part if part is None or self.multi_label else part.reshape(-1, 1)

    def result(self) -> Tensor:
        """Return the area, a scalar; 0 before the first batch of an unknown number of labels."""
        if not self._own_variables():
            return self._threshold_tensor.new_zeros(())
        areas = self._areas()
        if not self.multi_label:
            area = areas.reshape(())
        elif self.label_weights is None:
            area = areas.mean()
        else:
            area = ratio((areas * self._label_weights).sum(), self._label_weights.sum())
        return area.to(self._result_dtype)

    def _areas(self) -> Tensor:
        """Return the area for each label."""
        if self.curve == "PR" and self.summation_method == "interpolation":
            return self._interpolated_precision()
        x, y = {"ROC": self._roc, "PR": self._precision_recall, "PRGAIN": self._gains}[self.curve]()
        left, right = y[:-1], y[1:]
        if self.summation_method == "interpolation":
            heights = (left + right) / 2
        else:
            pick = torch.minimum if self.summation_method == "minoring" else torch.maximum
            heights = pick(left, right)
        return ((x[:-1] - x[1:]) * heights).sum(0)

    def _roc(self) -> tuple[Tensor, Tensor]:
        negatives = self.false_positives + self.true_negatives
        return ratio(self.false_positives, negatives), self._recall()

    def _precision_recall(self) -> tuple[Tensor, Tensor]:
        return self._recall(), ratio(self.true_positives, self.true_positives + self.false_positives)

    def _recall(self) -> Tensor:
        return ratio(self.true_positives, self.true_positives + self.false_negatives)

    def _gains(self) -> tuple[Tensor, Tensor]:
        """Return recall gain and precision gain: 1 - odds · errors / true positives."""
        positives = self.true_positives + self.false_negatives
        odds = ratio(positives, self.false_positives + self.true_negatives)
        recall_gain = 1.0 - odds * ratio(self.false_negatives, self.true_positives)
        precision_gain = 1.0 - odds * ratio(self.false_positives, self.true_positives)
        return torch.where(self.true_positives > 0, recall_gain, 0.0).clamp(min=0.0), precision_gain

    def _interpolated_precision(self) -> Tensor:
        """Integrate precision over recall with the true positives linear in the found between two thresholds.

        With TP = s·P + i on a segment, its share is s·(ΔTP + i·log(P₁ / P₂)) / positives.
        """
        found = self.true_positives + self.false_positives
        gained = self.true_positives[:-1] - self.true_positives[1:]
        slope = ratio(gained, (found[:-1] - found[1:]).clamp(min=0))
        intercept = self.true_positives[1:] - slope * found[1:]
        both = (found[:-1] > 0) & (found[1:] > 0)
        growth = torch.where(both, ratio(found[:-1], found[1:].clamp(min=0)), 1.0)
        positives = (self.true_positives[1:] + self.false_negatives[1:]).clamp(min=0)
        return ratio(slope * (gained + intercept * growth.log()), positives).sum(0)

    def get_config(self) -> Config:
        """Return the constructor's arguments."""
        config = {
            **super().get_config(),
            "num_thresholds": self.num_thresholds,
            "curve": self.curve,
            "summation_method": self.summation_method,
            "multi_label": self.multi_label,
            "num_labels": self.num_labels,
            "label_weights": self.label_weights,
            "from_logits": self.from_logits,
        }
        given = self._given_thresholds
        return config if given is None else {**config, "thresholds": sorted(float(limit) for limit in given)}


def _with_end_points(num_thresholds: object, thresholds: TensorLike) -> list[float]:
    if thresholds is None:
        return linspace_thresholds(integer("num_thresholds", num_thresholds, 2))
    ends = linspace_thresholds(2)
    return [ends[0], *sorted(unit_intervals("thresholds", thresholds)), ends[1]]


def _checked_weights(label_weights: TensorLike, labels: int | None) -> list[float] | None:
    if label_weights is None:
        return None
    weights = [float(weight) for weight in label_weights]
    if any(weight < 0 for weight in weights):
        raise ValueError("`label_weights` must not be negative.")
    if labels is not None and len(weights) != labels:
        raise ValueError(f"`label_weights` must be as many as num_labels={labels}. Received: {len(weights)}.")
    return weights
