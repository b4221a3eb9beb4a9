"""The labels of a Dataset: what it has as `targets` or `labels`, and what its samples have."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset, default_collate

from torchfit._data.batch_converter import unpack
from torchfit._data.convert import tensor_of
from torchfit._utils.errors import describe
from torchfit._utils.rng import random_state, restore_random_state

_MAX_COMPARED = 1000
_FEW = 16
ReadSamples = Callable[[Sequence[int]], Sequence[Any]]


def shown_labels(dataset: Any) -> Tensor | None:
    """Return the `targets` or `labels` of a Dataset or of the one that a `Subset` takes its samples from.

    `None` unless they are numbers, one entry for each sample: they may be names, paths or boxes as well. A transform
    may turn them into something else, so they need not be what the samples have.
    """
    if isinstance(dataset, Subset):
        labels = shown_labels(dataset.dataset)
        return None if labels is None else labels[torch.as_tensor(dataset.indices, dtype=torch.int64)]
    found = (_as_labels(getattr(dataset, name, None), len(dataset)) for name in ("targets", "labels"))
    return next((labels for labels in found if labels is not None), None)


def exact_labels(dataset: Any, rows: range, read: ReadSamples) -> Any:
    """Return the targets of the samples `rows`, a tensor `(samples, …)` or a nest of these.

    Where the Dataset shows labels, one sample of each class is compared with them; where these differ, or there are
    none, all samples are read.

    Raises:
        ValueError: If the samples have no targets, or targets that are no numbers.
    """
    labels = shown_labels(dataset)
    before = random_state(devices=False)
    try:
        if labels is not None and _agree(labels, rows, read):
            return labels[rows.start : rows.stop]
        return _read_targets(rows, read)
    finally:
        restore_random_state(before)


def _as_labels(value: Any, samples: int) -> Tensor | None:
    if value is None or isinstance(value, (str, bytes, Mapping)):
        return None
    try:
        labels = tensor_of("labels", value)
    except (ValueError, TypeError, RuntimeError):
        return None
    return labels if len(labels) == samples and not labels.is_complex() else None


def _agree(labels: Tensor, rows: range, read: ReadSamples) -> bool:
    """Return whether samples have the labels that the Dataset shows: one of each class, and a few more."""
    part = labels[rows.start : rows.stop].cpu()
    positions = {int(position) for position in np.linspace(0, len(part) - 1, _FEW)}
    if part.ndim == 1:
        positions |= set(np.unique(part.numpy(), return_index=True)[1][:_MAX_COMPARED].tolist())
    order = sorted(positions)
    targets = [_target_of(sample) for sample in read([rows[position] for position in order])]
    return all(_is_equal(target, part[position]) for target, position in zip(targets, order))


def _is_equal(target: Any, label: Tensor) -> bool:
    try:
        found = torch.as_tensor(target)
    except (ValueError, TypeError, RuntimeError):
        return False
    return found.numel() == label.numel() and bool((found.cpu().reshape(-1) == label.reshape(-1)).all())


def _read_targets(rows: range, read: ReadSamples) -> Any:
    targets = [_target_of(sample) for row in rows for sample in read([row])]
    try:
        return default_collate(targets)
    except (RuntimeError, TypeError, KeyError) as error:
        raise ValueError(
            f"`class_weight='balanced'` needs targets that are class indices or one-hot rows, but those of the Dataset "
            f"cannot be counted: {error}. Count them yourself and pass a dictionary {{class: weight}}."
        ) from error


def _target_of(sample: Any) -> Any:
    parts = unpack(sample)
    if len(parts) < 2 or parts[1] is None:
        raise ValueError(
            f"`class_weight` needs the classes of the samples, but a sample of the Dataset is {describe(sample)}: "
            "return (x, y) from `__getitem__`."
        )
    return parts[1]
