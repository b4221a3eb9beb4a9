"""How steps are carried out: as ordinary Python or as one graph, one at a time or several to a call."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from torchfit._support.pieces import Pieces, Step

Work = Iterator[tuple[int, int, Any]]


class Eager:
    """Every step runs as ordinary Python."""

    def __init__(self, steps_per_execution: int = 1) -> None:
        """Make so many steps in one call."""
        self.steps = steps_per_execution
        self.compiling_seconds = 0.0

    def work(self, batches: Any, epoch: int, start: int = 0) -> Work:
        """Give (index of the first batch, of the last, what one call takes) for an epoch from batch `start` on."""
        return grouped(batches.epoch(epoch, start), self.steps, start)

    def wrap(self, pieces: Pieces, batches: Any) -> Step:
        """Return what is called with one piece of work."""
        return several(pieces.step, pieces.join) if self.steps > 1 else pieces.step

    @property
    def first_step_differs(self) -> bool:
        """Whether the first step of a loop may differ from what later ones would have given."""
        return False

    def release(self) -> None:
        """Let go of what a loop used."""


def grouped(items: Iterable[Any], size: int, first: int = 0) -> Work:
    """Give (index of the first, index of the last, the items between), or single items for a size of 1."""
    if size == 1:
        return ((index, index, item) for index, item in enumerate(items, first))
    return _groups(iter(items), size, first)


def _groups(items: Iterator[Any], size: int, first: int) -> Work:
    while group := list(islice(items, size)):
        yield first, first + len(group) - 1, group
        first += len(group)


def several(step: Step, join: Callable[[Sequence[Any]], Any]) -> Step:
    """Return a function that makes a step with each item of a group."""
    return lambda group: join([step(item) for item in group])
