"""Splitting data in two, for example for training and validation."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from torchfit._types import Nested, UserData
from torchfit._utils import tree
from torchfit._utils.errors import describe


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
        seed: Decides what is drawn; by default torch's random state does.

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
        """Take arrays of one length."""
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
