"""Utilities for arrays: one-hot labels, normalization, padding and splits."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from torchfit._types import Array, Nested, TensorLike, UserData
from torchfit._utils import tree
from torchfit._utils.errors import describe
from torchfit._utils.names import suggest_keywords

if TYPE_CHECKING:
    from numpy.typing import DTypeLike


@suggest_keywords
def to_categorical(x: TensorLike, num_classes: int | None = None) -> TensorLike:
    """Convert class indices to one-hot rows, for `CategoricalCrossentropy`.

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


@suggest_keywords
def normalize(x: TensorLike, axis: int = -1, order: int | float = 2) -> TensorLike:
    """Divide vectors by their norm; zero vectors are unchanged.

    Args:
        x: An array or tensor of any shape, or a list.
        axis: The dimension of the vectors.
        order: The order of the norm; 2 is the Euclidean norm.

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


@suggest_keywords
def pad_sequences(
    sequences: Iterable[Sequence[object]],
    maxlen: int | None = None,
    dtype: "DTypeLike" = "int32",
    padding: str = "pre",
    truncating: str = "pre",
    value: object = 0.0,
) -> Array:
    """Pad or truncate sequences to one length, so that they fit into one array.

    Args:
        sequences: Sequences of numbers, or of vectors of one shape.
        maxlen: The length; by default that of the longest sequence.
        dtype: The dtype of the result; `object` for strings.
        padding: "pre" or "post": whether `value` goes before or after the shorter sequences.
        truncating: "pre" or "post": whether the beginning or the end of the longer ones is cut off.
        value: The value to pad with.

    Returns:
        An array `(sequences, maxlen, …)`.

    Raises:
        ValueError: If an entry is not a sequence, vectors differ in shape, or an argument is invalid.

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


def _check_value(dtype: "DTypeLike", value: object) -> None:
    if isinstance(value, str) and np.dtype(dtype).kind not in "OUS":
        raise ValueError(f"`value` is {describe(value)}, which does not fit `dtype` {dtype}: pass dtype=object.")


def _row(position: int, sequence: object) -> Array:
    if not hasattr(sequence, "__len__"):
        raise ValueError(f"`sequences` must hold sequences, but number {position} is {describe(sequence)}.")
    return np.asarray(sequence.cpu() if isinstance(sequence, Tensor) else sequence)


def _floating(x: Tensor) -> torch.dtype:
    return x.dtype if x.is_floating_point() else torch.get_default_dtype()


@suggest_keywords
def split_dataset(
    dataset: UserData,
    left_size: int | float | None = None,
    right_size: int | float | None = None,
    shuffle: bool = False,
    seed: int | None = None,
) -> tuple[Subset[UserData], Subset[UserData]]:
    """Split data into a left and a right part.

    Args:
        dataset: A torch Dataset with indices, an array or tensor `(samples, …)`, or a tuple, list or dictionary of
            these, whose samples are then tuples, or dictionaries.
        left_size: Samples on the left, or their fraction from 0 to 1; by default what the right leaves.
        right_size: Samples on the right, or their fraction; by default what the left leaves.
        shuffle: Whether to draw the samples at random instead of splitting at one place.
        seed: The seed of the random choice; by default torch's random state is used.

    Returns:
        Two torch Datasets, for `model.fit(left, validation_data=right)`. Where `dataset` is `(x, y)`, nothing is
        copied, and batches are indexed from the whole arrays.

    Raises:
        ValueError: If both sizes are missing, or do not fit the data.

    >>> left, right = split_dataset((np.zeros((10, 3)), np.zeros(10)), left_size=0.8)
    >>> len(left), len(right)
    (8, 2)
    """
    data = _as_dataset(dataset)
    samples = len(data)  # type: ignore[arg-type]
    left, right = _sizes(samples, left_size, right_size)
    if shuffle:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        order: Sequence[int] = torch.randperm(samples, generator=generator).tolist()
    else:
        order = range(samples)
    return Subset(data, order[:left]), Subset(data, order[left : left + right])


class _NestedArrayDataset(Dataset[UserData]):
    """Nested arrays `(samples, …)` as a Dataset, whose samples have the same nesting."""

    def __init__(self, arrays: Nested) -> None:
        """Wrap arrays of the same length."""
        self._pack: Callable[[list[torch.Tensor]], Nested] = tree.unflattener(arrays)
        self._leaves = tree.leaves(arrays)

    def __len__(self) -> int:
        return len(self._leaves[0])

    def __getitem__(self, index: int) -> Nested:
        return self._pack([leaf[index] for leaf in self._leaves])


def _as_dataset(dataset: UserData) -> Dataset[UserData]:
    if isinstance(dataset, IterableDataset) or not (hasattr(dataset, "__len__") or not tree.is_leaf(dataset)):
        raise ValueError(f"`dataset` must be a Dataset with indices, or arrays, but it is {describe(dataset)}.")
    if isinstance(dataset, Dataset) or (hasattr(dataset, "__getitem__") and not _holds_arrays(dataset)):
        return dataset  # type: ignore[no-any-return]
    arrays = tree.map(_tensor, dataset)
    lengths = {len(array) for array in tree.leaves(arrays)}
    if len(lengths) != 1:
        raise ValueError(f"`dataset` must hold arrays with one number of samples, but they have {sorted(lengths)}.")
    parts = [arrays] if tree.is_leaf(arrays) else arrays
    flat = not isinstance(parts, Mapping) and all(map(tree.is_leaf, parts))
    return TensorDataset(*parts) if flat else _NestedArrayDataset(arrays)


def _holds_arrays(value: object) -> bool:
    return not tree.is_leaf(value) or hasattr(value, "__array__")


def _tensor(array: object) -> torch.Tensor:
    tensor = torch.as_tensor(array if isinstance(array, torch.Tensor) else np.asarray(array))
    return tensor if tensor.ndim else tensor.reshape(1)


def _sizes(samples: int, left: int | float | None, right: int | float | None) -> tuple[int, int]:
    if left is None and right is None:
        raise ValueError("Pass `left_size` or `right_size`: a number of samples, or a fraction from 0 to 1.")
    right_count = None if right is None else _count("right_size", right, samples)
    left_count = None if left is None else _count("left_size", left, samples)
    left_count = samples - (right_count or 0) if left_count is None else left_count
    right_count = samples - left_count if right_count is None else right_count
    if left_count + right_count > samples or min(left_count, right_count) == 0:
        raise ValueError(
            f"`left_size` and `right_size` ask for {left_count} and {right_count} of {samples} samples. Each needs at "
            "least one, and together they must not need more than there are."
        )
    return left_count, right_count


def _count(argument: str, size: int | float, samples: int) -> int:
    if isinstance(size, bool) or not isinstance(size, (int, float)):
        raise TypeError(f"`{argument}` must be an integer or a fraction, but it is {describe(size)}.")
    if (isinstance(size, float) and not 0 < size < 1) or size < 0 or size > samples:
        raise ValueError(
            f"`{argument}` must be a fraction between 0 and 1, or a number of samples up to {samples}, not {size}."
        )
    return round(size * samples) if isinstance(size, float) else size
