"""How steps are carried out: one at a time, or several to a call."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

Step = Callable[[Any], Any]


class Eager:
    """Every step runs as ordinary Python, one batch to a call."""

    def work(self, batches: Iterable[Any]) -> Iterator[tuple[int, int, Any]]:
        """Give (index of the first batch, index of the last, what one call takes)."""
        for index, batch in enumerate(batches):
            yield index, index, batch

    def wrap(self, step: Step) -> Step:
        """Return what is called with one piece of work."""
        return step


class EagerGroups(Eager):
    """Several batches to a call, so that callbacks are asked less often."""

    def __init__(self, steps_per_execution: int) -> None:
        """Group this many batches; the last group of an epoch may be smaller."""
        self._size = steps_per_execution

    def work(self, batches: Iterable[Any]) -> Iterator[tuple[int, int, Any]]:
        """Give (index of the first batch, index of the last, the batches)."""
        source, first = iter(batches), 0
        while group := list(islice(source, self._size)):
            yield first, first + len(group) - 1, group
            first += len(group)

    def wrap(self, step: Step) -> Step:
        """Return a function that takes all steps of a group and gives the logs of the last."""

        def steps(group: list[Any]) -> Any:
            for batch in group:
                logs = step(batch)
            return logs

        return steps


def choose(steps_per_execution: int) -> Eager:
    """Return the way of execution that `compile` asked for."""
    return Eager() if steps_per_execution == 1 else EagerGroups(steps_per_execution)
