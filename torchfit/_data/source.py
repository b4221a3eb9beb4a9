"""The edge: one entry for every form of data."""

from dataclasses import dataclass
from typing import Any, Protocol

from torchfit._data.arrays import ArrayBatches, draw_seed, seeded_order
from torchfit._data.batches import Batches
from torchfit._data.convert import Conversion, check_lengths
from torchfit._data.split import split_last
from torchfit._support.errors import describe


class Source(Protocol):
    """Data of any form, ready to be split and to give batches."""

    def split(self, fraction: float) -> "tuple[Source, Source]":
        """Set the last `fraction` of the samples apart."""

    def batches(self, batch_size: int | None = None, *, shuffle: bool = False) -> Batches:
        """Give batches, in the order of the data or shuffled anew each epoch."""


@dataclass(frozen=True)
class ArraySource:
    """Arrays and tensors, converted once: nests `(x, y, sample_weight)` with the same number of rows."""

    parts: tuple[Any, ...]

    def split(self, fraction: float) -> tuple["ArraySource", "ArraySource"]:
        """Set the last `fraction` of the rows apart."""
        first, last = split_last(self.parts, fraction)
        return ArraySource(first), ArraySource(last)

    def batches(self, batch_size: int | None = None, *, shuffle: bool = False) -> ArrayBatches:
        """Give batches of `batch_size` rows (32 by default), in the order of the data or shuffled anew each epoch."""
        order = seeded_order(draw_seed()) if shuffle else None
        return ArrayBatches(self.parts, check_batch_size(batch_size), order=order)


def as_source(x: Any, y: Any, sample_weight: Any, conversion: Conversion) -> Source:
    """Convert what `fit`, `evaluate` and `predict` take.

    Raises:
        ValueError: If there is no `x`, no sample, or the lengths differ.
    """
    if x is None:
        raise ValueError("`x` is missing: pass the inputs of the model as an array, a tensor, or a nest of them.")
    parts = (
        conversion.inputs("x", x),
        conversion.targets("y", y),
        conversion.targets("sample_weight", sample_weight),
    )
    check_lengths(dict(zip(("x", "y", "sample_weight"), parts)))
    return ArraySource(parts)


def check_batch_size(batch_size: int | None) -> int:
    """Return the batch size, 32 where none is given."""
    if batch_size is None:
        return 32
    if isinstance(batch_size, bool) or not hasattr(batch_size, "__index__") or batch_size < 1:
        raise ValueError(f"`batch_size` must be a positive integer, but it is {describe(batch_size)}.")
    return int(batch_size)
