"""Overlap between masks. Labels and predictions in [0, 1] have one shape; the dimensions `axis` are summed over."""

from collections.abc import Sequence

from torch import Tensor

from torchfit._types import TensorLike
from torchfit.functional.alignment import align_pair

EPSILON = 1e-7
Axes = int | Sequence[int] | None


def dice(y_true: TensorLike, y_pred: TensorLike, axis: Axes = None) -> Tensor:
    """Return `1 - 2·Σ t·p / (Σ t + Σ p)`: 0 where prediction and mask are the same, 1 where they do not meet.

    The sums go over the dimensions `axis`, over everything by default; the others are left (Dice, 1945). Two
    empty masks give 1.

    >>> dice([[0.0, 1.0]], [[1.0, 1.0]]).item()  # doctest: +ELLIPSIS
    0.333...
    """
    y_true, y_pred = align_pair(y_true, y_pred)
    axes = _axes(axis)
    overlap = (y_true * y_pred).sum(axes)
    values: Tensor = 1 - 2 * overlap / (y_true.sum(axes) + y_pred.sum(axes) + EPSILON)
    return values


def tversky(y_true: TensorLike, y_pred: TensorLike, alpha: float = 0.5, beta: float = 0.5, axis: Axes = None) -> Tensor:
    """Return `1 - TP / (TP + alpha·FP + beta·FN)` of soft counts (Salehi et al., 2017, arXiv:1706.05721).

    `alpha` weighs false positives and `beta` false negatives, as in the paper and in Keras from 3.16 on (earlier
    versions had the two the other way round). With ½ and ½ it is `dice`, with 1 and 1 one minus intersection over
    union. The sums go over the dimensions `axis`, over everything by default.

    >>> tversky([[0.0, 1.0]], [[1.0, 1.0]], alpha=1.0, beta=1.0).item()
    0.5
    """
    y_true, y_pred = align_pair(y_true, y_pred)
    axes = _axes(axis)
    hit = (y_true * y_pred).sum(axes)
    false_positives = ((1 - y_true) * y_pred).sum(axes)
    false_negatives = (y_true * (1 - y_pred)).sum(axes)
    values: Tensor = 1 - hit / (hit + alpha * false_positives + beta * false_negatives + EPSILON)
    return values


def _axes(axis: Axes) -> int | tuple[int, ...] | None:
    return axis if axis is None or isinstance(axis, int) else tuple(axis)
