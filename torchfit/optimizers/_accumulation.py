"""A window of gradients that end in one update with their mean."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from torchfit.optimizers._foreach import Scalar, Tensors, add_scaled_


class Window:
    """Sums of weighted gradients, in place, and what the host knows about them."""

    def __init__(self, sums: Tensors):
        self.sums = sums
        self.count = 0
        self.weight = 0.0
        self.received = [False] * len(sums)

    def add(self, gradients: Sequence[Tensor | None], weight: Scalar) -> None:
        """Add `weight * gradients` to the sums. Tensors only: may be part of a graph."""
        with torch.no_grad():
            pairs = [(total, gradient) for total, gradient in zip(self.sums, gradients) if gradient is not None]
            dense = [gradient.to_dense() if gradient.is_sparse else gradient for _, gradient in pairs]
            if dense:
                add_scaled_([total for total, _ in pairs], dense, weight)

    def note(self, gradients: Sequence[Tensor | None], weight: float) -> int:
        """Count what was added, on the host, and return how many gradients the window holds."""
        self.received = [was or g is not None for was, g in zip(self.received, gradients)]
        self.count += 1
        self.weight += weight
        return self.count

    def means(self, weight: Scalar) -> list[Tensor | None]:
        """Turn the sums into means, in place. Where no gradient was noted there is none."""
        with torch.no_grad():
            torch._foreach_div_(self.sums, weight)
        return [total if seen else None for total, seen in zip(self.sums, self.received)]

    def clear(self) -> None:
        """Begin a new window."""
        torch._foreach_zero_(self.sums)
        self.count, self.weight = 0, 0.0
        self.received = [False] * len(self.sums)

    def restore(self, count: int, weight: float, received: Sequence[bool]) -> None:
        """Take over the counts that were saved with the sums."""
        self.count, self.weight, self.received = int(count), float(weight), [bool(was) for was in received]
