"""Accuracies: how often predictions are right."""

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from torchfit._types import Config, DTypeLike, TensorLike
from torchfit._utils import validation
from torchfit._utils.errors import describe
from torchfit._utils.tensors import as_tensor
from torchfit.functional import accuracy as of_samples
from torchfit.functional.alignment import as_mask, require_mask
from torchfit.losses.checks import LossTraits
from torchfit.metrics.reductions import MeanMetricWrapper


class _Matches(MeanMetricWrapper):
    """Fraction of samples that match: counted, without floating-point work per sample."""

    mode = "max"
    ignore_class: int | None = None

    def update_state(  # type: ignore[override]
        self, y_true: TensorLike, y_pred: TensorLike, sample_weight: TensorLike = None
    ) -> None:
        """Add one batch; shapes as the class says, `sample_weight (batch,)` or `(batch, …)`."""
        mask = getattr(y_pred, "_keras_mask", None)
        if not (isinstance(y_true, Tensor) and isinstance(y_pred, Tensor)):
            y_pred = as_tensor(y_pred)
            y_true = as_tensor(y_true, device=y_pred.device)
        found = self._fn(y_true, y_pred, **self._fn_kwargs)
        if self.ignore_class is not None and y_true.numel() == found.numel():
            kept = y_true != self.ignore_class
            if kept.shape != found.shape:
                kept = kept.reshape(found.shape)
            self._accumulate_kept(found, kept, sample_weight, mask)
        elif sample_weight is None and mask is None and found.ndim == 1 and found.device == self.total.device:
            self.total.add_(found.count_nonzero())
            self.count.add_(self._unit, alpha=found.shape[0])
        else:
            self._accumulate(found, sample_weight, mask)

    def _accumulate_kept(self, found: Tensor, kept: Tensor, sample_weight: TensorLike, mask: TensorLike) -> None:
        """Add the samples whose label is not the ignored one."""
        if sample_weight is not None or mask is not None or found.device != self.total.device:
            if mask is not None:
                kept = kept & require_mask(as_mask(mask, kept.device), kept)
            self._accumulate(found, sample_weight, kept)
        else:
            self.total.add_(found.logical_and_(kept).count_nonzero())
            self.count.add_(kept.count_nonzero())

    def get_config(self) -> Config:
        """Return the constructor's arguments."""
        config = super().get_config()
        return config if self.ignore_class is None else {**config, "ignore_class": self.ignore_class}


class Accuracy(_Matches):
    """How often predictions `(batch, …)` equal labels `(batch, …)`.

    >>> Accuracy()([1, 2, 3, 4], [0, 2, 3, 4]).item()
    0.75
    """

    def __init__(self, name: str | None = "accuracy", dtype: DTypeLike = None):
        super().__init__(of_samples.matches, name, dtype)


class BinaryAccuracy(_Matches):
    """How often scores above `threshold` agree with labels, both `(batch, …)`.

    Labels above one half are positive: 1 of 0 and 1, or of -1 and 1.

    Args:
        name: default `"binary_accuracy"`.
        dtype: see `Metric`.
        threshold: the probability above which a prediction is positive. Default 0.5.
        from_logits: whether scores are logits instead of probabilities; 0.5 is the logit 0 then.
        ignore_class: a label whose samples do not count.

    Raises:
        ValueError: if `threshold` is not a number, or with `from_logits` not between 0 and 1.

    >>> BinaryAccuracy()([[1], [1], [0], [0]], [[0.98], [1], [0], [0.6]]).item()
    0.75
    >>> BinaryAccuracy(from_logits=True)([[1], [1], [0], [0]], [[2.0], [0.3], [-1.0], [0.1]]).item()
    0.75
    """

    def __init__(
        self,
        name: str | None = "binary_accuracy",
        dtype: DTypeLike = None,
        threshold: float = 0.5,
        from_logits: bool = False,
        ignore_class: int | None = None,
    ):
        if not isinstance(threshold, (int, float)):
            raise ValueError(f"`threshold` must be a number. Received: {describe(threshold)}.")
        super().__init__(of_samples.binary_matches, name, dtype)
        self.threshold = threshold
        self.ignore_class = ignore_class
        self._set_from_logits(bool(from_logits))

    expects_binary_labels = True

    @property
    def expects_probabilities(self) -> bool:  # type: ignore[override]
        """Whether the threshold is a probability."""
        return not self.from_logits and 0 < self.threshold < 1

    def follow_loss(self, traits: LossTraits) -> None:
        """Read logits beside a loss of logits."""
        if not traits.is_multiclass:
            self.ignore_class = traits.ignore_class
            self._set_from_logits(traits.from_logits)

    def _set_from_logits(self, from_logits: bool) -> None:
        self.from_logits = from_logits
        self._fn_kwargs = {"threshold": logit(self.threshold) if from_logits else self.threshold}

    def get_config(self) -> Config:
        """Return the constructor's arguments."""
        config = {**super().get_config(), "threshold": self.threshold}
        return {**config, "from_logits": True} if self.from_logits else config


