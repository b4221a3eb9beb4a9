"""What every form of data is turned into."""

from collections.abc import Iterator
from typing import Protocol

from torchfit._support.batch import Batch


class Batches(Protocol):
    """A source of batches that the loops draw from, on the device and of the right dtype."""

    @property
    def steps(self) -> int | None:
        """The number of batches in an epoch, `None` while unknown."""

    @property
    def samples(self) -> int | None:
        """The number of samples in an epoch, `None` while unknown."""

    def epoch(self, index: int) -> Iterator[Batch]:
        """Give the batches of the epoch with this index, which also decides the shuffling."""
