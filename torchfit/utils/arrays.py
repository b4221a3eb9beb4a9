"""Helpers for arrays: one-hot labels, unit vectors, sequences of one length."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchfit._types import Array, TensorLike
from torchfit._utils.errors import describe


def to_categorical(x: TensorLike, num_classes: int | None = None) -> TensorLike:
    """Turn class indices into one-hot rows, for `CategoricalCrossentropy`.

    Args:
        x: Class indices from 0, `(…)` or `(…, 1)`: an array, a tensor or (nested) list of integers.
        num_classes: The number of classes; by default the largest index in `x`, plus 1.

    Returns:
        `(…, num_classes)`: a tensor of torch's default floating dtype, on the same device, where `x` is a tensor;
        else a NumPy array.

    Raises:
        ValueError: If a number is negative or not less than `num_classes`.

    >>> to_categorical([0, 2, 1])
    array([[1., 0., 0.],
           [0., 0., 1.],
           [0., 1., 0.]])
    """
    labels = np.asarray(x.cpu() if isinstance(x, Tensor) else x).astype("int64")
    if labels.ndim > 1 and labels.shape[-1] == 1:
        labels = labels[..., 0]
    classes = int(labels.max(initial=-1)) + 1 if num_classes is None else int(num_classes)
    if labels.size and (labels.min() < 0 or labels.max() >= classes):
        raise ValueError(
            f"`x` must hold class indices from 0 to {classes - 1}, but they go from {labels.min()} to {labels.max()}. "
            "Renumber them, or pass a larger `num_classes`."
        )
    rows = np.eye(classes)[labels]
    return x.new_tensor(rows, dtype=_floating(x)) if isinstance(x, Tensor) else rows


def normalize(x: TensorLike, axis: int = -1, order: int | float = 2) -> TensorLike:
    """Divide vectors by their norm; vectors of zeros stay as they are.

    Args:
        x: An array or tensor of any shape, or a list.
        axis: The dimension along which the vectors lie.
        order: Of the norm: 2 is the Euclidean one.

    Returns:
        The same shape, a tensor where `x` is one, else an array.

    >>> normalize([[3.0, 4.0], [0.0, 0.0]])
    array([[0.6, 0.8],
           [0. , 0. ]])
    """
    if isinstance(x, Tensor):
        x = x if x.is_floating_point() else x.to(_floating(x))
        norm = x.norm(p=order, dim=axis, keepdim=True)
        return x / norm.masked_fill(norm == 0, 1)
    array = np.atleast_1d(np.asarray(x))
    length = np.atleast_1d(np.linalg.norm(array, order, axis, keepdims=True))
    return array / np.where(length == 0, 1, length)


def pad_sequences(
    sequences: Iterable[Sequence[object]],
    maxlen: int | None = None,
    dtype: Any = "int32",
    padding: str = "pre",
    truncating: str = "pre",
    value: object = 0.0,
) -> Array:
    """Pad or truncate sequences to one length, so that they fit into one array.

    Args:
        sequences: Sequences of numbers, or of vectors of one shape.
        maxlen: The length; by default that of the longest sequence.
        dtype: Of the result; `object` for strings.
        padding: "pre" or "post": whether `value` goes before or after the shorter sequences.
        truncating: "pre" or "post": whether the beginning or the end of the longer ones is cut off.
        value: What to pad with.

    Returns:
        An array `(sequences, maxlen, …)`.

    Raises:
        ValueError: If something is no sequence, vectors differ in shape, or an argument is none of its values.

    >>> pad_sequences([[1], [2, 3, 4]], maxlen=2)
    array([[0, 1],
           [3, 4]], dtype=int32)
    """
    _check_side("padding", padding)
    _check_side("truncating", truncating)
    if not isinstance(sequences, Iterable):
        raise ValueError(f"`sequences` must be iterable, but it is {describe(sequences)}.")
    rows = [_row(position, sequence) for position, sequence in enumerate(sequences)]
    length = max(map(len, rows), default=0) if maxlen is None else maxlen
    inner = next((row.shape[1:] for row in rows if len(row)), ())
    _check_value(dtype, value)
    result = np.full((len(rows), length, *inner), value, dtype=dtype)
    for position, row in enumerate(rows):
        kept = row[max(0, len(row) - length) :] if truncating == "pre" else row[:length]
        if len(kept) and kept.shape[1:] != inner:
            raise ValueError(
                f"`sequences` must hold vectors of one shape, {inner} in the first sequence, but sequence {position} "
                f"holds {kept.shape[1:]}."
            )
        if len(kept):
            start = length - len(kept) if padding == "pre" else 0
            result[position, start : start + len(kept)] = kept
    return result


def _check_side(argument: str, value: object) -> None:
    if value not in ("pre", "post"):
        raise ValueError(f"`{argument}` must be 'pre' or 'post', but it is {describe(value)}.")


def _check_value(dtype: Any, value: object) -> None:
    if isinstance(value, str) and np.dtype(dtype).kind not in "OUS":
        raise ValueError(f"`value` is {describe(value)}, which does not fit `dtype` {dtype}: pass dtype=object.")


def _row(position: int, sequence: object) -> Array:
    if not hasattr(sequence, "__len__"):
        raise ValueError(f"`sequences` must hold sequences, but number {position} is {describe(sequence)}.")
    return np.asarray(sequence.cpu() if isinstance(sequence, Tensor) else sequence)


def _floating(x: Tensor) -> torch.dtype:
    return x.dtype if x.is_floating_point() else torch.get_default_dtype()
