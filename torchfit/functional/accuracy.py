"""Which predictions are right, sample by sample.

Functions named `..._matches` return booleans, which is all that a counting metric needs; those with Keras' names
return the same as 0.0 and 1.0.
"""

import torch
from torch import Tensor

from torchfit.functional.alignment import align_ranks, shape_mismatch_error, squeeze_class_axis


def matches(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Compare `y_true (batch, …)` with `y_pred (batch, …)`, element by element."""
    if y_true.shape != y_pred.shape:
        y_true, y_pred = _same_shape(y_true, y_pred)
    return torch.eq(y_true, y_pred)


def binary_matches(y_true: Tensor, y_pred: Tensor, threshold: float = 0.5) -> Tensor:
    """Compare labels `(batch, …)` with scores `(batch, …)` above `threshold`.

    Labels above one half are positive: 1 of 0 and 1, or of -1 and 1, and 0.95 of 0.05 and 0.95.
    """
    if y_true.shape != y_pred.shape:
        y_true, y_pred = _same_shape(y_true, y_pred)
    return torch.eq(y_true > 0.5, y_pred > threshold)


def categorical_matches(y_true: Tensor, y_pred: Tensor, axis: int = -1) -> Tensor:
    """Compare the largest of one-hot labels and of scores, both `(batch, …)` with the classes along `axis`."""
    if y_true.shape != y_pred.shape:
        raise shape_mismatch_error(
            y_true, y_pred, "one-hot labels of the shape of y_pred", _for_class_indices("sparse_categorical_accuracy")
        )
    return torch.eq(_labelled_class(y_true, axis), y_pred.argmax(axis))


def sparse_categorical_matches(y_true: Tensor, y_pred: Tensor, axis: int = -1) -> Tensor:
    """Compare class indices with the largest scores `y_pred (batch, …)`, whose classes lie along `axis`.

    `y_true` has the shape of `y_pred` without `axis`, or with a size of 1 in its place or at the end.
    """
    best = y_pred.argmax(axis)
    if y_true.shape != best.shape:
        y_true = _class_indices(y_true, y_pred, axis, "categorical_accuracy")
    found = torch.eq(y_true, best)
    return found.squeeze(-1) if axis == -1 and found.ndim > 1 and found.shape[-1] == 1 else found


def class_matches(y_true: Tensor, y_pred: Tensor, axis: int = -1) -> Tensor:
    """Do as `categorical_matches` does with labels of the shape of `y_pred`, else as `sparse_categorical_matches`."""
    if y_true.shape == y_pred.shape:
        return categorical_matches(y_true, y_pred, axis)
    best = y_pred.argmax(axis)
    if best.ndim == 1 and y_true.shape == best.shape:  # the usual case, in one call less
        return torch.eq(y_true, best)
    return sparse_categorical_matches(y_true, y_pred, axis)


def sparse_top_k_matches(
    y_true: Tensor, y_pred: Tensor, k: int = 5, from_sorted_ids: bool = False, axis: int = -1
) -> Tensor:
    """Return whether class indices are among the `k` best scores `y_pred (batch, …)`, with the classes along `axis`.

    `y_true` has the shape of `y_pred` without `axis`, or with a size of 1 in its place or at the end. Classes that
    tie with the k-th best count as being among them, classes out of range and NaN scores never do. With
    `from_sorted_ids`, `y_pred` holds class indices, the best first, instead of scores.
    """
    y_pred = y_pred.movedim(axis, -1)
    keeps_last = axis == -1 and y_true.shape == (*y_pred.shape[:-1], 1)
    if y_true.shape != y_pred.shape[:-1] and not keeps_last:
        y_true = _class_indices(y_true, y_pred.movedim(-1, axis), axis, "top_k_categorical_accuracy")
    labels = (y_true if keeps_last else y_true.unsqueeze(-1)).long()
    if from_sorted_ids:
        found = torch.eq(labels, y_pred[..., :k].long()).any(-1, keepdim=True)
    else:
        known = labels.clamp(0, y_pred.shape[-1] - 1)
        found = _among_best(y_pred, known, k) & torch.eq(labels, known)
    return found if keeps_last else found.squeeze(-1)


def top_k_matches(y_true: Tensor, y_pred: Tensor, k: int = 5, axis: int = -1) -> Tensor:
    """Return whether the largest of one-hot labels is among the `k` best scores, both with the classes along `axis`."""
    if y_true.shape != y_pred.shape:
        raise shape_mismatch_error(
            y_true,
            y_pred,
            "one-hot labels of the shape of y_pred",
            _for_class_indices("sparse_top_k_categorical_accuracy"),
        )
    chosen = _labelled_class(y_true, axis).unsqueeze(-1)
    return _among_best(y_pred.movedim(axis, -1), chosen, k).squeeze(-1)


def class_top_k_matches(
    y_true: Tensor, y_pred: Tensor, k: int = 5, from_sorted_ids: bool = False, axis: int = -1
) -> Tensor:
    """Do as `top_k_matches` does with labels of the shape of `y_pred`, else as `sparse_top_k_matches`."""
    if y_true.shape == y_pred.shape and not from_sorted_ids:
        return top_k_matches(y_true, y_pred, k, axis)
    return sparse_top_k_matches(y_true, y_pred, k, from_sorted_ids, axis)


def _labelled_class(y_true: Tensor, axis: int) -> Tensor:
    return (y_true.byte() if y_true.dtype is torch.bool else y_true).argmax(axis)


def _class_indices(y_true: Tensor, y_pred: Tensor, axis: int, other: str) -> Tensor:
    """Return class indices of the shape of `y_pred` without `axis`."""
    expected = list(y_pred.shape)
    del expected[axis]
    squeezed = squeeze_class_axis(y_true, axis, expected) if y_true.ndim == y_pred.ndim else y_true
    if list(squeezed.shape) != expected:
        way_out = f"If the labels are one-hot, use {other}."
        if y_true.ndim == y_pred.ndim - 1 and axis in (-1, y_pred.ndim - 1):
            way_out = "If the classes are on another dimension, as in torch's losses, pass axis=1."
        raise shape_mismatch_error(
            y_true, y_pred, f"class indices, without the dimension {axis} of y_pred: {tuple(expected)}", way_out
        )
    return squeezed


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
        raise shape_mismatch_error(
            y_true, y_pred, "of the shape of y_pred", _for_class_indices("sparse_categorical_accuracy")
        )
    return y_true, y_pred


def _for_class_indices(other: str) -> str:
    return f"If the labels are class indices, use {other}."
