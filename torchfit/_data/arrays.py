"""Arrays and tensors in memory: a batch is one gather over whole tensors, never a sample at a time."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from torchfit._support import tree
from torchfit._support.batch import Batch


class ArrayBatches:
    """Batches of tensors that lie in memory, all with the same number of rows.

    The order of an epoch is a function of `seed` and the index of the epoch alone, so that an interrupted
    training can be continued in the middle of an epoch.
    """

    def __init__(
        self, parts: tuple[Any, ...], batch_size: int, *, order: Callable[[int, int], Tensor | None] | None = None
    ) -> None:
        """Take `(x, y, sample_weight)`, nests of tensors `(samples, …)`, missing parts being `None`.

        Args:
            parts: The nests.
            batch_size: Samples in a batch; the last one of an epoch may be smaller.
            order: A function (samples, epoch) → permutation; `None` keeps the order of the data.
        """
        self._leaves: list[Tensor] = tree.leaves(parts)
        self._pack = batch_packer(parts)
        self._batch_size = batch_size
        self._order = order
        self.samples = len(self._leaves[0])
        self.steps = -(-self.samples // batch_size)

    def epoch(self, index: int) -> Iterator[Batch]:
        """Give the batches of one epoch: views where the order is that of the data, gathered rows elsewhere."""
        order = None if self._order is None else self._order(self.samples, index)
        if order is None:
            yield from map(self._pack, zip(*(leaf.split(self._batch_size) for leaf in self._leaves)))
            return
        leaves, pack = self._leaves, self._pack
        for rows in order.to(leaves[0].device).split(self._batch_size):
            yield pack([leaf.index_select(0, rows) for leaf in leaves])


def batch_packer(parts: tuple[Any, ...]) -> Callable[[Sequence[Tensor]], Batch]:
    """Return a function that makes a `Batch` from a flat sequence of the leaves of `parts`."""
    if all(tree.is_leaf(part) for part in Batch(*parts)):
        return _flat_batch
    pack = tree.packer(tuple(parts))
    return lambda leaves: Batch(*pack(leaves))


def _flat_batch(leaves: Sequence[Tensor]) -> Batch:
    return tuple.__new__(Batch, leaves)


def seeded_order(seed: int) -> Callable[[int, int], Tensor]:
    """Return the order of every epoch, drawn from one generator with `seed`."""
    generator = torch.Generator()

    def order(samples: int, epoch: int) -> Tensor:
        generator.manual_seed(seed + epoch)
        return torch.randperm(samples, generator=generator)

    return order


def draw_seed() -> int:
    """Draw a seed from torch's global generator, so that `torch.manual_seed` decides the order of everything."""
    return int(torch.empty((), dtype=torch.int64).random_(2**48).item())
