"""Microbatches: one batch in several passes, for the same gradients and update with less memory."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from torchfit._utils import tree
from torchfit._utils.batch import Batch
from torchfit._utils.console import logger
from torchfit._utils.errors import describe
from torchfit._utils.validation import is_integer

# Of torch's allocator for the CPU (Linux, Windows), and of cuBLAS, which allocates for itself.
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")


class MicrobatchSplitter:
    """Splits batches into parts that go through the module one after the other.

    Args:
        size: The number of rows of a part, or "auto": whole batches until memory runs out, then half as many rows,
            and so on.

    Raises:
        ValueError: If `size` is neither a positive integer nor "auto".
    """

    def __init__(self, size: int | str) -> None:
        self._adapts = isinstance(size, str) and size == "auto"
        if not self._adapts and not (is_integer(size) and size > 0):  # type: ignore[operator]
            raise ValueError(f"`microbatch` must be a positive integer or 'auto', but it is {describe(size)}.")
        self._size = math.inf if self._adapts else float(size)

    def split(self, batch: Batch) -> Iterator[Batch]:
        """Yield the parts of a batch."""
        if _count_rows(batch) <= self._size:
            yield batch
            return
        size = int(self._size)
        unflatten = tree.unflattener(tuple(batch))
        for leaves in zip(*(torch.split(leaf, size) for leaf in tree.leaves(batch))):
            yield Batch(*unflatten(leaves))

    def halve_after_oom(self, batch: Batch, error: BaseException) -> None:
        """Halve the size and log it if `error` says that memory ran out; else raise `error`."""
        rows = _count_rows(batch)
        if not (self._adapts and is_out_of_memory(error)) or min(rows, self._size) <= 1:
            raise error
        self._size = math.ceil(min(rows, self._size) / 2)
        logger.warning(
            "microbatch: memory ran out; batches of %d now go through the module %d rows at a time, with the same "
            "gradients and updates.",
            rows,
            self._size,
        )


def _count_rows(batch: Batch) -> int:
    """Return the number of rows that all tensors of a batch have.

    Raises:
        ValueError: If the parts of the batch are not tensors with the same number of rows.
    """
    sizes = {leaf.shape[0] if isinstance(leaf, Tensor) and leaf.ndim else None for leaf in tree.leaves(batch)}
    if None in sizes or len(sizes) != 1:
        raise ValueError(
            f"`microbatch` splits batches whose parts are tensors of the same number of rows. Received: "
            f"{[describe(leaf) for leaf in tree.leaves(batch)]}. Leave `microbatch` out for such batches."
        )
    (rows,) = sizes
    return int(rows or 0)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out, on an accelerator or on the host."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY)


def release_cached_memory() -> None:
    """Return to the device what torch keeps for tensors of the sizes so far; call it when these are gone."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
