"""Losses for probabilities, logits and masks."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from torchfit._types import DTypeLike, Nested, TensorLike
from torchfit._utils import validation
from torchfit._utils.tensors import as_tensor
from torchfit.functional import classification, probabilistic
from torchfit.functional.alignment import align_pair, get_mask, kind_of_labels, require_mask, with_mask
from torchfit.functional.classification import Axes
from torchfit.losses.base import MEANS, Loss, Reduced
from torchfit.losses.functional_loss import FunctionalLoss

FusedMean = Callable[[Tensor, Tensor], Tensor | None]


class BinaryCrossentropy(FunctionalLoss):
    """The binary crossentropy of labels from 0 to 1 and predicted probabilities, for independent values.

    `y_true` and `y_pred` have the same shape `(batch, …, values)`, or `(batch,)` and `(batch, 1)`. There is one loss
    per `(batch, …)`.

    Args:
        from_logits: `y_pred` holds logits rather than probabilities from 0 to 1.
        label_smoothing: The share, from 0 to 1, by which labels are moved towards ½.
        axis: The dimension that is averaged.

    >>> BinaryCrossentropy()([[0.0, 1.0]], [[0.5, 0.5]]).item()  # doctest: +ELLIPSIS
    0.6931...
    """

    expects_probabilities = "single"

    def __init__(
        self,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "binary_crossentropy",
        dtype: DTypeLike = None,
    ):
        super().__init__(
            probabilistic.binary_crossentropy,
            name,
            reduction,
            dtype,
            _select_fused_mean(
                from_logits,
                axis == -1 and not label_smoothing,
                probabilistic.fused_binary_crossentropy,
                probabilistic.fused_binary_crossentropy_from_logits,
            ),
            from_logits=validation.boolean("from_logits", from_logits),
            label_smoothing=validation.number("label_smoothing", label_smoothing, 0, 1),
            axis=validation.integer("axis", axis),
        )


class CategoricalCrossentropy(FunctionalLoss):
    """The crossentropy of one-hot or soft labels and predicted probabilities of classes.

    `y_true` and `y_pred` have the same shape `(batch, …, classes)`. There is one loss per `(batch, …)`. Probabilities
    are first divided by their sum.

    Args:
        from_logits: `y_pred` holds logits rather than probabilities.
        label_smoothing: The share, from 0 to 1, of every label that is given to all classes alike.
        axis: The dimension of the classes.

    >>> CategoricalCrossentropy()([[0.0, 1.0]], [[0.5, 0.5]]).item()  # doctest: +ELLIPSIS
    0.6931...
    """

    expects_probabilities = "distribution"

    def __init__(
        self,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "categorical_crossentropy",
        dtype: DTypeLike = None,
    ):
        super().__init__(
            probabilistic.categorical_crossentropy,
            name,
            reduction,
            dtype,
            _select_fused_mean(
                from_logits,
                axis == -1 and not label_smoothing,
                probabilistic.fused_categorical_crossentropy,
                probabilistic.fused_categorical_crossentropy_from_logits,
            ),
            from_logits=validation.boolean("from_logits", from_logits),
            label_smoothing=validation.number("label_smoothing", label_smoothing, 0, 1),
            axis=validation.integer("axis", axis),
        )


class SparseCategoricalCrossentropy(FunctionalLoss):
    """The crossentropy of class indices and predicted probabilities of classes.

    `y_true` holds class indices from 0 to classes - 1 of any numeric dtype, `(batch, …)`, or with a dimension of size 1
    instead of the classes or at the end; `y_pred` is `(batch, …, classes)`. Labels are not checked, because that would
    synchronize with the device at every step: for labels out of range, torch raises an `IndexError` on the CPU and
    stops the process on a GPU.

    Args:
        from_logits: `y_pred` holds logits rather than probabilities.
        ignore_class: A label that does not count, such as -1 or 255; means are taken over the others.
        axis: The dimension of the classes.

    >>> SparseCategoricalCrossentropy()([1], [[0.5, 0.5]]).item()  # doctest: +ELLIPSIS
    0.6931...
    """

    expects_probabilities = "distribution"
    _takes_class_indices = True

    def __init__(
        self,
        from_logits: bool = False,
        ignore_class: int | None = None,
        reduction: str | None = "sum_over_batch_size",
        axis: int = -1,
        name: str | None = "sparse_categorical_crossentropy",
        dtype: DTypeLike = None,
    ):
        super().__init__(
            probabilistic.sparse_categorical_crossentropy,
            name,
            reduction,
            dtype,
            _select_fused_mean(
                from_logits,
                axis == -1 and ignore_class is None,
                probabilistic.fused_sparse_categorical_crossentropy,
                probabilistic.fused_sparse_categorical_crossentropy_from_logits,
            ),
            from_logits=validation.boolean("from_logits", from_logits),
            ignore_class=None if ignore_class is None else validation.integer("ignore_class", ignore_class),
            axis=validation.integer("axis", axis),
        )
        self._target_dtype = torch.int64


class Crossentropy(Loss):
    """The crossentropy selected by the shapes of targets and outputs; also called `"crossentropy"` and `"ce"`.

    It is binary for outputs `(batch,)` and `(batch, …, 1)`; else for class indices, if the targets lack the last
    dimension of the outputs `(batch, …, classes)` or have size 1 there; else for one-hot or soft labels. Outputs are
    probabilities. The choice is made for each batch, so that soft labels in training and class indices in validation
    can be combined.

    >>> loss = Crossentropy()
    >>> round(loss([1], [[0.5, 0.5]]).item(), 4), round(loss([[0.0, 1.0]], [[0.5, 0.5]]).item(), 4)
    (0.6931, 0.6931)
    >>> loss.select(torch.zeros(8), torch.zeros(8, 1)).name
    'binary_crossentropy'
    """

    from_logits = False

    def __init__(
        self,
        name: str | None = "crossentropy",
        reduction: str | None = "sum_over_batch_size",
        dtype: DTypeLike = None,
    ):
        super().__init__(name, reduction, dtype)
        self._binary = BinaryCrossentropy(reduction=reduction, dtype=dtype)
        self._sparse = SparseCategoricalCrossentropy(reduction=reduction, dtype=dtype)
        self._categorical = CategoricalCrossentropy(reduction=reduction, dtype=dtype)

    def select(self, y_true: Nested, y_pred: Nested) -> Loss:
        """Return the loss for the shapes of targets `(batch, …)` and outputs `(batch, …)`."""
        kind = kind_of_labels(as_tensor(y_true).shape, as_tensor(y_pred).shape)
        return {"binary": self._binary, "sparse_categorical": self._sparse}.get(kind, self._categorical)

    def call(self, y_true: Nested, y_pred: Nested) -> Tensor:
        """Return the loss of each sample."""
        return self.select(y_true, y_pred).call(y_true, y_pred)

    def _compute(self, y_true: Nested, y_pred: Nested, sample_weight: TensorLike) -> Reduced:
        chosen = self.select(y_true, y_pred)
        if chosen.reduction in MEANS or chosen.is_sum:
            return chosen.with_denominator(y_true, y_pred, sample_weight)
        return super()._compute(y_true, y_pred, sample_weight)


def _select_fused_mean(
    from_logits: bool, is_default: bool, of_probabilities: FusedMean, of_logits: FusedMean
) -> FusedMean | None:
    """Return the fused function for the mean over a batch, if the arguments allow it."""
    if not is_default:
        return None
    return of_logits if from_logits else of_probabilities


class BinaryFocalCrossentropy(FunctionalLoss):
    """The binary crossentropy with every element weighted by `(1 - p_t)^gamma` (Lin et al., 2017).

    Shapes are those of `BinaryCrossentropy`.

    Args:
        apply_class_balancing: Weigh elements labelled 1 by `alpha`, those labelled 0 by `1 - alpha`.
        alpha: See there, from 0 to 1.
        gamma: How much easy elements lose, at least 0.
        from_logits: `y_pred` holds logits rather than probabilities from 0 to 1.
        label_smoothing: The share, from 0 to 1, by which labels are moved towards ½.
        axis: The dimension that is averaged.

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
            probabilistic.binary_focal_crossentropy,
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

    Args:
        alpha: A number at least 0, or one for each class.
        gamma: How much easy classes lose, at least 0.
        from_logits: `y_pred` holds logits rather than probabilities.
        label_smoothing: The share, from 0 to 1, of every label that is given to all classes alike.
        axis: The dimension of the classes.

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
            probabilistic.categorical_focal_crossentropy,
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

    Args:
        q: Between 0 (crossentropy) and 1 (absolute error), both excluded.

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
            probabilistic.categorical_generalized_cross_entropy,
            name,
            reduction,
            dtype,
            q=validation.number_between("q", q, 0, 1),
        )
        self._target_dtype = torch.int64


