"""`validation_split`: holds out the last samples for validation, before shuffling."""

import math

import torch
from torch import Tensor

from torchfit._types import Nested, UserData
from torchfit._utils import tree, validation
from torchfit._utils.errors import warn

_MAX_CLASSES = 1000
_MIN_EXPECTED_COUNT = 5
_MAX_SHARE_DIFFERENCE = 0.3


def split_index(samples: int, fraction: object) -> int:
    """Return the index at which the last `fraction` of the samples begins.

    Raises:
        ValueError: If `fraction` is not between 0 and 1, or one side would be empty.
    """
    share = validation.fraction("validation_split", fraction)
    index = math.floor(samples * (1 - share))
    if index in (0, samples):
        raise ValueError(
            f"`validation_split={fraction}` of {samples} samples leaves one side empty. Choose another fraction, "
            "or pass `validation_data`."
        )
    return index


def split_last(parts: tuple[UserData, ...], fraction: object) -> tuple[tuple[UserData, ...], tuple[UserData, ...]]:
    """Split nests of tensors into the first `1 - fraction` of the rows and the rest, as views.

    Raises:
        ValueError: If `fraction` is not between 0 and 1, or one side would be empty.
    """
    start = split_index(len(tree.leaves(parts)[0]), fraction)
    first = tuple(tree.map(lambda leaf: leaf[:start], part) for part in parts)
    last = tuple(tree.map(lambda leaf: leaf[start:], part) for part in parts)
    return first, last


def warn_of_sorted_labels(first: Nested, last: Nested) -> None:
    """Warn if the held-out labels differ from the rest, which suggests that the data are sorted by class."""
    for (path, kept), (_, held_out) in zip(tree.leaves_with_path(first), tree.leaves_with_path(last)):
        if not (isinstance(kept, Tensor) and _are_classes(kept)):
            continue
        difference = describe_label_shift(_class_counts(kept), _class_counts(held_out))
        if difference:
            warn(
                f"`validation_split` takes the last samples, and in `{tree.format_path(path, 'y')}` {difference}. "
                "The data seem to be sorted: shuffle x and y together before calling `fit`, or pass "
                "`validation_data`."
            )


def _are_classes(labels: Tensor) -> bool:
    """Return whether labels look like classes: a limited range of integers from 0, or one-hot rows."""
    if labels.ndim > 2 or labels.is_complex():
        return False
    values = labels if labels.ndim == 2 and labels.shape[1] > 1 else labels.reshape(-1)
    if not labels.is_floating_point() and labels.dtype != torch.bool and values.ndim == 1:
        return bool(((values >= 0) & (values < _MAX_CLASSES)).all())
    zero_or_one = bool(((values == 0) | (values == 1)).all())
    return zero_or_one and (values.ndim == 1 or bool((values.sum(1) == 1).all()))


def _class_counts(labels: Tensor) -> Tensor:
    """Count the samples of every class in class indices or one-hot rows."""
    if labels.dtype == torch.bool:
        labels = labels.to(torch.uint8)
    return torch.bincount(labels.argmax(1) if labels.ndim == 2 and labels.shape[1] > 1 else labels.reshape(-1).long())


def describe_label_shift(kept: Tensor, held_out: Tensor) -> str:
    """Describe how two class counts `(classes,)` differ beyond chance, or return "" if they do not.

    A class missing on one side counts if at least 5 samples of it were expected there. Otherwise the class frequencies
    count, if they differ by 30 percentage points more than those of two random parts would.

    >>> describe_label_shift(torch.tensor([40, 0]), torch.tensor([0, 10]))
    'class 0 is among the first samples only, class 1 among the last only'
    """
    size = max(len(kept), len(held_out))
    kept = torch.nn.functional.pad(kept, (0, size - len(kept))).double()
    held_out = torch.nn.functional.pad(held_out, (0, size - len(held_out))).double()
    total, held_out_fraction = kept + held_out, held_out.sum() / (kept.sum() + held_out.sum())
    only_first = ((held_out == 0) & (total * held_out_fraction >= _MIN_EXPECTED_COUNT)).nonzero().flatten().tolist()
    only_last = ((kept == 0) & (total * (1 - held_out_fraction) >= _MIN_EXPECTED_COUNT)).nonzero().flatten().tolist()
    if only_first or only_last:
        sides = [(only_first, "among the first samples only"), (only_last, "among the last only")]
        return ", ".join(f"{_classes(labels)} {where}" for labels, where in sides if labels).replace(
            " among", " is among", 1
        )
    distance = float((kept / kept.sum() - held_out / held_out.sum()).abs().sum()) / 2
    noise = math.sqrt(int((total > 0).sum()) / float(torch.minimum(kept.sum(), held_out.sum())))
    return (
        "the frequencies of the classes are very different from those in the rest"
        if distance > _MAX_SHARE_DIFFERENCE + noise
        else ""
    )


def _classes(labels: list[int]) -> str:
    if len(labels) == 1:
        return f"class {labels[0]}"
    return f"classes {', '.join(map(str, labels[:8]))}{' …' if len(labels) > 8 else ''}"
