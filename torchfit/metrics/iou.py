"""Intersection over union, for segmentation."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from torchfit._types import Config, DTypeLike, TensorLike
from torchfit._utils.errors import describe, warn
from torchfit._utils.tensors import as_dtype, as_tensor, count_dtype, sum_dtype
from torchfit.functional.alignment import align_ranks, get_mask, shape_mismatch_error
from torchfit.functional.classification import confusion_matrix, ratio
from torchfit.losses.checks import LossTraits
from torchfit.metrics.base import SUM_DTYPE, Metric
from torchfit.metrics.checks import integer, merge_weights, unit_interval

_EPSILON = 1e-7


class IoU(Metric):
    """Intersection over union of some classes: true positives / (true and false positives + false negatives).

    The result is the mean over the target classes that occur in labels or predictions.

    Args:
        num_classes: Number of classes.
        target_class_ids: The classes that are evaluated.
        name: Default `"io_u"`.
        dtype: Whether to count in integers (default, `"int"`), which truncates sample weights, as Keras does, or in
            floating point, `"float32"`, for fractional weights. Counts are kept in 64 bits.
        ignore_class: Class index whose samples are ignored.
        sparse_y_true: Whether labels are class indices `(batch, …)`, else one-hot or scores along `axis`.
        sparse_y_pred: The same for predictions.
        axis: Dimension of the classes where they are not sparse.

    Raises:
        ValueError: For values out of range.

    `update_state(y_true, y_pred, sample_weight=None)`: weights `(batch, …)`, or its first dimensions.

    >>> round(IoU(num_classes=2, target_class_ids=[0])([0, 0, 1, 1], [0, 1, 0, 1]).item(), 4)
    0.3333
    """

    mode = "max"

    def __init__(
        self,
        num_classes: int,
        target_class_ids: Sequence[int],
        name: str | None = None,
        dtype: DTypeLike = None,
        ignore_class: int | None = None,
        sparse_y_true: bool = True,
        sparse_y_pred: bool = True,
        axis: int = -1,
    ):
        super().__init__(name=name, dtype=torch.int32 if dtype in (None, "int") else as_dtype(dtype))
        self.num_classes = integer("num_classes", num_classes, 1)
        self.target_class_ids = _checked_ids(target_class_ids, num_classes)
        self.ignore_class = ignore_class
        self.sparse_y_true, self.sparse_y_pred = bool(sparse_y_true), bool(sparse_y_pred)
        self.axis = axis
        counts = SUM_DTYPE if self._dtype.is_floating_point else torch.int64
        shape = (num_classes, num_classes)
        self.total_confusion_matrix = self.add_weight(shape, dtype=counts, name="total_confusion_matrix")

    @property
    def has_class_axis(self) -> bool:  # type: ignore[override]
        """Whether predictions are scores."""
        return not self.sparse_y_pred

    def update_state(self, y_true: TensorLike, y_pred: TensorLike, sample_weight: TensorLike = None) -> None:
        """Add one batch."""
        mask = get_mask(y_pred)
        predicted = self._predicted(as_tensor(y_pred).detach())
        labels = self._labels(as_tensor(y_true, device=predicted.device))
        labels, predicted = align_ranks(labels.long(), predicted.long())
        if labels.shape != predicted.shape:
            raise shape_mismatch_error(
                labels, predicted, "class indices of one shape", "See sparse_y_true, sparse_y_pred."
            )
        if predicted.device != self.total_confusion_matrix.device:
            self.to(predicted.device)
        weights = self._weights(labels, sample_weight, mask)
        self.total_confusion_matrix.add_(
            confusion_matrix(labels.flatten(), predicted.flatten(), self.num_classes, weights.flatten())
        )

    def _predicted(self, y_pred: Tensor) -> Tensor:
        return y_pred if self.sparse_y_pred else y_pred.argmax(self.axis)

    def _labels(self, y_true: Tensor) -> Tensor:
        if self.sparse_y_true:
            return y_true
        return (y_true.byte() if y_true.dtype is torch.bool else y_true).argmax(self.axis)

    def _weights(self, labels: Tensor, sample_weight: TensorLike, mask: TensorLike) -> Tensor:
        device = labels.device
        dtype = sum_dtype(device) if self._dtype.is_floating_point else count_dtype(device)
        weights = torch.ones_like(labels, dtype=dtype)
        if sample_weight is not None:
            _warn_of_truncation(sample_weight, self._dtype)
        merged = merge_weights(sample_weight, mask, weights)
        weights = weights if merged is None else merged
        return weights if self.ignore_class is None else weights * (labels != self.ignore_class)

    def result(self) -> Tensor:
        """Return the mean over the target classes that occur, a scalar; 0 if none does."""
        matrix = self.total_confusion_matrix.to(sum_dtype(self.total_confusion_matrix.device))
        right = matrix.diagonal()
        union = matrix.sum(0) + matrix.sum(1) - right
        wanted = torch.zeros_like(right)
        wanted[self.target_class_ids] = 1.0
        occurring = wanted * (union > 0)
        return ratio((right / (union + _EPSILON) * occurring).sum(), occurring.sum()).to(torch.float32)

    def get_config(self) -> Config:
        """Return the constructor's arguments."""
        config = {
            "num_classes": self.num_classes,
            "target_class_ids": self.target_class_ids,
            "ignore_class": self.ignore_class,
            "sparse_y_true": self.sparse_y_true,
            "sparse_y_pred": self.sparse_y_pred,
            "axis": self.axis,
        }
        return {**super().get_config(), **{key: value for key, value in config.items() if key not in self._fixed}}

    _fixed: tuple[str, ...] = ()


