"""Do labels, outputs and metrics belong together? Checked once, with the first batch."""

from collections.abc import Iterator

import torch
from torch import Tensor

from torchfit._types import TensorLike
from torchfit.losses.checks import LossTraits, loss_traits
from torchfit.metrics.base import Metric


def metric_problem(metric: object, loss: object, y_true: TensorLike, y_pred: TensorLike) -> str | None:
    """Return one line with the way out if a metric reads values that it does not mean, else `None`.

    That is: logits where it compares probabilities with a threshold, labels other than 0 and 1 (or -1
    and 1) of a binary metric, classes on another dimension than those of the loss, and labels that the loss ignores.
    This reads the values, which waits for the device: call it once, not at every step.

    Args:
        metric: a `Metric`; for anything else the result is `None`.
        loss: the loss beside it, anything that `compile(loss=)` takes, or `None`.
        y_true: labels `(batch, …)`.
        y_pred: outputs `(batch, …)`.

    >>> from torchfit.metrics import Precision
    >>> print(metric_problem(Precision(), None, torch.tensor([0, 1]), torch.tensor([-1.0, 2.0])))
    The metric precision expects probabilities, but the model puts out values outside [0, 1]. \
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
                f"The metric {metric.name} expects probabilities, but the model puts out values outside [0, 1]. Use "
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
