"""Crossentropies, sample by sample, of probabilities and of logits.

Probabilities are limited to `[1e-7, 1 - 1e-7]` before their logarithm is taken. Those of mutually exclusive
classes are first divided by their sum, so that unnormalised scores count as well. NaN stays NaN.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from torchfit._types import TensorLike
from torchfit._utils.compat import MEAN, NONE
from torchfit.functional.alignment import (
    align_class_indices,
    align_one_hot,
    align_pair,
    check_has_vectors,
    detach_below,
    mean_per_sample,
)
from torchfit.functional.masks import with_mask

EPSILON = 1e-7
# Torch leaves out labels of -100 unless told otherwise, here they are as wrong as any other number out of range.
NO_CLASS = -(2**62)
USE_BINARY = "For one output and labels of 0 and 1, use binary_crossentropy."


def binary_crossentropy(
    y_true: TensorLike, y_pred: TensorLike, from_logits: bool = False, label_smoothing: float = 0.0, axis: int = -1
) -> Tensor:
    """Return the mean of `-(t·log p + (1 - t)·log(1 - p))` over `axis`.

    `y_true` holds labels from 0 to 1 and `y_pred` probabilities, or logits with `from_logits`, both
    `(batch, …, values)`; the result has the shape without `axis`. A vector `(batch,)` gives `(batch,)`.
    `label_smoothing` moves the labels towards ½.

    >>> binary_crossentropy([[0.0, 1.0]], [[0.5, 0.5]]).item()  # doctest: +ELLIPSIS
    0.6931...
    """
    y_true, y_pred = align_pair(y_true, y_pred)
    return mean_per_sample(elementwise_bce(smooth_binary(y_true, label_smoothing), y_pred, from_logits), axis)


def elementwise_bce(y_true: Tensor, y_pred: Tensor, from_logits: bool) -> Tensor:
    """Return `-(t·log p + (1 - t)·log(1 - p))` for every element."""
    if from_logits:
        return torch.binary_cross_entropy_with_logits(y_pred, y_true, None, None, NONE)
    if y_pred.dtype.itemsize < 4:
        return _half_precision_bce(y_true, y_pred)
    # Through the logits rather than F.binary_cross_entropy: that stops at NaN, and autocast forbids it.
    return torch.binary_cross_entropy_with_logits(y_pred.logit(EPSILON), y_true, None, None, NONE)


def _half_precision_bce(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """In half precision 1 - 1e-7 is 1: the logarithm is limited to -100, as torch does it, without a gradient at 1."""
    y_pred = y_pred.clamp(EPSILON, 1.0 - EPSILON)
    negated = detach_below(-y_pred, torch.finfo(y_pred.dtype).eps / 2 - 1.0)
    return -(y_true * y_pred.log().clamp(min=-100) + (1 - y_true) * negated.log1p().clamp(min=-100))


def fused_binary_crossentropy(y_true: Tensor, y_pred: Tensor) -> Tensor | None:
    """Return the crossentropy of float32 probabilities, averaged over everything; `None` for other shapes."""
    shape = y_pred.shape
    if y_true.shape != shape or 0 in shape:
        return None
    return torch.binary_cross_entropy_with_logits(y_pred.logit(EPSILON), y_true, None, None, MEAN)


def fused_binary_crossentropy_from_logits(y_true: Tensor, y_pred: Tensor) -> Tensor | None:
    """Return the crossentropy of logits, averaged over everything, in one kernel; `None` for other shapes."""
    shape = y_pred.shape
    if y_true.shape != shape or 0 in shape:
        return None
    return torch.binary_cross_entropy_with_logits(y_pred, y_true, None, None, MEAN)


def smooth_binary(y_true: Tensor, label_smoothing: float) -> Tensor:
    """Move labels from 0 to 1 towards ½ by the share `label_smoothing`."""
    return y_true * (1.0 - label_smoothing) + 0.5 * label_smoothing if label_smoothing else y_true


def smooth_categorical(y_true: Tensor, label_smoothing: float, axis: int) -> Tensor:
    """Spread the share `label_smoothing` of one-hot labels evenly over all classes."""
    if not label_smoothing:
        return y_true
    return y_true * (1.0 - label_smoothing) + label_smoothing / y_true.shape[axis]


def normalize_probs(y_pred: Tensor, axis: int = -1) -> Tensor:
    """Divide scores by their sum along `axis` and limit them to `[1e-7, 1 - 1e-7]`."""
    return (y_pred / y_pred.sum(axis, keepdim=True)).clamp(EPSILON, 1.0 - EPSILON)


def categorical_crossentropy(
    y_true: TensorLike, y_pred: TensorLike, from_logits: bool = False, label_smoothing: float = 0.0, axis: int = -1
) -> Tensor:
    """Return the sum of `-t · log p` over the classes along `axis`.

    `y_true` holds one-hot or soft labels and `y_pred` probabilities, or logits with `from_logits`, both
    `(batch, …, classes)`; the result has the shape without `axis`.

    >>> categorical_crossentropy([[0.0, 1.0]], [[0.5, 0.5]]).item()  # doctest: +ELLIPSIS
    0.6931...
    """
    y_true, y_pred = align_one_hot(y_true, y_pred)
    check_has_vectors("categorical_crossentropy", y_pred, "(batch, …, classes)", USE_BINARY)
    y_true = smooth_categorical(y_true, label_smoothing, axis)
    logarithm = y_pred.log_softmax(axis) if from_logits else normalize_probs(y_pred, axis).log()
    values: Tensor = (y_true * logarithm).sum(axis).neg()
    return values


def fused_categorical_crossentropy(y_true: Tensor, y_pred: Tensor) -> Tensor | None:
    """Return the crossentropy of probabilities `(batch, classes)`, averaged; `None` for other shapes."""
    shape = y_pred.shape
    if y_true.shape != shape or len(shape) != 2 or 0 in shape:
        return None
    return (normalize_probs(y_pred).log() * y_true).sum().div(-shape[0])


def fused_categorical_crossentropy_from_logits(y_true: Tensor, y_pred: Tensor) -> Tensor | None:
    """Return the crossentropy of logits `(batch, classes)`, averaged, in one kernel; `None` for other shapes."""
    shape = y_pred.shape
    if y_true.shape != shape or len(shape) != 2 or 0 in shape:
        return None
    return F.cross_entropy(y_pred, y_true)


def sparse_categorical_crossentropy(
    y_true: TensorLike, y_pred: TensorLike, from_logits: bool = False, ignore_class: int | None = None, axis: int = -1
) -> Tensor:
    """Return `-log p[y_true]`, with the classes along `axis`.

    `y_true` holds class indices from 0 to classes - 1 of any number kind, `(batch, …)`, or with a dimension of size
    1 in place of the classes or at the end; `y_pred` holds probabilities `(batch, …, classes)`, or logits with
    `from_logits`. The result has the shape of `y_pred` without `axis`; where the label is `ignore_class`, it is 0, and
    its `_keras_mask` says so. Labels outside the range are not looked for (that would wait for the device at every
    step): torch raises `IndexError` for them on the CPU.

    >>> sparse_categorical_crossentropy([1], [[0.5, 0.5]]).item()  # doctest: +ELLIPSIS
    0.6931...
    """
    y_true, y_pred = align_class_indices(y_true, y_pred, axis)
    logarithm = y_pred.log_softmax(axis) if from_logits else normalize_probs(y_pred, axis).log()
    if ignore_class is None:
        return _gather_log_probs(logarithm, y_true, NO_CLASS, axis)
    values = _gather_log_probs(logarithm, y_true, ignore_class, axis)
    return with_mask(values, y_true != ignore_class)


def _gather_log_probs(logarithm: Tensor, labels: Tensor, ignored: int, axis: int) -> Tensor:
    """Return minus the logarithm of each label's class, and 0 for the ignored label."""
    if logarithm.dim() <= 2:
        return F.nll_loss(logarithm, labels, ignore_index=ignored, reduction="none")
    rows = logarithm.movedim(axis, -1).reshape(-1, logarithm.shape[axis])
    return F.nll_loss(rows, labels.reshape(-1), ignore_index=ignored, reduction="none").view(labels.shape)


def fused_sparse_categorical_crossentropy(y_true: Tensor, y_pred: Tensor) -> Tensor | None:
    """Return the crossentropy of probabilities `(batch, classes)` and labels `(batch,)`, averaged, else `None`."""
    shape = y_pred.shape
    if len(shape) != 2 or y_true.shape != shape[:1] or 0 in shape:
        return None
    return F.nll_loss(normalize_probs(y_pred).log(), y_true, ignore_index=NO_CLASS)


def fused_sparse_categorical_crossentropy_from_logits(y_true: Tensor, y_pred: Tensor) -> Tensor | None:
    """Return the crossentropy of logits `(batch, classes)` and labels `(batch,)`, in one kernel, else `None`."""
    shape = y_pred.shape
    if len(shape) != 2 or y_true.shape != shape[:1] or 0 in shape:
        return None
    return F.cross_entropy(y_pred, y_true, ignore_index=NO_CLASS)
