"""One batch in several passes: the same gradients and the same update with less memory."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from torchfit._utils import tree
from torchfit._utils.batch import Batch
from torchfit._utils.console import logger
from torchfit._utils.errors import describe


class Microbatches:
    """How many rows of a batch go through the module at once.

    Given as a number, or "auto": whole batches until memory runs out, then half as many rows, and so on.
    """

    def __init__(self, size: int | str) -> None:
        """Check the size.

        Raises:
            ValueError: If it is neither a positive integer nor "auto".
        """
        is_number = isinstance(size, int) and not isinstance(size, bool) and size > 0
        if not is_number and size != "auto":
            raise ValueError(f"`microbatch` must be a positive integer or 'auto', but it is {describe(size)}.")
        self._adapts = size == "auto"
        self._size: float = math.inf if isinstance(size, str) else size

    def parts(self, batch: Batch, rows: int) -> Iterator[tuple[Batch, float]]:
        """Give the parts of a batch of so many rows, each with its share of them."""
        if rows <= self._size:
            yield batch, 1.0
            return
        size = int(self._size)
        pack = tree.unflattener(tuple(batch))
        for leaves in zip(*(torch.split(leaf, size) for leaf in tree.leaves(batch))):
            yield Batch(*pack(leaves)), len(leaves[0]) / rows

    def shrink(self, rows: int, error: BaseException) -> None:
        """Halve the size after memory ran out, and say so; raise `error` where it says something else."""
        if not (self._adapts and is_out_of_memory(error)) or min(rows, self._size) <= 1:
            raise error
        self._size = math.ceil(min(rows, self._size) / 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        logger.warning(
            "microbatch: memory ran out; batches of %d now go through the module %d rows at a time, with the same "
            "gradients and updates.",
            rows,
            self._size,
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether memory ran out, on an accelerator or on the host."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "not enough memory" in str(error)


def detached(outputs: Any) -> Any:
    """Return outputs without what is needed to go back through them."""
    return tree.map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, outputs)
