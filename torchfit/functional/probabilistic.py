"""Formulas for probabilities and logits, per sample: cross-entropies, focal losses, divergences, CTC.

Probabilities are clipped to `[1e-7, 1 - 1e-7]` before their logarithm is taken. Those of mutually exclusive classes are
first divided by their sum, so that unnormalized scores are accepted as well. NaN stays NaN.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from torchfit._types import TensorLike
from torchfit._utils.compat import MEAN, NONE
from torchfit._utils.errors import describe
from torchfit._utils.tensors import as_tensor
from torchfit.functional.alignment import (
    align_class_indices,
    align_one_hot,
    align_pair,
    as_floating,
    check_has_vectors,
    detach_below,
    mean_per_sample,
    with_mask,
)

EPSILON = 1e-7
# torch ignores labels of -100 by default; here they are out of range like any other invalid label.
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
    # Via logits instead of F.binary_cross_entropy, which raises for NaN and is not allowed under autocast.
    return torch.binary_cross_entropy_with_logits(y_pred.logit(EPSILON), y_true, None, None, NONE)


def _half_precision_bce(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Compute it in half precision, where 1 - 1e-7 is 1: the logarithm is clamped to -100 as in torch."""
    y_pred = y_pred.clamp(EPSILON, 1.0 - EPSILON)
    negated = detach_below(-y_pred, torch.finfo(y_pred.dtype).eps / 2 - 1.0)
    return -(y_true * y_pred.log().clamp(min=-100) + (1 - y_true) * negated.log1p().clamp(min=-100))


def fused_binary_crossentropy(y_true: Tensor, y_pred: Tensor) -> Tensor | None:
    """Return the mean crossentropy of float32 probabilities over all values, or `None` for other shapes."""
    shape = y_pred.shape
    if y_true.shape != shape or 0 in shape:
        return None
    return torch.binary_cross_entropy_with_logits(y_pred.logit(EPSILON), y_true, None, None, MEAN)


def fused_binary_crossentropy_from_logits(y_true: Tensor, y_pred: Tensor) -> Tensor | None:
    """Return the mean crossentropy of logits over all values, in one kernel, or `None` for other shapes."""
    shape = y_pred.shape
    if y_true.shape != shape or 0 in shape:
        return None
    return torch.binary_cross_entropy_with_logits(y_pred, y_true, None, None, MEAN)


def smooth_binary(y_true: Tensor, label_smoothing: float) -> Tensor:
    """Move labels from 0 to 1 towards ½ by the fraction `label_smoothing`."""
    return y_true * (1.0 - label_smoothing) + 0.5 * label_smoothing if label_smoothing else y_true


def smooth_categorical(y_true: Tensor, label_smoothing: float, axis: int) -> Tensor:
    """Distribute the fraction `label_smoothing` of one-hot labels evenly over all classes."""
    if not label_smoothing:
        return y_true
    return y_true * (1.0 - label_smoothing) + label_smoothing / y_true.shape[axis]


def normalize_probs(y_pred: Tensor, axis: int = -1) -> Tensor:
    """Divide scores by their sum along `axis`, and clip them to `[1e-7, 1 - 1e-7]`."""
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

    `y_true` holds class indices from 0 to classes - 1 of any numeric dtype, `(batch, …)`, or with a dimension of size 1
    instead of the classes or at the end; `y_pred` holds probabilities `(batch, …, classes)`, or logits with
    `from_logits`. The result has the shape of `y_pred` without `axis`; where the label is `ignore_class`, it is 0 and
    masked in its `_keras_mask`. Labels are not checked, because that would synchronize with the device at every step:
    on the CPU, torch raises an `IndexError` for labels out of range.

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
    """Return the negative log-probability of each label, and 0 for the ignored label."""
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


def binary_focal_crossentropy(
    y_true: TensorLike,
    y_pred: TensorLike,
    apply_class_balancing: bool = False,
    alpha: float = 0.25,
    gamma: float = 2.0,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
) -> Tensor:
    """Return the binary crossentropy with every element weighted by `(1 - p_t)^gamma`, averaged over `axis`.

    `p_t` is the probability of the label. With `apply_class_balancing`, elements labelled 1 are also weighted by
    `alpha`, and those labelled 0 by `1 - alpha` (Lin et al., 2017, https://arxiv.org/abs/1708.02002).
    Shapes are those of `binary_crossentropy`. Logits go through a sigmoid first, which saturates.

    >>> round(binary_focal_crossentropy([[1.0]], [[0.5]]).item(), 4)
    0.1733
    """
    y_true, y_pred = align_pair(y_true, y_pred)
    y_true = smooth_binary(y_true, label_smoothing)
    if from_logits:
        y_pred = y_pred.sigmoid()
    other = y_true * (1 - y_pred) + (1 - y_true) * y_pred
    values = _modulation(other, gamma) * elementwise_bce(y_true, y_pred, from_logits=False)
    if apply_class_balancing:
        values = values * (y_true * alpha + (1 - y_true) * (1 - alpha))
    return mean_per_sample(values, axis)


