"""Counts at many thresholds at once: the points of a curve, and the best point that satisfies a condition."""

import torch
from torch import Tensor

from torchfit._types import Config, DTypeLike, TensorLike
from torchfit.functional.confusion import counts_by_bucket, ratio, thresholds_below
from torchfit.metrics._validation import integer, optional_integer, unit_interval
from torchfit.metrics.base import SUM_DTYPE
from torchfit.metrics.confusion import BinaryDecisionMetric
from torchfit.metrics.variable import Variable

_EDGE_EPSILON = 1e-7  # the outermost thresholds lie this much outside of 0 to 1, so that no score lies beyond them


def linspace_thresholds(count: int) -> list[float]:
    """Return `count` thresholds that divide 0 to 1 evenly; a single one lies in the middle."""
    if count == 1:
        return [0.5]
    inner = [position / (count - 1) for position in range(1, count - 1)]
    return [-_EDGE_EPSILON, *inner, 1.0 + _EDGE_EPSILON]


def is_linspace(thresholds: list[float]) -> bool:
    """Return whether thresholds divide 0 to 1 as `linspace_thresholds` does."""
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
    """The best value of one rate among the thresholds where another reaches a limit; 0 if none does."""

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
        specificity: from 0 to 1; the required fraction of negatives that score below the threshold.
        num_thresholds: how many thresholds divide 0 to 1. Default 200.
        class_id: evaluate this class of the last dimension only.
        name: default `"sensitivity_at_specificity"`.
        dtype: see `Metric`.
        from_logits: whether scores are logits.

    Raises:
        ValueError: for values out of range.

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
        sensitivity: from 0 to 1; the required fraction of positives that score above the threshold.
        num_thresholds: how many thresholds divide 0 to 1. Default 200.
        class_id: evaluate this class of the last dimension only.
        name: default `"specificity_at_sensitivity"`.
        dtype: see `Metric`.
        from_logits: whether scores are logits.

    Raises:
        ValueError: for values out of range.

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
        recall: from 0 to 1; the required fraction of positives that score above the threshold.
        num_thresholds: how many thresholds divide 0 to 1. Default 200.
        class_id: evaluate this class of the last dimension only.
        name: default `"precision_at_recall"`.
        dtype: see `Metric`.
        from_logits: whether scores are logits.

    Raises:
        ValueError: for values out of range.

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
        precision: from 0 to 1; the required fraction of predicted positives that are true positives.
        num_thresholds: how many thresholds divide 0 to 1. Default 200.
        class_id: evaluate this class of the last dimension only.
        name: default `"recall_at_precision"`.
        dtype: see `Metric`.
        from_logits: whether scores are logits.

    Raises:
        ValueError: for values out of range.

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