class KLDivergence(FunctionalLoss):
    """The sum of `y_true · log(y_true / y_pred)`, for probabilities `(batch, …, values)` clipped to `[1e-7, 1]`.

    >>> KLDivergence()([[0.5, 0.5]], [[0.5, 0.5]]).item()
    0.0
    """

    expects_probabilities = "distribution"

    def __init__(
        self,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "kl_divergence",
        dtype: DTypeLike = None,
    ):
        super().__init__(probabilistic.kl_divergence, name, reduction, dtype)


class Poisson(FunctionalLoss):
    """The mean of `y_pred - y_true · log(y_pred + 1e-7)`, for counts `y_true` and predicted rates `y_pred`.

    >>> Poisson()([[0.0, 0.0]], [[1.0, 3.0]]).item()
    2.0
    """

    def __init__(
        self,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "poisson",
        dtype: DTypeLike = None,
    ):
        super().__init__(probabilistic.poisson, name, reduction, dtype)


class CTC(FunctionalLoss):
    """Connectionist temporal classification, for label sequences without alignment (Graves et al., 2006).

    `y_true` holds class indices `(batch, labels)` from 1, padded with 0, the blank; `y_pred` holds logits
    `(batch, steps, classes)`. One loss per `(batch,)`; a sequence too long for the steps gives infinity, and no
    gradient.

    >>> round(CTC()([[1]], [[[0.0, 0.0]]]).item(), 4)
    0.6931
    """

    def __init__(
        self,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "ctc",
        dtype: DTypeLike = None,
    ):
        super().__init__(probabilistic.ctc, name, reduction, dtype)
        self._target_dtype = torch.int64