def categorical_focal_crossentropy(
    y_true: TensorLike,
    y_pred: TensorLike,
    alpha: float | Sequence[float] = 0.25,
    gamma: float = 2.0,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
) -> Tensor:
    """Return the sum of `-alpha · (1 - p)^gamma · t · log p` over the classes along `axis`.

    `alpha` is one number or one for each class of the last dimension (Lin et al., 2017). Shapes are those of
    `categorical_crossentropy`.

    >>> round(categorical_focal_crossentropy([[0.0, 1.0]], [[0.5, 0.5]]).item(), 4)
    0.0433
    """
    y_true, y_pred = align_one_hot(y_true, y_pred)
    check_has_vectors("categorical_focal_crossentropy", y_pred, "(batch, …, classes)", USE_BINARY)
    y_true = smooth_categorical(y_true, label_smoothing, axis)
    if from_logits:
        y_pred = y_pred.softmax(axis)
    y_pred = normalize_probs(y_pred, axis)
    balance = alpha if isinstance(alpha, float) else as_tensor(alpha, y_pred.dtype, y_pred.device)
    values: Tensor = (y_true * y_pred.log() * _modulation(1 - y_pred, gamma) * balance).sum(axis).neg()
    return values


def categorical_generalized_cross_entropy(y_true: TensorLike, y_pred: TensorLike, q: float) -> Tensor:
    """Return `(1 - p[y_true]^q) / q`, between the crossentropy (`q` near 0) and the absolute error (`q` = 1).

    `y_true` holds class indices `(batch, …)` or `(batch, …, 1)`, `y_pred` probabilities `(batch, …, classes)`. It
    is more robust to wrong labels than crossentropy (Zhang and Sabuncu, 2018, https://arxiv.org/abs/1805.07836).

    >>> categorical_generalized_cross_entropy([1], [[0.75, 0.25]], q=0.5).item()
    1.0
    """
    y_true, y_pred = align_class_indices(y_true, y_pred)
    picked = y_pred.gather(-1, y_true.unsqueeze(-1)).squeeze(-1)
    # At 0 the slope of the power is infinite, but after a softmax the gradient tends to 0 there.
    values: Tensor = (1 - detach_below(picked, torch.finfo(picked.dtype).tiny).pow(q)) / q
    return values


def _modulation(missing: Tensor, gamma: float) -> Tensor:
    """Return `missing^gamma`, the focal weight of an element whose label has the probability `1 - missing`.

    Below 1e-7, where the crossentropy is constant, a power below 1 has no gradient either: at 0 it would be infinite.
    """
    return (missing if gamma >= 1 else detach_below(missing, EPSILON)).pow(gamma)


def kl_divergence(y_true: TensorLike, y_pred: TensorLike) -> Tensor:
    """Return the sum of `y_true · log(y_true / y_pred)` over the last dimension (Kullback and Leibler, 1951).

    Both are assumed to be probabilities and are clipped to `[1e-7, 1]`.

    >>> kl_divergence([[0.5, 0.5]], [[0.5, 0.5]]).tolist()
    [0.0]
    """
    y_true, y_pred = align_pair(y_true, y_pred)
    check_has_vectors("kl_divergence", y_pred, "(batch, …, values)", "Single values are no distribution.")
    y_true, y_pred = y_true.clamp(EPSILON, 1.0), y_pred.clamp(EPSILON, 1.0)
    values: Tensor = (y_true * (y_true / y_pred).log()).sum(-1)
    return values


def poisson(y_true: TensorLike, y_pred: TensorLike) -> Tensor:
    """Return the mean of `y_pred - y_true · log(y_pred + 1e-7)` over the last dimension.

    It is the negative log-likelihood of counts `y_true` under Poisson rates `y_pred`, up to a constant.

    >>> poisson([[0.0, 0.0]], [[1.0, 3.0]]).tolist()
    [2.0]
    """
    y_true, y_pred = align_pair(y_true, y_pred)
    return mean_per_sample(y_pred - y_true * (y_pred + EPSILON).log())


BLANK = 0


def ctc(y_true: TensorLike, y_pred: TensorLike) -> Tensor:
    """Return `(batch,)`: minus the log-probability of each label sequence, over all its alignments.

    Connectionist temporal classification (Graves et al., 2006).

    Args:
        y_true: Label sequences `(batch, labels)` of class indices from 1, padded with 0, which is the blank.
        y_pred: Logits `(batch, steps, classes)`; all steps count.

    A sequence too long for the steps gives infinity, and no gradient. Raises `ValueError` for other shapes.

    >>> import math
    >>> round(ctc([[1]], [[[0.0, 0.0]]]).item() / math.log(2.0), 4)
    1.0
    """
    y_pred = as_floating(y_pred)
    labels: Tensor = as_tensor(y_true, device=y_pred.device).long()
    if y_pred.dim() != 3 or labels.dim() != 2 or labels.shape[0] != y_pred.shape[0]:
        raise ValueError(
            "ctc: y_pred must be logits (batch, steps, classes) and y_true class indices (batch, labels). "
            f"Received: y_pred, {describe(y_pred)}, and y_true, {describe(labels)}."
        )
    rows, steps, _ = y_pred.shape
    is_label = labels != BLANK
    times = torch.full((rows,), steps, dtype=torch.long, device=y_pred.device)
    logarithm = y_pred.log_softmax(-1).transpose(0, 1)
    lengths = is_label.sum(-1)
    values = F.ctc_loss(logarithm, labels, times, lengths, blank=BLANK, reduction="none", zero_infinity=True)
    repeats = ((labels[:, 1:] == labels[:, :-1]) & is_label[:, 1:]).sum(-1)  # there must be a blank between them
    return values.masked_fill(lengths + repeats > steps, torch.inf)
