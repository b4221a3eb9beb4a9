"""Checks of arguments of several metrics, and of labels and outputs against the expectations of a metric."""

from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor

from torchfit._types import TensorLike
from torchfit._utils.errors import describe
from torchfit.functional.alignment import as_mask, require_mask
from torchfit.functional.classification import broadcast_weights
from torchfit.losses.checks import LossTraits, loss_traits
from torchfit.metrics.base import Metric

Choice = TypeVar("Choice")


def choice(argument: str, value: Choice, allowed: tuple[Choice, ...]) -> Choice:
    """Return `value` if it is allowed; case is ignored in names."""
    for choice in allowed:
        if value == choice or (isinstance(value, str) and value.lower() == str(choice).lower()):
            return choice
    raise ValueError(f"`{argument}` must be one of {allowed}. Received: {describe(value)}.")


def integer(argument: str, value: object, min_value: int) -> int:
    """Return an integer of at least `min_value`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < min_value:
        raise ValueError(f"`{argument}` must be an integer of at least {min_value}. Received: {describe(value)}.")
    return value


def optional_integer(argument: str, value: object, min_value: int) -> int | None:
    """Return `None` or an integer of at least `min_value`."""
    return None if value is None else integer(argument, value, min_value)


def unit_interval(argument: str, value: object) -> float:
    """Return a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"`{argument}` must be a number from 0 to 1. Received: {describe(value)}.")
    return value


def unit_intervals(argument: str, value: TensorLike) -> list[float]:
    """Return one or several numbers from 0 to 1 as a list."""
    values = list(value) if isinstance(value, (list, tuple)) or hasattr(value, "__len__") else [value]
    try:
        return [float(unit_interval(argument, item.item() if hasattr(item, "item") else item)) for item in values]
    except ValueError:
        raise ValueError(
            f"`{argument}` must be a number, or a list of numbers, from 0 to 1. Received: {describe(value)}."
        ) from None


def merge_weights(sample_weight: TensorLike, mask: TensorLike, values: Tensor) -> Tensor | None:
    """Return weights with the shape and dtype of `values (batch, …)`, 0 where the mask is false, or `None`.

    Weights and mask have the shape of `values` or of its first dimensions; sizes may also be 1.

    Raises:
        ValueError: If weights or mask do not fit.
    """
    weights = None if sample_weight is None else broadcast_weights(sample_weight, values)
    if mask is None:
        return weights
    kept = require_mask(as_mask(mask, values.device), values)
    if weights is None:
        return kept.to(values.dtype).expand_as(values)
    return torch.where(kept, weights, 0)


def weigh(values: Tensor, weights: Tensor | None) -> Tensor:
    """Return `values * weights`, and 0 where the weight is 0, even for NaN and infinity.

    >>> weigh(torch.tensor([1.0, float("nan")]), torch.tensor([2.0, 0.0])).tolist()
    [2.0, 0.0]
    """
    return values if weights is None else torch.where(weights != 0, values * weights, 0)


def metric_problem(metric: object, loss: object, y_true: TensorLike, y_pred: TensorLike) -> str | None:
    """Return a line with a hint if values are not those that a metric expects, else `None`.

    These are: logits that are compared with a probability threshold, labels other than 0 and 1 (or -1 and 1) of a
    binary metric, classes on another dimension than in the loss, and labels that the loss ignores. This reads the
    values, which synchronizes with the device: call it once, not at every step.

    Args:
        metric: A `Metric`; for anything else the result is `None`.
        loss: The loss of the same output, anything that `compile(loss=)` accepts, or `None`.
        y_true: Labels `(batch, …)`.
        y_pred: Outputs `(batch, …)`.

    >>> from torchfit.metrics import Precision
    >>> print(metric_problem(Precision(), None, torch.tensor([0, 1]), torch.tensor([-1.0, 2.0])))
    The metric precision expects probabilities, but the model outputs values outside [0, 1]. \
Use Precision(from_logits=True), or end the model with a sigmoid or softmax.
    """
    if not isinstance(metric, Metric) or not isinstance(y_true, Tensor) or not isinstance(y_pred, Tensor):
        return None
    if not y_true.numel() or not y_pred.numel() or "meta" in (y_true.device.type, y_pred.device.type):
        return None
    return next(_problems(metric, loss_traits(loss), y_true.detach(), y_pred.detach()), None)


def _problems(metric: Metric, traits: LossTraits, y_true: Tensor, y_pred: Tensor) -> Iterator[str]:
    if metric.expects_probabilities and traits.kind != "other":
        if traits.from_logits:
            yield (
                f"The metric {metric.name} expects probabilities, but the loss takes logits. Use "
                f"{type(metric).__name__}(from_logits=True)."
            )
        elif _exceeds_unit_interval(y_pred):
            yield (
                f"The metric {metric.name} expects probabilities, but the model outputs values outside [0, 1]. Use "
                f"{type(metric).__name__}(from_logits=True), or end the model with a sigmoid or softmax."
            )
    is_decision = metric.expects_binary_labels and traits.kind != "other" and y_true.numel() == y_pred.numel()
    if is_decision and _has_other_labels(metric, y_true):
        yield (
            f"The metric {metric.name} expects labels of 0 and 1, but `y` holds values above 1, which count as 1. For "
            "class indices use an output for each class and a metric of classes, such as SparseCategoricalAccuracy."
        )
    axis = getattr(metric, "axis", -1)
    if metric.has_class_axis and traits.is_multiclass and _differ(axis, traits.axis, y_pred.ndim):
        yield (
            f"The metric {metric.name} has the classes on dimension {axis}, but the loss has them on dimension "
            f"{traits.axis}. Pass axis={traits.axis} to the metric."
        )
    if metric.counts_every_label and y_true.ndim < y_pred.ndim and _is_ignored(traits, y_true):
        yield (
            f"The metric {metric.name} counts labels of {traits.ignore_class} as wrong, which the loss ignores. Pass "
            f"ignore_class={traits.ignore_class} to the metric."
        )


def _exceeds_unit_interval(y_pred: Tensor) -> bool:
    return y_pred.is_floating_point() and bool(((y_pred < 0) | (y_pred > 1)).any())


def _has_other_labels(metric: Metric, y_true: Tensor) -> bool:
    """Return whether labels are above 1, other than those that the metric ignores."""
    if y_true.dtype is torch.bool:
        return False
    ignored = getattr(metric, "ignore_class", None)
    others = y_true > 1
    return bool((others if ignored is None else others & (y_true != ignored)).any())


def _differ(axis: int, other: int, ndim: int) -> bool:
    return ndim > 2 and axis % ndim != other % ndim


def _is_ignored(traits: LossTraits, y_true: Tensor) -> bool:
    return traits.ignore_class is not None and bool((y_true == traits.ignore_class).any())
