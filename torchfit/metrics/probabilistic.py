"""Metrics that are the mean of a loss for probabilities, logits or margins."""

import torch
from torch import Tensor

from torchfit._types import Config, DTypeLike
from torchfit.functional import probabilistic
from torchfit.functional import regression as of_samples
from torchfit.functional.alignment import fit_mask
from torchfit.losses.checks import LossTraits
from torchfit.metrics.checks import unit_interval
from torchfit.metrics.reductions import MeanMetricWrapper


class KLDivergence(MeanMetricWrapper):
    """Mean of `Σ y_true·log(y_true / y_pred)` over the last dimension of `(batch, …, values)`.

    >>> round(KLDivergence()([[0, 1], [0, 0]], [[0.6, 0.4], [0.4, 0.6]]).item(), 4)
    0.4581
    """

    mode = "min"

    def __init__(self, name: str | None = "kl_divergence", dtype: DTypeLike = None):
        super().__init__(probabilistic.kl_divergence, name, dtype)


class Poisson(MeanMetricWrapper):
    """Mean of `y_pred - y_true·log(y_pred)`, both `(batch, …)`: how unlikely counts are under rates.

    >>> round(Poisson()([[0, 1], [0, 0]], [[1, 1], [0, 0]]).item(), 4)
    0.5
    """

    mode = "min"

    def __init__(self, name: str | None = "poisson", dtype: DTypeLike = None):
        super().__init__(probabilistic.poisson, name, dtype)


class _Crossentropy(MeanMetricWrapper):
    """Base class of crossentropies, which adopt the form of labels and predictions from the loss if given by name."""

    mode = "min"

    @property
    def from_logits(self) -> bool:
        """Whether predictions are logits."""
        return bool(self._fn_kwargs["from_logits"])

    @property
    def expects_probabilities(self) -> bool:  # type: ignore[override]
        """Whether predictions are probabilities."""
        return not self.from_logits

    def follow_loss(self, traits: LossTraits) -> None:
        """Expect logits if the loss does."""
        self._fn_kwargs["from_logits"] = traits.from_logits


class _ClassCrossentropy(_Crossentropy):
    """Base class of crossentropies of exclusive classes."""

    has_class_axis = True
    ignore_class: int | None = None
    _takes_any_labels = False

    @property
    def axis(self) -> int:
        """The dimension of the classes."""
        return int(self._fn_kwargs["axis"])

    def follow_loss(self, traits: LossTraits) -> None:
        """Adopt the class axis and ignored label of a loss, and accept labels of either form."""
        super().follow_loss(traits)
        self._takes_any_labels = self._applies_ignored = True
        if traits.is_multiclass:
            self._fn_kwargs["axis"], self.ignore_class = traits.axis, traits.ignore_class

    def _values(self, y_true: Tensor, y_pred: Tensor, mask: Tensor | None) -> Tensor:
        kept = None if mask is None or y_true.shape == y_pred.shape else fit_mask(mask, y_true)
        if kept is not None:
            y_true = torch.where(kept, y_true, 0)  # padding may be outside the classes
        if not self._takes_any_labels:
            return super()._values(y_true, y_pred, mask)
        reading: Config = {"from_logits": self.from_logits, "axis": self.axis}
        if y_true.shape == y_pred.shape:
            return probabilistic.categorical_crossentropy(y_true, y_pred, **reading)
        return probabilistic.sparse_categorical_crossentropy(y_true, y_pred, ignore_class=self.ignore_class, **reading)


class BinaryCrossentropy(_Crossentropy):
    """Mean crossentropy of labels from 0 to 1 and probabilities, or logits, both `(batch, …)`.

    `label_smoothing`, from 0 to 1, moves the labels towards ½.

    >>> round(BinaryCrossentropy()([[0, 1], [0, 0]], [[0.6, 0.4], [0.4, 0.6]]).item(), 4)
    0.8149
    """

    def __init__(
        self,
        name: str | None = "binary_crossentropy",
        dtype: DTypeLike = None,
        from_logits: bool = False,
        label_smoothing: float = 0,
    ):
        smoothing = unit_interval("label_smoothing", label_smoothing)
        super().__init__(
            probabilistic.binary_crossentropy, name, dtype, from_logits=from_logits, label_smoothing=smoothing
        )

    def follow_loss(self, traits: LossTraits) -> None:
        """Expect logits if the loss does."""
        if not traits.is_multiclass:
            self._fn_kwargs["from_logits"] = traits.from_logits


