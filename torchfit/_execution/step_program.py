"""One kind of step, as the engine makes it and the runtime carries it out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchfit._utils import tree

Step = Callable[[Any], Any]


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

    numbers: Callable[[int], tuple[float, ...]] | None = None
    """Counts a step with so many rows on the host, and gives the numbers that its graph needs, if it needs any."""

    counts: Callable[[], Any] = tuple
    """Gives what was counted."""

    recount: Callable[[Any], None] = lambda counts: None
    """Goes back to what was counted before, because steps did not happen."""

    kinds: Callable[[int], tuple[Any, ...]] = lambda steps: ((),) * steps
    """Tells what the graph of each of the next steps needs to know beforehand: further arguments of `graph`."""

    watched: bool = False
    """Whether callbacks of the user run between the steps, where they may change anything."""

    planned: int | None = None
    """How many steps of this kind are to come, if that is known."""

    obstacle: str | None = None
    """Why this step cannot be one graph, if that is known beforehand."""

    together: Callable[[Sequence[Any]], Any] | None = None
    """Does several small steps in turns; raises `DependentStepsError` where one must be over before the next begins."""

    room: Callable[[Any], int] = lambda result: 1
    """Tells, from the result of the first step, how many like it may be done together."""

    instead: Callable[[], None] = lambda: None
    """Compiles what can be compiled, where the whole step cannot."""


def last(results: Sequence[Any]) -> Any:
    """Return the last result: the logs, in which the earlier steps are contained."""
    return results[-1]


class DependentStepsError(Exception):
    """Steps that were made without looking between them turn out to depend on each other."""


def concatenated(outputs: Sequence[Any]) -> Any:
    """Join the outputs of several batches along the first axis.

    Raises:
        DependentStepsError: If the module writes its outputs over each other.
    """
    check_apart(outputs)
    columns = zip(*map(tree.leaves, outputs))
    return tree.unflattener(outputs[0])([_joined(column) for column in columns])


def check_apart(outputs: Sequence[Any]) -> None:
    """Find out whether a module writes its outputs over each other.

    Raises:
        DependentStepsError: If it does.
    """
    addresses = [
        {leaf.data_ptr() for leaf in tree.leaves(output) if isinstance(leaf, Tensor)} for output in outputs[:2]
    ]
    if len(addresses) > 1 and addresses[0] & addresses[1]:
        raise DependentStepsError


def _joined(column: tuple[Any, ...]) -> Any:
    if not isinstance(column[0], Tensor):
        return column[0]
    return torch.cat(column) if column[0].ndim else torch.stack(column)


def unpacked(example: Any, leaves: Sequence[Tensor]) -> Any:
    """Put the outputs of one or several batches, as a graph returned them, into the structure of an example."""
    pack, size = tree.unflattener(example), len(tree.leaves(example))
    if len(leaves) == size:
        return pack(leaves)
    return concatenated([pack(leaves[start : start + size]) for start in range(0, len(leaves), size)])


def overridden(instance: Any, base: type, *methods: str) -> str | None:
    """Say which of these methods of `base` a subclass or the instance overrides, if any."""
    found = [
        name for name in methods if name in vars(instance) or getattr(type(instance), name) is not getattr(base, name)
    ]
    return f"`{found[0]}` is overridden" if found else None
