"""Margins between classes, sample by sample. Shapes `(batch, …, values)` give `(batch, …)`, `(batch,)` itself."""

import torch
from torch import Tensor

from torchfit._types import TensorLike
from torchfit.functional.alignment import align_pair, check_has_vectors, mean_per_sample


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
