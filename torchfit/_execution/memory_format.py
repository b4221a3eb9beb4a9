"""In which order the weights of convolutions lie in memory: as they are, as asked for, or what is faster.

Convolutions follow the order of their weights, whatever that of their inputs is, so a format costs nothing per step.
Values, keys and shapes of the weights stay.
"""

from collections.abc import Iterator
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from torchfit._execution.step_program import StepProgram
from torchfit._types import StateDict, StepFn
from torchfit._utils.errors import describe
from torchfit._utils.tree import Batch

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
_TIMED_STEPS = 3  # "auto" times this many steps in each format, after one that is not timed.
_MIN_GAIN = 0.05  # The share of a step's time that "channels_last" must save.


class MemoryFormat:
    """Leaves the weights as they are: the null object.

    Attributes:
        is_trying: Whether the steps of the running loop are being timed, and have to run eagerly.
    """

    is_trying = False

    def bind(self, program: StepProgram) -> StepFn:
        """Return what runs a step eagerly; ask for it once per loop."""
        return program.run

    def state_dict(self) -> StateDict:
        """Return what was chosen: nothing."""
        return {}

    def load_state_dict(self, state: StateDict) -> None:
        """Restore that."""


class FixedMemoryFormat(MemoryFormat):
    """Brings the weights into one format, once the first step has shown how many axes inputs have.

    Attributes:
        chosen: The format that was asked for, or found to be faster; `None` if none was found yet.
    """

    def __init__(self, chosen: str | None) -> None:
        self.chosen = chosen
        self._axes: set[int] = set()

    def bind(self, program: StepProgram) -> StepFn:
        """Return what runs a step eagerly."""
        return _run_in_turn(self._plan(program), program.run)

    def _plan(self, program: StepProgram) -> Iterator[StepFn]:
        """Yield what runs the next step, as long as there is something to do between steps."""
        self._apply(program)
        yield program.run
        self._axes = program.input_axes() & _CHANNELS_LAST.keys()
        self._apply(program)

    def _apply(self, program: StepProgram) -> None:
        if self.chosen is not None:
            convert(program, self.chosen, self._axes)

    def state_dict(self) -> StateDict:
        """Return what was chosen, and for which inputs."""
        return {"chosen": self.chosen, "axes": sorted(self._axes)}

    def load_state_dict(self, state: StateDict) -> None:
        """Restore that."""
        self.chosen, self._axes = state["chosen"], set(state["axes"])


class FasterMemoryFormat(FixedMemoryFormat):
    """Times the first steps of a loop in both formats and keeps the faster one. The steps are ordinary steps."""

    def __init__(self) -> None:
        super().__init__(None)

    def bind(self, program: StepProgram) -> StepFn:
        """Return what runs a step eagerly."""
        self.is_trying = self.chosen is None
        return super().bind(program)

    def _plan(self, program: StepProgram) -> Iterator[StepFn]:
        yield from super()._plan(program)
        if self.chosen is None and _weights(program, self._axes):
            yield from self._compare(program)
        self.is_trying = False

    def _compare(self, program: StepProgram) -> Iterator[StepFn]:
        slow, fast = _StopWatch(program), _StopWatch(program)
        convert(program, "contiguous", self._axes)
        yield program.run
        yield from [slow] * _TIMED_STEPS
        yield self._try_channels_last(program)
        if self.chosen is None:
            yield from [fast] * _TIMED_STEPS
            is_faster = fast.seconds < (1 - _MIN_GAIN) * slow.seconds
            self.chosen = "channels_last" if is_faster else "contiguous"
            self._apply(program)

    def _try_channels_last(self, program: StepProgram) -> StepFn:
        """Return what runs a step in the other format, or in this one if the module cannot (`view` needs its order)."""

        def run(batch: Batch) -> Any:
            restore = program.snapshot()
            convert(program, "channels_last", self._axes)
            try:
                return program.run(batch)
            except RuntimeError:
                self.chosen = "contiguous"
                self._apply(program)
                restore()
                return program.run(batch)

        return run


class _StopWatch:
    """Runs steps and keeps the time of the fastest."""

    def __init__(self, program: StepProgram) -> None:
        self._program, self.seconds = program, float("inf")

    def __call__(self, batch: Batch) -> Any:
        """Run and time a step."""
        device = self._program.weights()[0].device
        _wait_for(device)
        started = perf_counter()
        result = self._program.run(batch)
        _wait_for(device)
        self.seconds = min(self.seconds, perf_counter() - started)
        return result


def convert(program: StepProgram, name: str, axes: set[int]) -> None:
    """Bring the weights of a step, and what the optimizer keeps for them, into a format."""
    for tensor in _weights(program, axes):
        wanted = _CHANNELS_LAST[tensor.ndim] if name == "channels_last" else torch.contiguous_format
        tensor.data = tensor.data.to(memory_format=wanted)  # Unlike `contiguous`, it reorders single channels too.


def _weights(program: StepProgram, axes: set[int]) -> list[Tensor]:
    """Return the weights with so many axes, but no views of larger memory."""
    found = [tensor for tensor in program.weights() if tensor.ndim in axes]
    return [tensor for tensor in found if tensor.untyped_storage().nbytes() == tensor.nbytes]


def _run_in_turn(plan: Iterator[StepFn], run: StepFn) -> StepFn:
    """Return what runs each step as planned, and all further ones by `run`."""
    return lambda batch: next(plan, run)(batch)


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def choose_memory_format(memory_format: str | None) -> MemoryFormat:
    """Return the memory format that `compile` asked for.

    Raises:
        ValueError: If there is no such format.
    """
    if memory_format not in (None, "auto", "channels_last", "contiguous"):
        raise ValueError(
            "`memory_format` must be 'channels_last', 'contiguous', 'auto' or None, but it is "
            f"{describe(memory_format)}."
        )
    if memory_format is None:
        return MemoryFormat()
    return FasterMemoryFormat() if memory_format == "auto" else FixedMemoryFormat(memory_format)
