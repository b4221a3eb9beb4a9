"""How far numbers are from numbers, sample by sample.

Every function takes `y_true` and `y_pred` of one shape `(batch, …, values)` (tensors, NumPy arrays or nested
lists) and returns `(batch, …)` in the dtype of `y_pred`: the mean over the last dimension. A vector `(batch,)`
holds one value per sample, and so does the result. `(batch,)` and `(batch, 1)` are aligned; shapes that differ
otherwise raise `ValueError`.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from torchfit._types import TensorLike
from torchfit._utils.compat import MEAN, NONE, huber_loss, l1_loss, mse_loss
from torchfit.functional.alignment import align_pair, check_has_vectors, mean_per_sample

EPSILON = 1e-7


def mean_squared_error(y_true: TensorLike, y_pred: TensorLike) -> Tensor:
    """Return the mean of `(y_pred - y_true)²` over the last dimension.

    >>> mean_squared_error([[0.0, 1.0]], [[1.0, 3.0]]).tolist()
    [2.5]
    """
    y_true, y_pred = align_pair(y_true, y_pred)
    return mean_per_sample(mse_loss(y_pred, y_true, NONE))


def fused_mean_squared_error(y_true: Tensor, y_pred: Tensor) -> Tensor | None:
    """Return the mean of `(y_pred - y_true)²` over everything, in one kernel; `None` for shapes that do not fit."""
    shape = y_pred.shape
    return None if y_true.shape != shape or 0 in shape else mse_loss(y_pred, y_true, MEAN)


def mean_absolute_error(y_true: TensorLike, y_pred: TensorLike) -> Tensor:
    """Return the mean of `|y_pred - y_true|` over the last dimension.

    >>> mean_absolute_error([[0.0, 1.0]], [[1.0, 3.0]]).tolist()
    [1.5]
    """
    y_true, y_pred = align_pair(y_true, y_pred)
    return mean_per_sample((y_pred - y_true).abs())


def fused_mean_absolute_error(y_true: Tensor, y_pred: Tensor) -> Tensor | None:
    """Return the mean of `|y_pred - y_true|` over everything, in one kernel; `None` for shapes that do not fit."""
    shape = y_pred.shape
    return None if y_true.shape != shape or 0 in shape else l1_loss(y_pred, y_true, MEAN)


def mean_absolute_percentage_error(y_true: TensorLike, y_pred: TensorLike) -> Tensor:
    """Return the mean of `100 · |y_true - y_pred| / max(|y_true|, 1e-7)` over the last dimension, in percent.

    >>> mean_absolute_percentage_error([[2.0, 4.0]], [[1.0, 4.0]]).tolist()
    [25.0]
    """
    y_true, y_pred = align_pair(y_true, y_pred)
    return 100.0 * mean_per_sample(((y_true - y_pred) / y_true.abs().clamp(min=EPSILON)).abs())


def mean_squared_logarithmic_error(y_true: TensorLike, y_pred: TensorLike) -> Tensor:
    """Return the mean of `(log(1 + y_true) - log(1 + y_pred))²` over the last dimension.

    Values below 1e-7, negative ones among them, count as 1e-7.

    >>> mean_squared_logarithmic_error([[0.0, 1.0]], [[0.0, 1.0]]).tolist()
    [0.0]
    """
    y_true, y_pred = align_pair(y_true, y_pred)
    difference = y_true.clamp(min=EPSILON).log1p() - y_pred.clamp(min=EPSILON).log1p()
    return mean_per_sample(difference.square())


def huber(y_true: TensorLike, y_pred: TensorLike, delta: float = 1.0) -> Tensor:
    """Return the mean of `½e²` where `|e| ≤ delta`, else `delta·|e| - ½delta²`, over the last dimension.

    `e` is `y_pred - y_true` (Huber, 1964: quadratic near zero, linear for outliers).

    >>> huber([[0.0, 0.0]], [[1.0, 3.0]]).tolist()
    [1.5]
    """
    y_true, y_pred = align_pair(y_true, y_pred)
    return mean_per_sample(huber_loss(y_pred, y_true, NONE, delta))


def log_cosh(y_true: TensorLike, y_pred: TensorLike) -> Tensor:
    """Return the mean of `log(cosh(y_pred - y_true))` over the last dimension.

    It is near `½e²` for small errors and `|e| - log 2` for large ones, and does not overflow.

    >>> log_cosh([[0.0]], [[0.0]]).tolist()
    [0.0]
    """
    y_true, y_pred = align_pair(y_true, y_pred)
    error = y_pred - y_true
    return mean_per_sample(torch.logaddexp(error, -error) - math.log(2.0))


def cosine_similarity(y_true: TensorLike, y_pred: TensorLike, axis: int = -1) -> Tensor:
    """Return minus the cosine of the angle between the vectors along `axis`: -1 same, 0 orthogonal, 1 opposite.

    `y_true` and `y_pred` are `(batch, …, values)`; outputs `(batch,)` have no direction and raise `ValueError`. A
    vector of zeros gives 0; lengths below 1e-7 count as 1e-7.

    >>> cosine_similarity([[0.0, 1.0]], [[0.0, 2.0]]).tolist()
    [-1.0]
    """
    y_true, y_pred = align_pair(y_true, y_pred)
    check_has_vectors("cosine_similarity", y_pred, "(batch, …, values)", "Single values have no direction.")
    cosine = F.normalize(y_true, dim=axis, eps=EPSILON) * F.normalize(y_pred, dim=axis, eps=EPSILON)
    return cosine.sum(axis).neg()
