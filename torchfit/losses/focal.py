"""Crossentropies that down-weight easy samples, or are robust to wrong labels."""

from collections.abc import Sequence

import torch

from torchfit._types import DTypeLike
from torchfit._utils import validation
from torchfit.functional import focal
from torchfit.losses.functional_loss import FunctionalLoss


class BinaryFocalCrossentropy(FunctionalLoss):
    """The binary crossentropy with every element weighted by `(1 - p_t)^gamma` (Lin et al., 2017).

    Shapes are those of `BinaryCrossentropy`.

    Arguments:
        apply_class_balancing: weigh elements labelled 1 by `alpha`, those labelled 0 by `1 - alpha`.
        alpha: see there, from 0 to 1.
        gamma: how much easy elements lose, at least 0.
        from_logits: `y_pred` holds logits rather than probabilities from 0 to 1.
        label_smoothing: the share, from 0 to 1, by which labels are moved towards ½.
        axis: the dimension that is averaged.

    >>> round(BinaryFocalCrossentropy()([[1.0]], [[0.5]]).item(), 4)
    0.1733
    """

    expects_probabilities = "single"

    def __init__(
        self,
        apply_class_balancing: bool = False,
        alpha: float = 0.25,
        gamma: float = 2.0,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "binary_focal_crossentropy",
        dtype: DTypeLike = None,
    ):
        super().__init__(
            focal.binary_focal_crossentropy,
            name,
            reduction,
            dtype,
            apply_class_balancing=validation.boolean("apply_class_balancing", apply_class_balancing),
            alpha=validation.number("alpha", alpha, 0, 1),
            gamma=validation.number("gamma", gamma, 0),
            from_logits=validation.boolean("from_logits", from_logits),
            label_smoothing=validation.number("label_smoothing", label_smoothing, 0, 1),
            axis=validation.integer("axis", axis),
        )


class CategoricalFocalCrossentropy(FunctionalLoss):
    """The categorical crossentropy weighted by `alpha · (1 - p)^gamma` (Lin et al., 2017).

    Shapes are those of `CategoricalCrossentropy`.

    Arguments:
        alpha: a number at least 0, or one for each class.
        gamma: how much easy classes lose, at least 0.
        from_logits: `y_pred` holds logits rather than probabilities.
        label_smoothing: the share, from 0 to 1, of every label that is given to all classes alike.
        axis: the dimension of the classes.

    >>> round(CategoricalFocalCrossentropy()([[0.0, 1.0]], [[0.5, 0.5]]).item(), 4)
    0.0433
    """

    expects_probabilities = "distribution"

    def __init__(
        self,
        alpha: float | Sequence[float] = 0.25,
        gamma: float = 2.0,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "categorical_focal_crossentropy",
        dtype: DTypeLike = None,
    ):
        super().__init__(
            focal.categorical_focal_crossentropy,
            name,
            reduction,
            dtype,
            alpha=validation.number_or_numbers("alpha", alpha, 0),
            gamma=validation.number("gamma", gamma, 0),
            from_logits=validation.boolean("from_logits", from_logits),
            label_smoothing=validation.number("label_smoothing", label_smoothing, 0, 1),
            axis=validation.integer("axis", axis),
        )


class CategoricalGeneralizedCrossEntropy(FunctionalLoss):
    """`(1 - p[y_true]^q) / q`, which is robust to wrong labels (Zhang and Sabuncu, 2018).

    `y_true` holds class indices `(batch, …)` or `(batch, …, 1)`, `y_pred` probabilities `(batch, …, classes)`.

    Arguments:
        q: between 0 (crossentropy) and 1 (absolute error), both excluded.

    >>> CategoricalGeneralizedCrossEntropy()([1], [[0.75, 0.25]]).item()
    1.0
    """

    expects_probabilities = "distribution"
    _takes_class_indices = True

    def __init__(
        self,
        q: float = 0.5,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "categorical_generalized_cross_entropy",
        dtype: DTypeLike = None,
    ):
        super().__init__(
            focal.categorical_generalized_cross_entropy,
            name,
            reduction,
            dtype,
            q=validation.number_between("q", q, 0, 1),
        )
        self._target_dtype = torch.int64
