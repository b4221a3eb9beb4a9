"""Formulas for classification: accuracies, counts over thresholds and between classes, and the overlap of masks.

Functions named `..._matches` return booleans, which is all that a counting metric needs; those with Keras' names
return the same as 0.0 and 1.0.

The four counts are always in the order true positives, false positives, true negatives, false negatives. They are exact
if the device has float64. Their labels are booleans. A NaN score is above no threshold. Samples of weight 0 do not
count, whatever their score.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from torchfit._types import TensorLike
from torchfit._utils.tensors import as_tensor, sum_dtype
from torchfit.functional.alignment import align_pair, align_ranks, shape_mismatch_error, squeeze_class_axis

Counts = tuple[Tensor, Tensor, Tensor, Tensor]
NEVER = -1e10  # the score of a class that is not among the top k: below every threshold but itself


def broadcast_weights(sample_weight: TensorLike, values: Tensor) -> Tensor:
    """Return weights of the shape, dtype and device of `values`, repeated over the dimensions they lack.

    Raises `ValueError` unless their dimensions are the first ones of `values`, or 1.
    """
    weights = as_tensor(sample_weight, values.dtype, values.device)
    if weights.ndim == values.ndim + 1 and weights.shape[-1] == 1:
        weights = weights.squeeze(-1)
    if weights.ndim > values.ndim or any(size not in (1, wanted) for size, wanted in zip(weights.shape, values.shape)):
        raise ValueError(
            f"`sample_weight` of shape {tuple(weights.shape)} does not fit samples of shape "
            f"{tuple(values.shape)}: its dimensions must be the first ones of these, or 1."
        )
    return weights.reshape(weights.shape + (1,) * (values.ndim - weights.ndim)).expand_as(values)


def keep_top_k(y_pred: Tensor, k: int) -> Tensor:
    """Set all but the `k` largest scores of the last dimension `(batch, …, classes)` to `NEVER`."""
    best = y_pred.topk(min(k, y_pred.shape[-1]), dim=-1, sorted=False).indices
    return torch.full_like(y_pred, NEVER).scatter(-1, best, y_pred.gather(-1, best))


def counts_above(labels: Tensor, y_pred: Tensor, thresholds: TensorLike, weights: Tensor | None = None) -> Counts:
    """Count the decisions `y_pred > threshold` over all elements, for each of a few thresholds.

    `labels`, `y_pred` and `weights` have one shape; `thresholds` is a number or `(thresholds, 1)`; each count
    is `(thresholds,)`.
    """
    above = y_pred.reshape(1, -1) > thresholds
    labels = labels.reshape(1, -1)
    if weights is None:
        return _whole_counts(labels, above)
    weights = weights.reshape(1, -1)
    of_positives, of_negatives = weights * labels, weights * ~labels
    below, exact = ~above, sum_dtype(weights.device)
    return (
        (above * of_positives).sum(-1, dtype=exact),
        (above * of_negatives).sum(-1, dtype=exact),
        (below * of_negatives).sum(-1, dtype=exact),
        (below * of_positives).sum(-1, dtype=exact),
    )


def _whole_counts(labels: Tensor, above: Tensor) -> Counts:
    found, true_positives = above.sum(-1), (above & labels).sum(-1)
    false_negatives = labels.sum(-1) - true_positives
    negatives = labels.shape[-1] - found - false_negatives
    return true_positives, found - true_positives, negatives, false_negatives


def thresholds_below(y_pred: Tensor, thresholds: Tensor, evenly: bool) -> Tensor:
    """Return, for each score, how many of the ascending `thresholds (count,)` are below it, as int64.

    With `evenly`, the thresholds must be evenly spaced from 0 to 1, with the ends moved slightly outwards. Scores are
    then clipped to [0, 1], and no search is needed.
    """
    if evenly:
        steps = thresholds.shape[0] - 1
        return (y_pred * steps).ceil().clamp(1, steps).nan_to_num(0.0).long()
    return torch.where(y_pred.isnan(), 0, torch.bucketize(y_pred, thresholds))


def counts_by_bucket(labels: Tensor, below: Tensor, count: int, weights: Tensor | None = None) -> Counts:
    """Count the decisions for many thresholds at once, from `thresholds_below`.

    All of `labels`, `below` and `weights` are `(samples, columns)`; each count is `(count, columns)`. The cost
    does not depend on the number of thresholds.
    """
    columns = labels.shape[1]
    bucket = (labels.long() * (count + 1) + below) * columns + torch.arange(columns, device=labels.device)
    exact = sum_dtype(bucket.device)
    dtype = torch.float32 if bucket.numel() < 2**24 else exact  # float32 is exact up to here, and the fastest
    amounts = torch.ones_like(bucket, dtype=dtype) if weights is None else weights.to(dtype)
    histogram = amounts.new_zeros(2 * (count + 1) * columns).index_add_(0, bucket.flatten(), amounts.flatten())
    histogram = histogram.to(exact)
    # Cumulated from the highest bucket down: scores above threshold t are in the buckets from t + 1 on.
    above = histogram.view(2, count + 1, columns).flip(1).cumsum(1).flip(1)
    false_positives, true_positives = above[:, 1:]
    negatives, positives = above[:, :1]
    return true_positives, false_positives, negatives - false_positives, positives - true_positives


def confusion_matrix(y_true: Tensor, y_pred: Tensor, classes: int, weights: Tensor) -> Tensor:
    """Sum `weights (samples,)` by true class (row) and predicted class (column): `(classes, classes)`.

    Samples with a class out of range are ignored.
    """
    known = (y_true >= 0) & (y_true < classes) & (y_pred >= 0) & (y_pred < classes)
    cell = torch.where(known, y_true * classes + y_pred, 0)
    amounts = torch.where(known, weights, 0)
    return amounts.new_zeros(classes * classes).index_add_(0, cell, amounts).view(classes, classes)


def ratio(part: Tensor, whole: Tensor) -> Tensor:
    """Divide, giving 0 where `whole` is 0."""
    return torch.where(whole != 0, part / whole, 0.0)


EPSILON = 1e-7
Axes = int | Sequence[int] | None


def dice(y_true: TensorLike, y_pred: TensorLike, axis: Axes = None) -> Tensor:
    """Return `1 - 2·Σ t·p / (Σ t + Σ p)`: 0 if prediction and mask are equal, 1 if they do not overlap.

    The sums are over the dimensions `axis`, by default over all; the other dimensions remain (Dice, 1945). Two empty
    masks give 1.

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
    versions had the two exchanged). With ½ and ½ it equals `dice`, and with 1 and 1 it is one minus intersection over
    union. The sums are over the dimensions `axis`, by default over all.

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
    """Call `categorical_matches` for labels of the shape of `y_pred`, else `sparse_categorical_matches`."""
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
    tie with the k-th best count as among them; classes out of range and NaN scores do not. With `from_sorted_ids`,
    `y_pred` holds class indices instead of scores, the best first.
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
    """Call `top_k_matches` for labels of the shape of `y_pred`, else `sparse_top_k_matches`."""
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
    """Return whether fewer than `k` scores are higher than the score of the chosen class `(batch, …, 1)`."""
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
    """Return `(batch, …)`: 1.0 where labels and scores `(batch, …, classes)` are largest for the same class.

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