class _OverlapLoss(FunctionalLoss):
    """Base class of losses computed from sums over the dimensions `axis`, by default all, including the batch."""

    expects_probabilities = "single"
    _applies_mask = True
    axis: int | tuple[int, ...] | None

    def __init__(self, *arguments: Any, axis: Axes, **numbers: Any):
        """Take the arguments of `FunctionalLoss`."""
        super().__init__(*arguments, axis=validation.axes("axis", axis), **numbers)
        self.is_separable = self.axis is not None and 0 not in self._axes()

    def call(self, y_true: Nested, y_pred: Nested) -> Tensor:
        """Return the loss of each image, or of the batch, without masked predictions."""
        mask = get_mask(y_pred)
        if mask is None:
            return super().call(y_true, y_pred)
        y_true, y_pred = align_pair(y_true, y_pred)
        mask = require_mask(mask, y_pred).expand_as(y_pred)
        values = super().call(torch.where(mask, y_true, 0), torch.where(mask, y_pred, 0))
        return with_mask(values, mask.any(self.axis)) if self.axis is not None else values

    def _axes(self) -> tuple[int, ...]:
        return self.axis if isinstance(self.axis, tuple) else (() if self.axis is None else (self.axis,))

    def _is_of_batch(self, values: Tensor, y_true: Nested) -> bool:
        rank = y_true.dim()
        return self.axis is None or any(axis % max(rank, 1) == 0 for axis in self._axes())


class Dice(_OverlapLoss):
    """`1 - 2·Σ t·p / (Σ t + Σ p)`: 0 if prediction and mask are equal, 1 if they do not overlap.

    `axis` are the dimensions to sum over; `None`, the default, means all of them, including the batch.
    `axis=(1, 2, 3)` gives one loss per image, to which sample weights can be applied.

    >>> Dice()([[0.0, 1.0]], [[1.0, 1.0]]).item()  # doctest: +ELLIPSIS
    0.333...
    """

    def __init__(
        self,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "dice",
        axis: Axes = None,
        dtype: DTypeLike = None,
    ):
        super().__init__(classification.dice, name, reduction, dtype, axis=axis)


class Tversky(_OverlapLoss):
    """`1 - TP / (TP + alpha·FP + beta·FN)` of soft counts (Salehi et al., 2017).

    Args:
        alpha: How much false positives weigh, at least 0.
        beta: How much false negatives weigh, at least 0. (Keras had the two exchanged before 3.16.)
        axis: The dimensions that are summed over; `None` is all of them, the batch included.

    >>> Tversky(alpha=1.0, beta=1.0)([[0.0, 1.0]], [[1.0, 1.0]]).item()
    0.5
    """

    def __init__(
        self,
        alpha: float = 0.5,
        beta: float = 0.5,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "tversky",
        axis: Axes = None,
        dtype: DTypeLike = None,
    ):
        super().__init__(
            classification.tversky,
            name,
            reduction,
            dtype,
            alpha=validation.number("alpha", alpha, 0),
            beta=validation.number("beta", beta, 0),
            axis=axis,
        )
