"""Formulas for regression, per sample: differences, logarithms, angles, correlations and margins.

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
from torchfit._utils.tensors import as_tensor, sum_dtype
from torchfit.functional.alignment import (
    align_pair,
    as_floating,
    check_has_vectors,
    mean_per_sample,
    shape_mismatch_error,
    with_mask,
)

EPSILON = 1e-7


def mean_squared_error(y_true: TensorLike, y_pred: TensorLike) -> Tensor:
    """Return the mean of `(y_pred - y_true)²` over the last dimension.

    >>> mean_squared_error([[0.0, 1.0]], [[1.0, 3.0]]).tolist()
    [2.5]
    """
    y_true, y_pred = align_pair(y_true, y_pred)
    return mean_per_sample(mse_loss(y_pred, y_true, NONE))


def fused_mean_squared_error(y_true: Tensor, y_pred: Tensor) -> Tensor | None:
    """Return the mean of `(y_pred - y_true)²` over all values, in one kernel, or `None` if the shapes differ."""
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
    """Return the mean of `|y_pred - y_true|` over all values, in one kernel, or `None` if the shapes differ."""
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

    Values below 1e-7, including negative ones, count as 1e-7.

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
    """Return the negative cosine between vectors along `axis`: -1 for the same direction, 0 orthogonal, 1 opposite.

    `y_true` and `y_pred` are `(batch, …, values)`; outputs `(batch,)` have no direction and raise `ValueError`. A
    vector of zeros gives 0; lengths below 1e-7 count as 1e-7.

    >>> cosine_similarity([[0.0, 1.0]], [[0.0, 2.0]]).tolist()
    [-1.0]
    """
    y_true, y_pred = align_pair(y_true, y_pred)
    check_has_vectors("cosine_similarity", y_pred, "(batch, …, values)", "Single values have no direction.")
    cosine = F.normalize(y_true, dim=axis, eps=EPSILON) * F.normalize(y_pred, dim=axis, eps=EPSILON)
    return cosine.sum(axis).neg()


def circle(
    y_true: TensorLike,
    y_pred: TensorLike,
    ref_labels: TensorLike = None,
    ref_embeddings: TensorLike = None,
    remove_diagonal: bool = True,
    gamma: float = 80,
    margin: float = 0.4,
) -> Tensor:
    """Return the circle loss `(batch,)` of embeddings (Sun et al., 2020, https://arxiv.org/abs/2002.10857).

    For each row, `softplus(logsumexp(gamma·a_p·(d_p - margin)) + logsumexp(gamma·a_n·(s_n - margin)))` over the
    distances `d = 1 - s` to rows with the same label and the similarities `s` to rows with another, with
    `a_p = relu(d_p + margin)` and `a_n = relu(s_n + margin)`. Rows that lack one of them give 0 and are masked in the
    `_keras_mask` of the result.

    Args:
        y_true: Class indices `(batch,)` or `(batch, 1)`.
        y_pred: Embeddings of length 1, `(batch, features)`.
        ref_labels: Class indices `(references,)` of what the rows are compared with; `y_true` by default.
        ref_embeddings: Embeddings `(references, features)`; `y_pred` by default.
        remove_diagonal: Do not compare row i with reference i.
        gamma: The scale, which sets how hard the hardest pairs weigh.
        margin: The slack; small is strict.

    >>> circle([0, 0, 1], [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]).tolist()  # doctest: +ELLIPSIS
    [7.6...e-12, 7.6...e-12, 0.0]
    """
    y_pred = as_floating(y_pred)
    labels = _label_row(y_true, y_pred)
    references = y_pred if ref_embeddings is None else as_tensor(ref_embeddings, y_pred.dtype, y_pred.device)
    others = labels if ref_labels is None else _label_row(ref_labels, references)
    similarity = y_pred @ references.mT
    same, different = _pairs(labels, others, remove_diagonal)
    near = _hardness(1 - similarity, margin, gamma, same)
    far = _hardness(similarity, margin, gamma, different)
    return with_mask(F.softplus(near + far), same.any(-1) & different.any(-1))


def _label_row(labels: TensorLike, embeddings: Tensor) -> Tensor:
    row: Tensor = as_tensor(labels, device=embeddings.device)
    if row.dim() == 2 and row.shape[-1] == 1:
        row = row.squeeze(-1)
    if embeddings.dim() != 2 or row.shape != embeddings.shape[:1]:
        way_out = "Give one class index for each row of embeddings (batch, features)."
        raise shape_mismatch_error(row, embeddings, "class indices (batch,)", way_out)
    return row


def _pairs(labels: Tensor, others: Tensor, remove_diagonal: bool) -> tuple[Tensor, Tensor]:
    """Return which pairs `(batch, references)` have the same label, and which have different labels."""
    same = labels.unsqueeze(1) == others.unsqueeze(0)
    if not remove_diagonal:
        return same, ~same
    off_diagonal = ~torch.eye(*same.shape, dtype=torch.bool, device=same.device)
    return same & off_diagonal, ~same & off_diagonal


def _hardness(values: Tensor, margin: float, gamma: float, counted: Tensor) -> Tensor:
    """Return the `logsumexp` of how far the counted values exceed the margin, or -inf if none count."""
    terms = gamma * (values + margin).relu() * (values - margin)
    return terms.masked_fill(~counted, -math.inf).logsumexp(-1)


Axes = int | tuple[int, ...] | None


def pearson_correlation(y_true: TensorLike, y_pred: TensorLike, axis: Axes = -1) -> Tensor:
    """Return the linear correlation along `axis`: 1 for any increasing line, -1 for any decreasing one.

    `y_true` and `y_pred` have the same shape `(batch, …, values)`; the result has this shape without `axis`. For
    constant values it is NaN (Pearson, 1895).

    >>> round(pearson_correlation([[0.0, 1.0, 2.0]], [[1.0, 3.0, 5.0]]).item(), 4)
    1.0
    """
    (y_true, y_pred), dtype = _exact_pair(y_true, y_pred)
    y_true, y_pred = _centred(y_true, axis), _centred(y_pred, axis)
    spreads = _sum(y_true.square(), axis).sqrt() * _sum(y_pred.square(), axis).sqrt()
    return (_sum(y_true * y_pred, axis) / spreads).to(dtype)


def concordance_correlation(y_true: TensorLike, y_pred: TensorLike, axis: Axes = -1) -> Tensor:
    """Return `2·cov / (var + var + (difference of means)²)` along `axis`: 1 only for equal values.

    `y_true` and `y_pred` have the same shape `(batch, …, values)`; the result has this shape without `axis`. It is the
    correlation, reduced by differences in scale and location (Lin, 1989).

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
    """Return an aligned pair in float64, if the device has it, and the dtype of the predictions.

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


def hinge(y_true: TensorLike, y_pred: TensorLike) -> Tensor:
    """Return the mean of `max(1 - y_true · y_pred, 0)` over the last dimension.

    Labels are -1 and 1. If all of them are 0 or 1, 0 counts as -1.

    >>> hinge([[-1.0, 1.0]], [[0.5, 0.5]]).tolist()
    [1.0]
    """
    return mean_per_sample(_margins(y_true, y_pred))


def squared_hinge(y_true: TensorLike, y_pred: TensorLike) -> Tensor:
    """Return the mean of `max(1 - y_true · y_pred, 0)²` over the last dimension; labels as for `hinge`.

    >>> squared_hinge([[-1.0, 1.0]], [[0.5, 0.5]]).tolist()
    [1.25]
    """
    return mean_per_sample(_margins(y_true, y_pred).square())


def categorical_hinge(y_true: TensorLike, y_pred: TensorLike) -> Tensor:
    """Return `max(neg - pos + 1, 0)` with `pos = Σ t·y_pred` and `neg = max((1 - t)·y_pred)`.

    `y_true` holds one-hot labels `t` of the shape of `y_pred (batch, …, classes)`.

    >>> categorical_hinge([[0.0, 1.0]], [[0.5, 0.25]]).tolist()
    [1.25]
    """
    y_true, y_pred = align_pair(y_true, y_pred)
    check_has_vectors("categorical_hinge", y_pred, "(batch, …, classes)", "For one output, use hinge.")
    right = (y_true * y_pred).sum(-1)
    wrong = ((1 - y_true) * y_pred).amax(-1)
    values: Tensor = (wrong - right + 1).relu()
    return values


def _margins(y_true: TensorLike, y_pred: TensorLike) -> Tensor:
    y_true, y_pred = align_pair(y_true, y_pred)
    is_binary = ((y_true == 0) | (y_true == 1)).all()
    values: Tensor = (1 - torch.where(is_binary, 2 * y_true - 1, y_true) * y_pred).relu()
    return values
