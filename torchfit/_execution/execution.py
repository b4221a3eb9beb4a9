"""How steps are carried out: as ordinary Python or as one graph, one at a time or several to a call."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from torchfit._execution.step_program import DependentStepsError, Pieces, Step

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

    def once(self, pieces: Pieces, batches: Any) -> tuple[Work, Step]:
        """Return the work of one pass over batches and its step; small steps are done together where they may be."""
        step = self.wrap(pieces, batches)
        if self.steps > 1 or pieces.together is None or not batches.yields_views:
            return self.work(batches, 0), step
        bunches = Bunches(step, self.together(pieces, step), pieces)
        return bunches.work(self.work(batches, 0)), bunches

    def together(self, pieces: Pieces, step: Step) -> Step:
        """Return what does several small steps at once."""
        return pieces.together or several(step, pieces.join)

    @property
    def first_step_differs(self) -> bool:
        """Whether the first step of a loop may differ from what later ones would have given."""
        return False

    def release(self) -> None:
        """Let go of what a loop used."""

    def state_dict(self) -> dict[str, Any]:
        """Return what the next steps depend on: nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""


class Bunches:
    """Small steps with nobody between them, done in turns: first all forward passes, then all losses, and so on.

    The same code runs again and again while it is in the processor's caches, which makes the steps of a small network
    about a third faster. The first step runs alone, and shows how large the others are.
    """

    def __init__(self, step: Step, together: Step, pieces: Pieces) -> None:
        """Begin a pass with steps made one by one, or several together."""
        self._step, self._together, self._join, self._room = step, together, pieces.join, pieces.room
        self._size = 1

    def work(self, work: Work) -> Work:
        """Give (index of the first, index of the last, the batches between)."""
        while bunch := list(islice(work, self._size)):
            yield bunch[0][0], bunch[-1][1], [batch for _, _, batch in bunch]

    def __call__(self, bunch: Sequence[Any]) -> Any:
        """Do the steps together, or else one by one, and so from then on."""
        if len(bunch) > 1:
            try:
                return self._together(bunch)
            except DependentStepsError:
                self._size = 1
                return one_by_one(self._step, self._join, bunch)
        result = self._step(bunch[0])
        self._size, self._room = self._room(result), _alone
        return result


def _alone(_: Any) -> int:
    return 1


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

    def run(group: Sequence[Any]) -> Any:
        try:
            return join([step(item) for item in group])
        except DependentStepsError:
            return one_by_one(step, join, group)

    return run


def one_by_one(step: Step, join: Callable[[Sequence[Any]], Any], group: Sequence[Any]) -> Any:
    """Make a step with each item, and put its result away before the next step may write over it."""
    return join([join([step(item)]) for item in group])