class CategoricalCrossentropy(_ClassCrossentropy):
    """Mean crossentropy of one-hot or soft labels and probabilities, or logits, both `(batch, …, classes)`.

    `label_smoothing`, from 0 to 1, gives this fraction of the labels to all classes alike; `axis` is the dimension of
    the classes.

    >>> y_true, y_pred = [[0, 1, 0], [0, 0, 1]], [[0.05, 0.95, 0], [0.1, 0.8, 0.1]]
    >>> round(CategoricalCrossentropy()(y_true, y_pred).item(), 4)
    1.1769
    """

    def __init__(
        self,
        name: str | None = "categorical_crossentropy",
        dtype: DTypeLike = None,
        from_logits: bool = False,
        label_smoothing: float = 0,
        axis: int = -1,
    ):
        super().__init__(
            probabilistic.categorical_crossentropy,
            name,
            dtype,
            from_logits=from_logits,
            label_smoothing=unit_interval("label_smoothing", label_smoothing),
            axis=axis,
        )


class SparseCategoricalCrossentropy(_ClassCrossentropy):
    """Mean crossentropy of class indices `(batch, …)` and probabilities, or logits, `(batch, …, classes)`.

    Samples labelled `ignore_class` are 0, and count all the same unless there are weights, as in Keras; `axis`
    is the dimension of the classes.

    >>> round(SparseCategoricalCrossentropy()([1, 2], [[0.05, 0.95, 0], [0.1, 0.8, 0.1]]).item(), 4)
    1.1769
    """

    def __init__(
        self,
        name: str | None = "sparse_categorical_crossentropy",
        dtype: DTypeLike = None,
        from_logits: bool = False,
        ignore_class: int | None = None,
        axis: int = -1,
    ):
        super().__init__(
            probabilistic.sparse_categorical_crossentropy,
            name,
            dtype,
            from_logits=from_logits,
            ignore_class=ignore_class,
            axis=axis,
        )
        self.ignore_class = ignore_class


class Hinge(MeanMetricWrapper):
    """Mean of `max(1 - y_true·y_pred, 0)`, both `(batch, …)`, with labels of -1 and 1 (or 0 and 1).

    >>> round(Hinge()([[0, 1], [0, 0]], [[0.6, 0.4], [0.4, 0.6]]).item(), 4)
    1.3
    """

    mode = "min"

    def __init__(self, name: str | None = "hinge", dtype: DTypeLike = None):
        super().__init__(of_samples.hinge, name, dtype)


class SquaredHinge(MeanMetricWrapper):
    """Mean of `max(1 - y_true·y_pred, 0)²`, both `(batch, …)`, with labels of -1 and 1 (or 0 and 1).

    >>> round(SquaredHinge()([[0, 1], [0, 0]], [[0.6, 0.4], [0.4, 0.6]]).item(), 4)
    1.86
    """

    mode = "min"

    def __init__(self, name: str | None = "squared_hinge", dtype: DTypeLike = None):
        super().__init__(of_samples.squared_hinge, name, dtype)


class CategoricalHinge(MeanMetricWrapper):
    """Mean of `max(largest wrong score - right score + 1, 0)`, labels one-hot, both `(batch, …, classes)`.

    >>> round(CategoricalHinge()([[0, 1], [0, 0]], [[0.6, 0.4], [0.4, 0.6]]).item(), 4)
    1.4
    """

    mode = "min"

    def __init__(self, name: str | None = "categorical_hinge", dtype: DTypeLike = None):
        super().__init__(of_samples.categorical_hinge, name, dtype)
