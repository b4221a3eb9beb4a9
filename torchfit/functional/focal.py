"""Crossentropies that down-weight easy samples, or are robust to wrong labels, sample by sample."""

from collections.abc import Sequence

import torch
from torch import Tensor

from torchfit._types import TensorLike
from torchfit._utils.tensors import as_tensor
from torchfit.functional.alignment import (
    align_class_indices,
    align_one_hot,
    align_pair,
    check_has_vectors,
    detach_below,
    mean_per_sample,
)
from torchfit.functional.crossentropy import (
    EPSILON,
    USE_BINARY,
    elementwise_bce,
    normalize_probs,
    smooth_binary,
    smooth_categorical,
)


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

    `p_t` is the probability given to the label. With `apply_class_balancing`, elements labelled 1 weigh
    `alpha` besides, those labelled 0 `1 - alpha` (Lin et al., 2017, https://arxiv.org/abs/1708.02002).
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
    # At 0 the slope of the power is infinite, but through a softmax the gradient tends to 0 there.
    values: Tensor = (1 - detach_below(picked, torch.finfo(picked.dtype).tiny).pow(q)) / q
    return values


def _modulation(missing: Tensor, gamma: float) -> Tensor:
    """Return `missing^gamma`, the weight of an element whose label lacks the probability `missing` to be sure.

    Below 1e-7, where the crossentropy is constant, a power below 1 has no gradient either: at 0 it would be infinite.
    """
    return (missing if gamma >= 1 else detach_below(missing, EPSILON)).pow(gamma)
