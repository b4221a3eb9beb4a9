"""How steps are carried out: as ordinary Python or as one graph, one at a time or several to a call."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from torchfit._support import tree

Step = Callable[[Any], Any]
Work = Iterator[tuple[int, int, Any]]


@dataclass
class Pieces:
    """One kind of step, in the two forms in which it can run."""

    kind: str
    """"train", "test" or "predict"."""

    step: Step
    """Does everything with one batch, as ordinary Python, and returns logs or outputs."""

    join: Callable[[Sequence[Any]], Any]
    """Makes one result out of those of several steps."""

    graph: Callable[..., list[Tensor]]
    """Does the same with tensors alone, `graph(batch, *numbers)`, so that it may be traced; returns tensors."""

    finish: Callable[[Any, list[Tensor]], Any]
    """Turns the tensors that a graph returned into a result like the one given first."""

    numbers: Callable[[], tuple[float, ...]] = tuple
    """Counts a step on the host and gives the numbers that its graph needs."""

    rewind: Callable[[int], None] = lambda _: None
    """Takes back so many counted steps that did not happen."""

    obstacle: str | None = None
    """Why this step cannot be one graph, if that is known beforehand."""

    instead: Callable[[], None] = lambda: None
    """Compiles what can be compiled, where the whole step cannot."""


class Eager:
    """Every step runs as ordinary Python."""

    def __init__(self, steps_per_execution: int = 1) -> None:
        """Make so many steps in one call."""
        self.steps = steps_per_execution

    def work(self, batches: Any, epoch: int) -> Work:
        """Give (index of the first batch, index of the last, what one call takes) for a whole epoch."""
        return grouped(batches.epoch(epoch), self.steps)

    def wrap(self, pieces: Pieces, batches: Any, watched: bool) -> Step:
        """Return what is called with one piece of work.

        `watched` tells that the user's callbacks run between the steps, where they may change anything.
        """
        return several(pieces.step, pieces.join) if self.steps > 1 else pieces.step

    def release(self) -> None:
        """Let go of what a loop used."""


def grouped(items: Iterable[Any], size: int) -> Work:
    """Give (index of the first, index of the last, the items between), or single items for a size of 1."""
    if size == 1:
        return ((index, index, item) for index, item in enumerate(items))
    return _groups(iter(items), size)


def _groups(items: Iterator[Any], size: int) -> Work:
    first = 0
    while group := list(islice(items, size)):
        yield first, first + len(group) - 1, group
        first += len(group)


def several(step: Step, join: Callable[[Sequence[Any]], Any]) -> Step:
    """Return a function that makes a step with each item of a group."""
    return lambda group: join([step(item) for item in group])


def last(results: Sequence[Any]) -> Any:
    """Return the last result: the logs, in which the earlier steps are contained."""
    return results[-1]


def concatenated(outputs: Sequence[Any]) -> Any:
    """Join the outputs of several batches along the first axis."""
    columns = zip(*(tree.leaves(output) for output in outputs))
    return tree.packer(outputs[0])([_rows_of(column) for column in columns])


def _rows_of(column: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(column)) if column[0].ndim else torch.stack(list(column))


def unpacked(example: Any, leaves: Sequence[Tensor]) -> Any:
    """Put the outputs of one or several batches, as a graph returned them, into the structure of an example."""
    pack, size = tree.packer(example), len(tree.leaves(example))
    outputs = [pack(leaves[start : start + size]) for start in range(0, len(leaves), size)]
    return outputs[0] if len(outputs) == 1 else concatenated(outputs)


def overridden(instance: Any, base: type, *methods: str) -> str | None:
    """Say which of these methods of `base` a subclass or the instance overrides, if any."""
    found = [
        name for name in methods if name in vars(instance) or getattr(type(instance), name) is not getattr(base, name)
    ]
    return f"`{found[0]}` is overridden" if found else None
