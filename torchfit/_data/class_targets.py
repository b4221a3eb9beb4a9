"""Which class each target belongs to: class indices, one-hot rows and soft labels."""

from typing import Any

import torch
from torch import Tensor

from torchfit._utils.errors import describe

_TOLERANCE = 0.01  # of the sum of a row of soft labels


class TargetClasses:
    """Reads the classes of targets, in batches or all at once.

    Targets of two axes are one-hot rows or soft labels `(samples, classes)`, or class indices `(samples, steps)`. The
    loss may say which; else their values do, and what they said first holds for all batches. Ambiguous targets are
    refused.
    """

    def __init__(self, is_index: bool | None = None, largest_class: int = 0) -> None:
        """Read targets.

        Args:
            is_index: Whether integer targets of two axes are class indices, `None` if that is not known.
            largest_class: The largest class that is asked for, which one-hot rows must have a column for.
        """
        self._expects_index = is_index
        self._largest_class = largest_class
        self._has_index: bool | None = None  # what the values said

    def of(self, targets: Any, *, is_whole: bool = False) -> Tensor:
        """Return the classes `(samples,)`, or `(samples, steps)` of class indices of two axes; -1 is no class.

        Soft labels and numbers between two classes belong to the nearest one.

        Args:
            targets: The targets of a batch.
            is_whole: Whether they are those of all samples.

        Raises:
            ValueError: If the targets have more axes, or rows that are neither one-hot, soft labels nor class indices.
        """
        if not isinstance(targets, Tensor) or not 1 <= targets.ndim <= 2 or targets.is_complex():
            raise ValueError(_refusal(targets, "has other axes"))
        if targets.ndim == 1 or targets.shape[1] == 1:
            return _nearest(targets.reshape(-1))
        if self._are_indices(targets, is_whole):
            return _nearest(targets)
        return (targets.to(torch.uint8) if targets.dtype == torch.bool else targets).argmax(1)

    def _are_indices(self, targets: Tensor, is_whole: bool) -> bool:
        """Return whether targets of two axes are class indices. Values on an accelerator are read once."""
        if self._expects_index:
            return not targets.is_floating_point() or _has_index_values(targets)
        if self._has_index or (self._has_index is False and targets.device.type != "cpu"):
            return self._has_index
        found = self._infer(targets, is_whole)
        if found and self._has_index is False:
            raise ValueError(_refusal(targets, "has rows of another kind than the batches before"))
        self._has_index = found
        return found

    def _infer(self, targets: Tensor, is_whole: bool) -> bool:
        """Return whether the values of targets are class indices.

        Raises:
            ValueError: If they may be something else, such as several labels in a row.
        """
        if _has_index_values(targets):
            return True
        if not _has_one_class_each(targets):
            raise ValueError(_refusal(targets, "has rows with no or several labels, or of class indices 0 and 1 only"))
        if self._expects_index is not None or not bool(((targets == 0) | (targets == 1)).all()):
            return False
        if is_whole and _is_one_column(targets):
            raise ValueError(_refusal(targets, "has one row for all samples, one-hot or of class indices 0 and 1"))
        return self._largest_class >= targets.shape[1]  # One-hot rows have a column for each class.


def _has_index_values(targets: Tensor) -> bool:
    """Return whether values are whole numbers other than 0 and 1 alone, which no one-hot row or soft label holds."""
    if targets.dtype == torch.bool:
        return False
    is_beyond = bool(((targets < 0) | (targets > 1)).any())
    return is_beyond and (not targets.is_floating_point() or bool((targets == targets.round()).all()))


def _has_one_class_each(targets: Tensor) -> bool:
    """Return whether every row is one-hot or a distribution over the classes."""
    is_share = bool(((targets >= 0) & (targets <= 1)).all())
    return is_share and bool(((targets.sum(1, dtype=torch.float32) - 1).abs() < _TOLERANCE).all())


def _is_one_column(targets: Tensor) -> bool:
    """Return whether several one-hot rows all have the same class."""
    return len(targets) > 1 and not targets.is_floating_point() and int((targets.sum(0) > 0).sum()) == 1


def _nearest(targets: Tensor) -> Tensor:
    if not targets.is_floating_point():
        return targets.long()
    return torch.nan_to_num(targets, nan=-1.0, posinf=-1.0, neginf=-1.0).round().long()


def _refusal(targets: Any, problem: str) -> str:
    return (
        "`class_weight` needs one class for each sample, as targets (samples,), (samples, 1) or one-hot (samples, "
        f"classes), or class indices (samples, steps), but `y` is {describe(targets)} and {problem}. Pass "
        "`sample_weight` instead, with a weight for each sample or of the shape of `y`."
    )