class _ClassMatches(_Matches):
    """Matches of labels and scores of exclusive classes along `axis`."""

    axis = -1
    has_class_axis = True

    @property
    def counts_every_label(self) -> bool:  # type: ignore[override]
        """Whether no label is ignored."""
        return self.ignore_class is None

    def __init__(
        self,
        fn: Callable[..., Tensor],
        name: str | None,
        dtype: DTypeLike,
        axis: int,
        ignore_class: int | None,
        **kwargs: Any,
    ):
        super().__init__(fn, name, dtype, **kwargs)
        self.ignore_class = ignore_class
        self._set_axis(validation.integer("axis", axis))

    def _set_axis(self, axis: int) -> None:
        self.axis = axis
        self._fn_kwargs = {**self._fn_kwargs, "axis": axis}

    def follow_loss(self, traits: LossTraits) -> None:
        """Take classes and ignored labels from a loss, and labels of either form, which may change between batches."""
        if traits.is_multiclass:
            self._set_axis(traits.axis)
            self.ignore_class = traits.ignore_class
        self._fn = _FOR_ANY_LABELS.get(self._fn, self._fn)

    def get_config(self) -> Config:
        """Return the constructor's arguments."""
        config = super().get_config()
        return {key: value for key, value in config.items() if key != "axis" or value != -1}


class CategoricalAccuracy(_ClassMatches):
    """How often the largest score is that of the labelled class.

    Labels are one-hot or soft, both `(batch, …)` with the classes along `axis`, by default the last dimension.

    >>> CategoricalAccuracy()([[0, 0, 1], [0, 1, 0]], [[0.1, 0.9, 0.8], [0.05, 0.95, 0]]).item()
    0.5
    """

    def __init__(self, name: str | None = "categorical_accuracy", dtype: DTypeLike = None, axis: int = -1):
        super().__init__(of_samples.categorical_matches, name, dtype, axis, None)


class SparseCategoricalAccuracy(_ClassMatches):
    """How often the largest score is that of the labelled class.

    Scores are `(batch, …)` with the classes along `axis`, by default the last dimension. Labels are class indices of
    the same shape without it, or with a size of 1 in its place or at the end. Samples whose label is `ignore_class` do
    not count.

    >>> SparseCategoricalAccuracy()([[2], [1]], [[0.1, 0.6, 0.3], [0.05, 0.95, 0]]).item()
    0.5
    >>> SparseCategoricalAccuracy(ignore_class=2)([2, 1], [[0.1, 0.6, 0.3], [0.05, 0.95, 0]]).item()
    1.0
    """

    def __init__(
        self,
        name: str | None = "sparse_categorical_accuracy",
        dtype: DTypeLike = None,
        axis: int = -1,
        ignore_class: int | None = None,
    ):
        super().__init__(of_samples.sparse_categorical_matches, name, dtype, axis, ignore_class)


class TopKCategoricalAccuracy(_ClassMatches):
    """How often the labelled class is among the `k` best scores.

    Labels are one-hot or soft, both `(batch, …)` with the classes along `axis`, by default the last dimension.

    >>> TopKCategoricalAccuracy(k=1)([[0, 0, 1], [0, 1, 0]], [[0.1, 0.9, 0.8], [0.05, 0.95, 0]]).item()
    0.5
    """

    def __init__(
        self, k: int = 5, name: str | None = "top_k_categorical_accuracy", dtype: DTypeLike = None, axis: int = -1
    ):
        super().__init__(of_samples.top_k_matches, name, dtype, axis, None, k=_checked_k(k))


class SparseTopKCategoricalAccuracy(_ClassMatches):
    """How often the labelled class is among the `k` best scores.

    Scores, labels, `axis` and `ignore_class` are as for `SparseCategoricalAccuracy`. With `from_sorted_ids=True`
    predictions are class indices, the best first, instead of scores.

    >>> SparseTopKCategoricalAccuracy(k=1)([2, 1], [[0.1, 0.9, 0.8], [0.05, 0.95, 0]]).item()
    0.5
    """

    def __init__(
        self,
        k: int = 5,
        name: str | None = "sparse_top_k_categorical_accuracy",
        dtype: DTypeLike = None,
        from_sorted_ids: bool = False,
        axis: int = -1,
        ignore_class: int | None = None,
    ):
        function = of_samples.sparse_top_k_matches
        super().__init__(
            function, name, dtype, axis, ignore_class, k=_checked_k(k), from_sorted_ids=bool(from_sorted_ids)
        )


_FOR_ANY_LABELS: dict[Callable[..., Tensor], Callable[..., Tensor]] = {
    of_samples.categorical_matches: of_samples.class_matches,
    of_samples.sparse_categorical_matches: of_samples.class_matches,
    of_samples.top_k_matches: of_samples.class_top_k_matches,
    of_samples.sparse_top_k_matches: of_samples.class_top_k_matches,
}


def logit(probability: float) -> float:
    """Return the logit of a probability between 0 and 1.

    Raises:
        ValueError: for other numbers.

    >>> logit(0.5)
    0.0
    """
    if not 0 < probability < 1:
        raise ValueError(f"`threshold` must be between 0 and 1 with from_logits=True. Received: {probability}.")
    return math.log(probability / (1 - probability))


def _checked_k(k: object) -> int:
    if not isinstance(k, int) or k < 1:
        raise ValueError(f"`k` must be an integer of at least 1. Received: {describe(k)}.")
    return k
