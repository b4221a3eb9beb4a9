"""Eager execution: every step runs as ordinary Python, one at a time or several per call."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

from torchfit._execution.memory_format import MemoryFormat
from torchfit._execution.step_program import StepProgram, run_each
from torchfit._types import StateDict, StepFn


class StepGroups:
    """A `StepIterator`: iterates over `(index of the first batch, index of the last, batch or list of batches)`.

    Args:
        batches: The batches of an epoch, or the rest of them.
        first: The index of the first one.
        group_size: How many batches make a group, which may change on the way; `None` for single batches.
    """

    def __init__(self, batches: Iterator[Any], first: int = 0, group_size: int | None = None) -> None:
        self._batches, self._index = batches, first
        self.group_size = group_size

    def __iter__(self) -> "StepGroups":
        return self

    def __next__(self) -> tuple[int, int, Any]:
        """Draw the next batch or group."""
        first = self._index
        if self.group_size is None:
            batch = next(self._batches)
            self._index = first + 1
            return first, first, batch
        group = list(islice(self._batches, self.group_size))
        if not group:
            raise StopIteration
        self._index = first + len(group)
        return first, self._index - 1, group


class EagerExecution:
    """Runs every step eagerly.

    Args:
        steps_per_execution: How many steps run in one call.
        memory_format: In which order weights lie in memory.

    Attributes:
        memory_format: As the argument.
        compile_seconds: The time spent on compiling so far.
        background_compile_seconds: The time that other processes have spent on it, as far as they have ended.
        first_step_is_eager: Whether the first step of a loop may be numerically different from later ones.
        is_shareable: Whether threads may run steps at the same time.
    """

    first_step_is_eager = False
    is_shareable = True

    def __init__(self, steps_per_execution: int = 1, memory_format: MemoryFormat | None = None) -> None:
        self.steps_per_execution = steps_per_execution
        self.memory_format = memory_format or MemoryFormat()
        self.compile_seconds = self.background_compile_seconds = 0.0

    def iter_steps(self, batches: Any, epoch: int, start: int = 0) -> StepGroups:
        """Iterate over the steps of an epoch, from batch `start` on."""
        size = self.steps_per_execution
        return StepGroups(batches.epoch(epoch, start), start, size if size > 1 else None)

    def bind(self, program: StepProgram, batches: Any) -> StepFn:
        """Return the function that runs the items of `iter_steps`."""
        run = self.memory_format.bind(program)
        return partial(run_each, program, run) if self.steps_per_execution > 1 else run

    def load_compiler(self) -> None:
        """Load what compiles steps, because functions of torch are going to be replaced, which it must not see."""

    def bind_part(self, program: StepProgram) -> StepFn:
        """Return the function that runs a part of a step."""
        return program.run

    def single_pass(self, program: StepProgram, batches: Any) -> tuple[StepGroups, StepFn]:
        """Return the steps of one pass over the batches and what runs them; small steps run in groups if they may."""
        step = self.bind(program, batches)
        steps = self.iter_steps(batches, 0)
        has_one = batches.steps == 1
        if has_one or self.steps_per_execution > 1 or not program.supports_grouping or not batches.yields_views:
            return steps, step
        steps.group_size = 1
        return steps, GroupedSteps(step, self.grouped_step(program, step), program, steps, self.memory_format)

    def grouped_step(self, program: StepProgram, step: StepFn) -> StepFn:
        """Return the function that runs several small steps at once."""
        return program.run_group

    def release(self) -> None:
        """Release what a loop used."""

    def invalidate(self) -> None:
        """Forget what depends on the parameters that are trained."""

    def state_dict(self) -> StateDict:
        """Return what the numbers of the next steps depend on: the memory format."""
        return {"memory_format": self.memory_format.state_dict()}

    def load_state_dict(self, state: StateDict) -> None:
        """Restore that."""
        if state.get("memory_format"):
            self.memory_format.load_state_dict(state["memory_format"])


class GroupedSteps:
    """Runs small steps in groups, phase by phase, when no callback runs between them.

    The same code then runs repeatedly while it is in the processor's caches, which makes the steps of a small network
    about a third faster. The first step runs alone and shows how large its outputs are.
    """

    def __init__(
        self,
        step: StepFn,
        grouped_step: StepFn,
        program: StepProgram,
        steps: StepGroups,
        memory_format: MemoryFormat,
    ) -> None:
        self._step, self._grouped_step, self._steps = step, grouped_step, steps
        self._memory_format = memory_format
        self._max_group_size: Callable[[Any], int] | None = program.max_group_size

    def __call__(self, group: Sequence[Any]) -> Any:
        """Run the steps of a group."""
        if len(group) > 1:
            return self._grouped_step(group)
        result = self._step(group[0])
        if self._max_group_size is not None and not self._memory_format.is_trying:
            self._steps.group_size, self._max_group_size = self._max_group_size(result), None
        return result
