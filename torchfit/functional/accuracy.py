"""Which predictions are right, sample by sample.

Functions named `..._matches` tell it as booleans, which is all that a counting metric needs; those with
Keras' names give the same as 0.0 and 1.0.
"""

import torch
from torch import Tensor

from torchfit.functional.alignment import align_ranks, shape_mismatch_error


def matches(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Compare `y_true (batch, …)` with `y_pred (batch, …)`, element by element."""
    if y_true.shape != y_pred.shape:
        y_true, y_pred = _same_shape(y_true, y_pred)
    return torch.eq(y_true, y_pred)


def binary_matches(y_true: Tensor, y_pred: Tensor, threshold: float = 0.5) -> Tensor:
    """Compare labels of 0 and 1 `(batch, …)` with scores `(batch, …)` above `threshold`."""
    if y_true.shape != y_pred.shape:
        y_true, y_pred = _same_shape(y_true, y_pred)
    return torch.eq(y_true, y_pred > threshold)


def categorical_matches(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Compare the largest of one-hot labels `(batch, …, classes)` and of scores of the same shape."""
    if y_true.shape != y_pred.shape:
        raise shape_mismatch_error(y_true, y_pred, "one-hot labels of the shape of y_pred", _FOR_CLASS_INDICES)
    return torch.eq(y_true.argmax(-1), y_pred.argmax(-1))


def sparse_categorical_matches(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Compare class indices `(batch, …)` or `(batch, …, 1)` with the largest scores `(batch, …, classes)`."""
    best = y_pred.argmax(-1)
    if y_true.shape != best.shape:
        y_true = _without_last(y_true, y_pred)
    found = torch.eq(y_true, best)
    return found.squeeze(-1) if found.ndim > 1 and found.shape[-1] == 1 else found


def _without_last(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Return class indices `(batch, …, 1)` as `(batch, …)`."""
    if y_true.shape != (*y_pred.shape[:-1], 1):
        raise shape_mismatch_error(y_true, y_pred, "class indices, without the last dimension", _FOR_ONE_HOT)
    return y_true.squeeze(-1)


def sparse_top_k_matches(y_true: Tensor, y_pred: Tensor, k: int = 5, from_sorted_ids: bool = False) -> Tensor:
    """Return whether class indices `(batch, …)` or `(batch, …, 1)` are among the `k` best scores.

    Classes that tie with the k-th best count as being among them, classes out of range and NaN scores never
    do. With `from_sorted_ids`, `y_pred` holds class indices, the best first, instead of scores.
    """
    if y_true.shape not in (y_pred.shape[:-1], (*y_pred.shape[:-1], 1)):
        raise shape_mismatch_error(y_true, y_pred, "class indices, without the last dimension", _FOR_ONE_HOT)
    labels = (y_true if y_true.ndim == y_pred.ndim else y_true.unsqueeze(-1)).long()
    if from_sorted_ids:
        found = torch.eq(labels, y_pred[..., :k]).any(-1, keepdim=True)
    else:
        known = labels.clamp(0, y_pred.shape[-1] - 1)
        found = _among_best(y_pred, known, k) & torch.eq(labels, known)
    return found if y_true.ndim == y_pred.ndim else found.squeeze(-1)


def top_k_matches(y_true: Tensor, y_pred: Tensor, k: int = 5) -> Tensor:
    """Return whether the largest of one-hot labels `(batch, …, classes)` is among the `k` best scores."""
    if y_true.shape != y_pred.shape:
        raise shape_mismatch_error(y_true, y_pred, "one-hot labels of the shape of y_pred", _FOR_CLASS_INDICES)
    return _among_best(y_pred, y_true.argmax(-1, keepdim=True), k).squeeze(-1)


def _among_best(y_pred: Tensor, chosen: Tensor, k: int) -> Tensor:
    """Return whether the score of a class `(batch, …, 1)` is at least as high as all but fewer than `k`."""
    classes = y_pred.shape[-1]
    not_better = (y_pred <= y_pred.gather(-1, chosen)).sum(-1, keepdim=True)
    return not_better > classes - min(k, classes)


def binary_accuracy(y_true: Tensor, y_pred: Tensor, threshold: float = 0.5) -> Tensor:
    """Return 1.0 where a score `(batch, …)` above `threshold` agrees with the label, else 0.0.

    >>> binary_accuracy(torch.tensor([1, 0]), torch.tensor([0.7, 0.6])).tolist()
    [1.0, 0.0]
    """
    return binary_matches(y_true, y_pred, threshold).float()


def categorical_accuracy(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Return `(batch, …)`: 1.0 where labels and scores `(batch, …, classes)` are largest in one place.

    >>> categorical_accuracy(torch.tensor([[0, 1]]), torch.tensor([[0.2, 0.8]])).tolist()
    [1.0]
    """
    return categorical_matches(y_true, y_pred).float()


def sparse_categorical_accuracy(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Return `(batch, …)`: 1.0 where the class index is that of the largest score `(batch, …, classes)`.

    >>> sparse_categorical_accuracy(torch.tensor([1]), torch.tensor([[0.2, 0.8]])).tolist()
    [1.0]
    """
    return sparse_categorical_matches(y_true, y_pred).float()


def top_k_categorical_accuracy(y_true: Tensor, y_pred: Tensor, k: int = 5) -> Tensor:
    """Return `(batch, …)`: 1.0 where a one-hot label is among the `k` best scores `(batch, …, classes)`.

    >>> top_k_categorical_accuracy(torch.tensor([[0, 1, 0]]), torch.tensor([[0.5, 0.3, 0.2]]), k=2).tolist()
    [1.0]
    """
    return top_k_matches(y_true, y_pred, k).float()


def sparse_top_k_categorical_accuracy(
    y_true: Tensor, y_pred: Tensor, k: int = 5, from_sorted_ids: bool = False
) -> Tensor:
    """Return `(batch, …)`: 1.0 where the class index is among the `k` best scores `(batch, …, classes)`.

    >>> sparse_top_k_categorical_accuracy(torch.tensor([1]), torch.tensor([[0.5, 0.3, 0.2]]), k=2).tolist()
    [1.0]
    """
    return sparse_top_k_matches(y_true, y_pred, k, from_sorted_ids).float()


def _same_shape(y_true: Tensor, y_pred: Tensor) -> tuple[Tensor, Tensor]:
    y_true, y_pred = align_ranks(y_true, y_pred)
    if y_true.shape != y_pred.shape:
        raise shape_mismatch_error(y_true, y_pred, "of the shape of y_pred", _FOR_CLASS_INDICES)
    return y_true, y_pred


_FOR_CLASS_INDICES = "If the labels are class indices, use sparse_categorical_accuracy."
_FOR_ONE_HOT = "If the labels are one-hot, use categorical_accuracy."
