"""Gradient accumulation: several gradients are combined into one update with their weighted mean."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from torchfit._types import StateDict
from torchfit.optimizers._foreach import Scalar, Tensors, add_scaled_, zero_

SUM = "gradient_sum"
"""The slot of the sums. Those of further groups are numbered: `gradient_sum_1`, …"""


class GradientAccumulator:
    """Sums of gradients and their denominators, in place on the device, and their counts on the host.

    A loss is a total divided by a denominator, such as its number of samples. Of several batches, the right gradient is
    the sum of those of the totals, divided by the sum of the denominators. Losses whose denominators differ (those of
    several outputs) are summed in groups of their own, and added up at the end.
    """

    def __init__(self) -> None:
        self.sums: list[Tensors] = []
        self.denominators: Tensors = []
        self.num_gradients = 0
        self.has_gradient: list[bool] = []
        self._gets_gradients: list[bool | None] = []  # what eager steps have shown; `None` before the first one

    def rebind(self, sums: list[Tensors], previous: Sequence[int], device: torch.device | None) -> None:
        """From now on, accumulate gradients of other parameters.

        Args:
            sums: The sums of each group, one for each parameter.
            previous: Which position each parameter had before; -1 for a new one.
            device: Where the denominators are kept.
        """
        self.sums = sums
        self.has_gradient = [position >= 0 and self.has_gradient[position] for position in previous]
        known = self._gets_gradients
        self._gets_gradients = [known[position] if position >= 0 else None for position in previous]
        missing = len(sums) - len(self.denominators)
        dtype = torch.float64 if device is None or device.type in ("cpu", "cuda") else torch.float32
        # Not of shape (): torch's compiler takes float64 tensors of that for numbers, and drops what is written.
        self.denominators += [torch.zeros(1, dtype=dtype, device=device) for _ in range(missing)]

    def add(self, gradients: Sequence[Tensor | None], denominator: Scalar | None, group: int) -> None:
        """Add `denominator * gradients` to the sums of a group. Tensors only: may be part of a graph."""
        if not torch.compiler.is_compiling():
            self.has_gradient = [had or g is not None for had, g in zip(self.has_gradient, gradients)]
            self._gets_gradients = [bool(known) or has for known, has in zip(self._gets_gradients, self.has_gradient)]
        with torch.no_grad():
            pairs = [(total, g) for total, g in zip(self.sums[group], gradients) if g is not None]
            dense = [gradient.to_dense() if gradient.is_sparse else gradient for _, gradient in pairs]
            totals = [total for total, _ in pairs]
            if denominator is None:
                torch._foreach_add_(totals, dense)
            elif isinstance(denominator, Tensor):
                torch._foreach_add_(totals, [_times(gradient, denominator) for gradient in dense])
                self.denominators[group].add_(denominator.detach().to(self.denominators[group]).reshape(1))
            elif denominator and dense:
                add_scaled_(totals, dense, denominator)
                self.denominators[group].add_(denominator)

    def expect_traced(self) -> None:
        """Expect gradients from a graph, for all parameters except those without gradients in earlier eager steps."""
        self.has_gradient = [known is not False for known in self._gets_gradients]

    def mean_(self) -> list[Tensor | None]:
        """Convert the sums to means, in place, and return them, with `None` where no gradient was counted."""
        with torch.no_grad():
            for sums, denominator in zip(self.sums, self.denominators):
                _divide_(sums, torch.where(denominator == 0, 1.0, denominator).squeeze())
            for sums in self.sums[1:]:
                torch._foreach_add_(self.sums[0], sums)
        return [total if has_gradient else None for total, has_gradient in zip(self.sums[0], self.has_gradient)]

    def zero_(self) -> None:
        """Set sums and denominators to zero. Tensors only: may be part of a graph."""
        for sums, denominator in zip(self.sums, self.denominators):
            if sums:
                zero_(sums)
            denominator.zero_()

    def clear(self) -> None:
        """Start over: sums and counts."""
        self.zero_()
        self.num_gradients = 0
        self.has_gradient = [False] * len(self.has_gradient)

    def state_dict(self) -> StateDict:
        """Return the counts and denominators; the sums are saved with the slots of their parameters."""
        first = self.denominators[0] if self.denominators else 0.0
        state = {"count": self.num_gradients, "weight": first, "received": list(self.has_gradient)}
        return {**state, "weights": self.denominators[1:]} if self.denominators[1:] else state

    def load_state_dict(self, state: StateDict, positions: Sequence[int]) -> None:
        """Restore the counts that were saved with the sums; `positions` are those of the parameters when saved."""
        self.num_gradients = int(state["count"]) if self.sums else 0
        received = state["received"]
        self.has_gradient = [0 <= position < len(received) and bool(received[position]) for position in positions]
        saved = [state["weight"], *state.get("weights", ())]
        for group, denominator in enumerate(self.denominators):
            denominator.copy_(torch.as_tensor(saved[group] if group < len(saved) else 0.0).reshape(1))


def _times(gradient: Tensor, denominator: Tensor) -> Tensor:
    """Return the gradient of the total: 0 where nothing counted, whatever the gradient of such a loss is."""
    denominator = denominator.detach().to(gradient.device).reshape(())
    return torch.where(denominator == 0, 0.0, gradient * denominator).to(gradient.dtype)


def _divide_(tensors: Tensors, denominator: Tensor) -> None:
    if all(tensor.device == denominator.device for tensor in tensors):
        if tensors:
            torch._foreach_div_(tensors, denominator)
        return
    for tensor in tensors:
        tensor.div_(denominator.to(tensor.device))


class GradientAccumulationMixin:
    """A mixin for optimizers that accumulates gradients and combines them into one update."""

    gradient_accumulation_steps: int | None
    _parameters: Tensors
    _accumulator: GradientAccumulator
    _num_updates: int
    _num_gradients: int
    _step_samples: tuple[Scalar | None] | None = None
    """What `step` was told of the gradients that an overridden `apply` is called with, and does not pass on."""

    def require_accumulation_group(self, group: int) -> None:
        """Create the sums of a group of losses, unless they are there."""
        raise NotImplementedError

    def update(self, gradients: Sequence[Tensor | None], *numbers: Scalar) -> None:
        """Make one update."""
        raise NotImplementedError

    def begin_update(self) -> tuple[float, ...]:
        """Count an update, and return its learning rate and step."""
        raise NotImplementedError

    def accumulate(self, gradients: Sequence[Tensor | None], denominator: Scalar | None = 1.0, group: int = 0) -> None:
        """Add the gradients of one batch to the sums, in place. Counts nothing, so it may be part of a graph.

        The update is made with the sum of `denominator * gradients` over the sum of the denominators: with the
        gradient of the loss of all batches together, if the loss of each is a total divided by `denominator`.

        Args:
            gradients: One tensor for each parameter, of its shape, or `None`.
            denominator: A number, or a tensor of one element, which stays on the device. 0: the batch does not count,
                whatever its gradients are. `None`: the loss is a sum; its gradients are summed and not divided.
            group: Which losses these are, from 0. Those with denominators of their own need groups of their own;
                `update_accumulated` adds up the groups.
        """
        self.require_accumulation_group(group)
        self._accumulator.add(gradients, denominator, group)

    def record_gradients(self) -> bool:
        """Count the gradients of one batch, which `accumulate` added, and return whether an update is due."""
        self._accumulator.num_gradients += 1
        is_due = self._accumulator.num_gradients == self.gradient_accumulation_steps
        self._num_gradients += not is_due  # the last one is counted by begin_update, after its schedule was asked
        return is_due

    def update_accumulated(self, *numbers: Scalar) -> None:
        """Make one update with the mean gradients; `numbers` are those of `begin_update`.

        Counts nothing, so it may be part of a graph. Call `clear_accumulated` (or `zero_accumulated`) afterwards.
        """
        self.update(self._accumulator.mean_(), *numbers)

    def clear_accumulated(self) -> None:
        """Drop the accumulated gradients, and count from 0."""
        self._accumulator.clear()

    def update_schedule(self, steps: int) -> tuple[bool, ...]:
        """Return for each of the next steps whether it makes an update."""
        size = self.gradient_accumulation_steps or 1
        return tuple((self._accumulator.num_gradients + step) % size == 0 for step in range(1, steps + 1))

    def zero_accumulated(self) -> None:
        """Set the sums to zero. Counts nothing, so it may be part of a graph."""
        self._accumulator.zero_()

    def begin_accumulation_step(self) -> tuple[float, ...]:
        """Count gradients that a graph adds, and return the numbers of the update: zeros if none is due."""
        self._accumulator.expect_traced()
        if not self.record_gradients():
            return (0.0,) * self.count_of_numbers
        self._accumulator.num_gradients = 0
        return self.begin_update()

    @property
    def count_of_numbers(self) -> int:
        """How many numbers an update needs: its learning rate and step."""
        return 2

    def counter_state(self) -> tuple[int, ...]:
        """Return what the host has counted, for `set_counter_state`."""
        return self._num_updates, self._num_gradients, self._accumulator.num_gradients

    def set_counter_state(self, counts: tuple[int, ...]) -> None:
        """Restore the counts of `counter_state`, because later steps were rolled back."""
        self._num_updates, self._num_gradients, self._accumulator.num_gradients = counts

    def flush(self) -> None:
        """Apply leftover gradients that do not fill a whole accumulation window, if there are any."""
        if self._accumulator.num_gradients:
            self._num_gradients -= 1  # The last gradients are counted already: `begin_update` counts them again.
            self._apply_accumulated()

    def _accumulate_step(self, gradients: Sequence[Tensor | None], num_samples: Scalar | None) -> None:
        if not gradients:
            return  # a module without parameters is legal
        if self._step_samples is not None:
            (num_samples,) = self._step_samples
        self.accumulate(gradients, num_samples)
        self.end_accumulation_step()

    def end_accumulation_step(self) -> None:
        """Count the gradients of one batch, which `accumulate` added, and make the update if it is due."""
        if self.record_gradients():
            self._apply_accumulated()

    def _apply_accumulated(self) -> None:
        self.update_accumulated(*self.begin_update())
        self.clear_accumulated()