class BinaryIoU(IoU):
    """Intersection over union where scores of at least `threshold` are class 1, else class 0.

    Args:
        target_class_ids: The classes that are evaluated. Default both.
        threshold: From 0 to 1. Default 0.5.
        name: Default `"binary_io_u"`.
        dtype: See `IoU`.
        from_logits: Whether scores are logits.

    Raises:
        ValueError: For values out of range.

    `update_state(y_true, y_pred, sample_weight=None)`: labels, those above one half being class 1, and scores, of one
    shape `(batch, …)`.

    >>> round(BinaryIoU(threshold=0.3)([0, 1, 0, 1], [0.1, 0.2, 0.4, 0.7]).item(), 4)
    0.3333
    """

    _fixed = ("num_classes", "ignore_class", "sparse_y_true", "sparse_y_pred", "axis")

    def __init__(
        self,
        target_class_ids: Sequence[int] = (0, 1),
        threshold: float = 0.5,
        name: str | None = None,
        dtype: DTypeLike = None,
        from_logits: bool = False,
    ):
        super().__init__(2, target_class_ids, name, dtype)
        self.threshold = unit_interval("threshold", threshold)
        self.from_logits = bool(from_logits)

    expects_binary_labels = True

    @property
    def expects_probabilities(self) -> bool:  # type: ignore[override]
        """Whether the threshold is a probability."""
        return not self.from_logits and 0 < self.threshold < 1

    def follow_loss(self, traits: LossTraits) -> None:
        """Expect logits if the loss does."""
        self.from_logits = traits.from_logits and not traits.is_multiclass

    def _predicted(self, y_pred: Tensor) -> Tensor:
        return (y_pred.sigmoid() if self.from_logits else y_pred) >= self.threshold

    def _labels(self, y_true: Tensor) -> Tensor:
        return y_true > 0.5

    def get_config(self) -> Config:
        """Return the constructor's arguments."""
        config = {**super().get_config(), "threshold": self.threshold}
        return {**config, "from_logits": True} if self.from_logits else config


class MeanIoU(IoU):
    """Mean intersection over union of all classes that occur; arguments as for `IoU`.

    >>> round(MeanIoU(num_classes=2)([0, 0, 1, 1], [0, 1, 0, 1]).item(), 4)
    0.3333
    """

    _fixed: tuple[str, ...] = ("target_class_ids",)

    def __init__(
        self,
        num_classes: int,
        name: str | None = None,
        dtype: DTypeLike = None,
        ignore_class: int | None = None,
        sparse_y_true: bool = True,
        sparse_y_pred: bool = True,
        axis: int = -1,
    ):
        everything = range(integer("num_classes", num_classes, 1))
        super().__init__(num_classes, everything, name, dtype, ignore_class, sparse_y_true, sparse_y_pred, axis)


class OneHotIoU(IoU):
    """Intersection over union of some classes, with one-hot labels `(batch, …, classes)`; see `IoU`.

    Predictions are scores of the same shape, or class indices with `sparse_y_pred=True`.

    >>> y_true = [[0, 0, 1], [1, 0, 0], [0, 1, 0], [1, 0, 0]]
    >>> y_pred = [[0.2, 0.3, 0.5], [0.1, 0.2, 0.7], [0.5, 0.3, 0.1], [0.1, 0.4, 0.5]]
    >>> round(OneHotIoU(num_classes=3, target_class_ids=[0, 2])(y_true, y_pred).item(), 4)
    0.1667
    """

    _fixed = ("sparse_y_true",)

    def __init__(
        self,
        num_classes: int,
        target_class_ids: Sequence[int],
        name: str | None = None,
        dtype: DTypeLike = None,
        ignore_class: int | None = None,
        sparse_y_pred: bool = False,
        axis: int = -1,
    ):
        super().__init__(num_classes, target_class_ids, name, dtype, ignore_class, False, sparse_y_pred, axis)


class OneHotMeanIoU(MeanIoU):
    """Mean intersection over union of all classes, with one-hot labels `(batch, …, classes)`; see `IoU`.

    Predictions are scores of the same shape, or class indices with `sparse_y_pred=True`.

    >>> y_true = [[0, 0, 1], [1, 0, 0], [0, 1, 0], [1, 0, 0]]
    >>> y_pred = [[0.2, 0.3, 0.5], [0.1, 0.2, 0.7], [0.5, 0.3, 0.1], [0.1, 0.4, 0.5]]
    >>> round(OneHotMeanIoU(num_classes=3)(y_true, y_pred).item(), 4)
    0.1111
    """

    _fixed = ("target_class_ids", "sparse_y_true")

    def __init__(
        self,
        num_classes: int,
        name: str | None = None,
        dtype: DTypeLike = None,
        ignore_class: int | None = None,
        sparse_y_pred: bool = False,
        axis: int = -1,
    ):
        super().__init__(num_classes, name, dtype, ignore_class, False, sparse_y_pred, axis)


def _warn_of_truncation(sample_weight: TensorLike, dtype: torch.dtype) -> None:
    if as_tensor(sample_weight).is_floating_point() and not dtype.is_floating_point:
        warn(
            "`sample_weight` holds fractions, which a metric that counts in integers truncates. Pass dtype='float32' "
            "to the metric."
        )


def _checked_ids(ids: Iterable[int], num_classes: int) -> list[int]:
    wanted = list(ids)
    if not wanted or any(not isinstance(number, int) or not 0 <= number < num_classes for number in wanted):
        raise ValueError(
            f"`target_class_ids` must be class indices from 0 to {num_classes - 1}. "
            f"Received: {describe(ids)}" + (f" with {wanted}." if len(wanted) <= 10 else ".")
        )
    return wanted
