"""The edge: one entry for every form of data."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from torchfit._data import datasets, frames
from torchfit._data.arrays import ArraySource
from torchfit._data.convert import Conversion
from torchfit._data.creators import is_creator, maker
from torchfit._data.disk import is_on_disk
from torchfit._data.forms import Source
from torchfit._data.iterables import StreamSource
from torchfit._data.loaders import LoaderSource
from torchfit._data.sequence import SequenceSource, is_sequence
from torchfit._utils import tree
from torchfit._utils.batch import Batch
from torchfit._utils.errors import describe

__all__ = ["Source", "as_batch", "as_source"]

_TAKEN = (
    "arrays, tensors, DataFrames, nests of these, a torch Dataset or DataLoader, a Sequence, a generator or iterable "
    "of batches, or a function that makes one of them"
)

# Each form: how it is told from those below it, and what is made of it.
_FORMS: list[tuple[Callable[[Any], bool], Callable[[Any, Conversion], Source]]] = [
    (lambda x: isinstance(x, DataLoader), LoaderSource),
    (lambda x: is_sequence(x), SequenceSource),
    (lambda x: isinstance(x, IterableDataset), datasets.IterableSource),
    (lambda x: datasets.is_map_style(x), datasets.source_of),
    (lambda x: hasattr(type(x), "__iter__") and not isinstance(x, (str, bytes, set, frozenset)), StreamSource),
    (lambda x: is_creator(x), lambda x, conversion: _made(x, conversion)),
]


def as_source(x: Any, y: Any, sample_weight: Any, conversion: Conversion) -> Source:
    """Convert what `fit`, `evaluate` and `predict` take.

    Raises:
        ValueError: If there is no `x`, no sample, the lengths differ, `x` is of no known form, or `y` or
            `sample_weight` come beside data that carry their own.
    """
    if x is None:
        raise ValueError("`x` is missing: pass the inputs of the model as an array, a tensor, or a nest of them.")
    if is_array_like(x):
        return ArraySource.of(x, y, sample_weight, conversion)
    for accepts, build in _FORMS:
        if accepts(x):
            source = build(x, conversion)
            source.form.check(y=y, sample_weight=sample_weight)
            return source
    hint = " Make an object of the class first." if isinstance(x, type) else ""
    raise ValueError(f"`x` must be {_TAKEN}, but it is {describe(x)}.{hint}")


def as_batch(x: Any, y: Any, sample_weight: Any, conversion: Conversion, class_weight: Any = None) -> Batch:
    """Convert what `train_on_batch` and its likes take: one batch of arrays.

    Raises:
        ValueError: If it is a stream of batches.
    """
    if x is not None and not is_array_like(x):
        raise ValueError(
            f"`x` must be the arrays of one batch, but it is {describe(x)}. Pass what it yields, or call `fit`, "
            "`evaluate` or `predict`."
        )
    source = as_source(x, y, sample_weight, conversion).weighted(class_weight)
    assert isinstance(source, ArraySource)
    return source.batch()


def is_array_like(value: Any) -> bool:
    """Tell whether `value` is an array in memory or on disk, or a list, tuple, dictionary or dataclass."""
    if not tree.is_leaf(value) or isinstance(value, (Tensor, np.ndarray, range, int, float)):
        return True
    if isinstance(value, type) or is_sequence(value) or datasets.is_map_style(value):
        return False
    return frames.is_frame(value) or is_on_disk(value) or hasattr(value, "__array__") or hasattr(value, "toarray")


def _made(function: Any, conversion: Conversion) -> Source:
    """Return the source of what a function makes; a generator is made anew for every pass."""
    if isinstance(function, nn.Module):
        raise ValueError(f"`x` must be data, but it is the module {type(function).__name__}.")
    make = maker(function)
    made = make()
    if isinstance(made, Iterator):
        return StreamSource(made, conversion, fresh=make)
    if callable(made) and is_creator(made):
        raise ValueError(f"`x` is {describe(function)}, which returned {describe(made)} instead of data.")
    if isinstance(made, tuple) and not hasattr(made, "_fields"):
        x, y, sample_weight = (*made, None, None)[:3]
        return as_source(x, y, sample_weight, conversion)
    return as_source(made, None, None, conversion)
