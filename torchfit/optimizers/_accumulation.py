"""A window of gradients that end in one update with their mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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

    def begin_anew(self) -> None:
        """Begin a new window on the host, where a graph has set the sums to zero."""
        self.count, self.weight = 0, 0.0

    def restore(self, count: int, weight: float, received: Sequence[bool]) -> None:
        """Take over the counts that were saved with the sums."""
        self.count, self.weight, self.received = int(count), float(weight), [bool(was) for was in received]


class Gathering:
    """The part of an optimizer that gathers gradients and makes one update of them."""

    gradient_accumulation_steps: int | None
    _parameters: Tensors
    _window: Window
    _updates: int
    _calls: int

    def update(self, gradients: Sequence[Tensor | None], learning_rate: Scalar, step: Scalar) -> None:
        """Make one update."""
        raise NotImplementedError

    def begin_update(self) -> tuple[float, int]:
        """Count an update, and return its learning rate and step."""
        raise NotImplementedError

    def accumulate(self, gradients: Sequence[Tensor | None], weight: Scalar = 1.0) -> None:
        """Add `weight * gradients` to the window, in place. Counts nothing, so it may be part of a graph."""
        self._window.add(gradients, weight)

    def count_accumulated(self, gradients: Sequence[Tensor | None], weight: float = 1.0) -> bool:
        """Count gradients that `accumulate` added, and tell whether the window is full now."""
        full: bool = self._window.note(gradients, weight) == self.gradient_accumulation_steps
        self._calls += not full  # the last one is counted by begin_update, after its schedule was asked
        return full

    def update_accumulated(self, learning_rate: Scalar, step: Scalar, weight: Scalar) -> None:
        """Make one update with the window's sums divided by `weight`. Counts nothing, so it may be part of a graph.

        The window is to be cleared with `clear_accumulated` afterwards.
        """
        self.update(self._window.means(weight), learning_rate, step)

    def clear_accumulated(self) -> None:
        """Begin a new window."""
        self._window.clear()

    def closes(self, steps: int) -> tuple[bool, ...]:
        """Tell for each of the next steps whether it ends a window, and so makes an update."""
        size = self.gradient_accumulation_steps or 1
        return tuple((self._window.count + step) % size == 0 for step in range(1, steps + 1))

    def zero_accumulated(self) -> None:
        """Set the sums of the window to zero. Counts nothing, so it may be part of a graph."""
        torch._foreach_zero_(self._window.sums)

    def begin_gathered(self, weight: float) -> tuple[float, float, float]:
        """Count gradients that a graph adds, and return rate, step and weight of the update, if one is due."""
        if not self.count_accumulated(self._parameters, weight):
            return 0.0, 0.0, 1.0
        total = self._window.weight
        self._window.begin_anew()
        return (*self.begin_update(), total)

    def counts(self) -> tuple[Any, ...]:
        """Return what the host has counted, for `recount`."""
        return self._updates, self._calls, self._window.count, self._window.weight

    def recount(self, counts: tuple[Any, ...]) -> None:
        """Take back what was counted since `counts`, because it did not happen."""
        self._updates, self._calls, self._window.count, self._window.weight = counts

    def flush(self) -> None:
        """Make the update of a window that is cut short; nothing if nothing was gathered."""
        if self._window.count:
            self._close_window()
            self._calls -= 1

    def _gather(self, gradients: Sequence[Tensor | None], weight: float) -> None:
        if not gradients:
            return  # a module without parameters is legal
        self.accumulate(gradients, weight)
        if self.count_accumulated(gradients, weight):
            self._close_window()

    def _close_window(self) -> None:
        self.update_accumulated(*self.begin_update(), self._window.weight or 1.0)
        self.clear_accumulated()
