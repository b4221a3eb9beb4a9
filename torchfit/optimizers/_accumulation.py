"""Gradient accumulation: several gradients end in one update with their weighted mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from torchfit.optimizers._foreach import Scalar, Tensors, add_scaled_


class GradientAccumulator:
    """Sums of weighted gradients, in place, and what the host knows about them."""

    def __init__(self, sums: Tensors):
        self.sums = sums
        self.num_gradients = 0
        self.num_samples = 0.0
        self.has_gradient = [False] * len(sums)

    def add(self, gradients: Sequence[Tensor | None], num_samples: Scalar) -> None:
        """Add `num_samples * gradients` to the sums. Tensors only: may be part of a graph."""
        with torch.no_grad():
            pairs = [(total, gradient) for total, gradient in zip(self.sums, gradients) if gradient is not None]
            dense = [gradient.to_dense() if gradient.is_sparse else gradient for _, gradient in pairs]
            if dense:
                add_scaled_([total for total, _ in pairs], dense, num_samples)

    def count(self, gradients: Sequence[Tensor | None], num_samples: float) -> int:
        """Count what was added, on the host, and return how many gradients are accumulated."""
        self.has_gradient = [had or g is not None for had, g in zip(self.has_gradient, gradients)]
        self.num_gradients += 1
        self.num_samples += num_samples
        return self.num_gradients

    def mean_(self, num_samples: Scalar) -> list[Tensor | None]:
        """Turn the sums into means, in place, and return them: `None` where no gradient was counted."""
        with torch.no_grad():
            torch._foreach_div_(self.sums, num_samples)
        return [total if has_gradient else None for total, has_gradient in zip(self.sums, self.has_gradient)]

    def clear(self) -> None:
        """Start over: sums and counts."""
        torch._foreach_zero_(self.sums)
        self.reset_counts()
        self.has_gradient = [False] * len(self.sums)

    def reset_counts(self) -> None:
        """Start over on the host, where a graph sets the sums to zero."""
        self.num_gradients, self.num_samples = 0, 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return the counts; the sums are saved with the slots of their parameters."""
        return {"count": self.num_gradients, "weight": self.num_samples, "received": list(self.has_gradient)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the counts that were saved with the sums."""
        self.num_gradients, self.num_samples = int(state["count"]), float(state["weight"])
        self.has_gradient = [bool(had) for had in state["received"]]


class GradientAccumulationMixin:
    """The part of an optimizer that accumulates gradients and makes one update of them."""

    gradient_accumulation_steps: int | None
    _parameters: Tensors
    _accumulator: GradientAccumulator
    _num_updates: int
    _num_gradients: int

    def update(self, gradients: Sequence[Tensor | None], learning_rate: Scalar, step: Scalar) -> None:
        """Make one update."""
        raise NotImplementedError

    def begin_update(self) -> tuple[float, int]:
        """Count an update, and return its learning rate and step."""
        raise NotImplementedError

    def accumulate(self, gradients: Sequence[Tensor | None], num_samples: Scalar = 1.0) -> None:
        """Add `num_samples * gradients` to the sums, in place. Counts nothing, so it may be part of a graph."""
        self._accumulator.add(gradients, num_samples)

    def record_gradients(self, gradients: Sequence[Tensor | None], num_samples: float = 1.0) -> bool:
        """Count gradients that `accumulate` added, and return whether an update is due."""
        is_due: bool = self._accumulator.count(gradients, num_samples) == self.gradient_accumulation_steps
        self._num_gradients += not is_due  # the last one is counted by begin_update, after its schedule was asked
        return is_due

    def update_accumulated(self, learning_rate: Scalar, step: Scalar, num_samples: Scalar) -> None:
        """Make one update with the sums divided by `num_samples`. Counts nothing, so it may be part of a graph.

        Call `clear_accumulated` afterwards.
        """
        self.update(self._accumulator.mean_(num_samples), learning_rate, step)

    def clear_accumulated(self) -> None:
        """Forget the accumulated gradients."""
        self._accumulator.clear()

    def update_schedule(self, steps: int) -> tuple[bool, ...]:
        """Return for each of the next steps whether it makes an update."""
        size = self.gradient_accumulation_steps or 1
        return tuple((self._accumulator.num_gradients + step) % size == 0 for step in range(1, steps + 1))

    def zero_accumulated(self) -> None:
        """Set the sums to zero. Counts nothing, so it may be part of a graph."""
        torch._foreach_zero_(self._accumulator.sums)

    def begin_accumulation_step(self, num_samples: float) -> tuple[float, float, float]:
        """Count gradients that a graph adds; return rate, step and number of samples of the update, if one is due."""
        if not self.record_gradients(self._parameters, num_samples):
            return 0.0, 0.0, 1.0
        total = self._accumulator.num_samples
        self._accumulator.reset_counts()
        return (*self.begin_update(), total)

    def counter_state(self) -> tuple[Any, ...]:
        """Return what the host has counted, for `set_counter_state`."""
        accumulator = self._accumulator
        return self._num_updates, self._num_gradients, accumulator.num_gradients, accumulator.num_samples

    def set_counter_state(self, counts: tuple[Any, ...]) -> None:
        """Take back what was counted since `counter_state`, because it did not happen."""
        accumulator = self._accumulator
        self._num_updates, self._num_gradients, accumulator.num_gradients, accumulator.num_samples = counts

    def flush(self) -> None:
        """Make the update of gradients that were accumulated for less than a full update; nothing without any."""
        if self._accumulator.num_gradients:
            self._apply_accumulated()
            self._num_gradients -= 1

    def _accumulate_step(self, gradients: Sequence[Tensor | None], num_samples: float) -> None:
        if not gradients:
            return  # a module without parameters is legal
        self.accumulate(gradients, num_samples)
        if self.record_gradients(gradients, num_samples):
            self._apply_accumulated()

    def _apply_accumulated(self) -> None:
        self.update_accumulated(*self.begin_update(), self._accumulator.num_samples or 1.0)
        self.clear_accumulated()
