"""How far predictions vary together with targets."""

import torch
from torch import Tensor

from torchfit._types import TensorLike
from torchfit._utils.dtypes import sum_dtype
from torchfit.functional.alignment import align_pair

Axes = int | tuple[int, ...] | None

EPSILON = 1e-7


def pearson_correlation(y_true: TensorLike, y_pred: TensorLike, axis: Axes = -1) -> Tensor:
    """Return the linear correlation along `axis`: 1 for any rising line, -1 for any falling one.

    `y_true` and `y_pred` have one shape `(batch, …, values)`, the result has it without `axis`. Values that do not
    vary have no correlation and give NaN (Pearson, 1895).

    >>> round(pearson_correlation([[0.0, 1.0, 2.0]], [[1.0, 3.0, 5.0]]).item(), 4)
    1.0
    """
    (y_true, y_pred), dtype = _exact_pair(y_true, y_pred)
    y_true, y_pred = _centred(y_true, axis), _centred(y_pred, axis)
    spreads = _sum(y_true.square(), axis).sqrt() * _sum(y_pred.square(), axis).sqrt()
    return (_sum(y_true * y_pred, axis) / spreads).to(dtype)


def concordance_correlation(y_true: TensorLike, y_pred: TensorLike, axis: Axes = -1) -> Tensor:
    """Return `2·cov / (var + var + (difference of means)²)` along `axis`: 1 only for equal values.

    `y_true` and `y_pred` have one shape `(batch, …, values)`, the result has it without `axis`
    (Lin, 1989: correlation, less what scale and place differ).

    >>> round(concordance_correlation([[0.0, 1.0, 2.0]], [[1.0, 2.0, 3.0]]).item(), 4)
    0.5714
    """
    (y_true, y_pred), dtype = _exact_pair(y_true, y_pred)
    shift = _mean(y_true, axis) - _mean(y_pred, axis)
    y_true, y_pred = _centred(y_true, axis), _centred(y_pred, axis)
    covariance = _mean(y_true * y_pred, axis)
    spread = _mean(y_true.square(), axis) + _mean(y_pred.square(), axis) + shift.square()
    return (2 * covariance / (spread + EPSILON)).to(dtype)


def _exact_pair(y_true: object, y_pred: object) -> tuple[tuple[Tensor, Tensor], torch.dtype]:
    """Return an aligned pair in float64, where the device has it, and the dtype of the predictions.

    In float32, values far from zero would lose their differences, and squares of large ones overflow.
    """
    y_true, y_pred = align_pair(y_true, y_pred)
    exact = sum_dtype(y_pred.device)
    return (y_true.to(exact), y_pred.to(exact)), y_pred.dtype


def _centred(values: Tensor, axis: Axes) -> Tensor:
    return values - values.mean(dim=axis, keepdim=True)


def _sum(values: Tensor, axis: Axes) -> Tensor:
    return values.sum(dim=axis)


def _mean(values: Tensor, axis: Axes) -> Tensor:
    return values.mean(dim=axis)
