"""One kind of step, as the engine makes it and the runtime carries it out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchfit._support import tree

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

    numbers: Callable[[int], tuple[float, ...]] = lambda rows: ()
    """Counts a step with so many rows on the host, and gives the numbers that its graph needs."""

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

    instead: Callable[[], None] = lambda: None
    """Compiles what can be compiled, where the whole step cannot."""


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
