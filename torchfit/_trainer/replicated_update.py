"""The part of a training step that all processes do alike: from the sums of what they have to the update."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from torchfit._distribution.process_group import ProcessGroup, do_nothing
from torchfit._execution.graph import GraphError
from torchfit._execution.step_program import StepProgram, Variant
from torchfit._trainer.exchange import Groups, MeanGradients, mean_gradients
from torchfit._trainer.microbatches import accumulate, sum_groups, update
from torchfit._trainer.replicas import Controls
from torchfit._types import Results, StepFn
from torchfit._utils.tensors import real
from torchfit._utils.tree import Batch
from torchfit.metrics.base import Variable


class ReplicatedUpdate(StepProgram):
    """The update of one of several processes, and that of its metrics, from one tensor of sums.

    How a process comes to its gradients may differ: each compiles that by itself, and rounds as it likes. But what they
    make of the sums must be the same to the bit, so all run it eagerly, or all as a graph.

    Args:
        optimizer: The optimizer.
        controls: What the processes tell each other.
        processes: The processes.

    Attributes:
        states: The states of metrics that change by what the tensor says.
        groups: How the gradients in the tensor are to be divided.
    """

    mode = "update"
    has_step_scalars = True

    def __init__(self, optimizer: Any, controls: Controls, processes: ProcessGroup) -> None:
        self._optimizer, self._controls, self._processes = optimizer, controls, processes
        self._accumulates = optimizer.gradient_accumulation_steps is not None
        self.result_template: Results = {}
        self.states: list[Variable] = []
        self.groups: Groups = ()
        self._is_present: tuple[bool, ...] = ()
        self._total = 1
        self._receive: Callable[[], object] = do_nothing
        self._counters: tuple[int, ...] = ()

    @property
    def run(self) -> StepFn:
        """Runs the update eagerly."""
        return self._run

    def prepare(
        self, sums: list[Tensor], total: int, is_present: tuple[bool, ...], receive: Callable[[], object]
    ) -> Batch:
        """Return the batch for an update.

        Args:
            sums: The tensor of everything, or one of the gradients and one of the rest.
            total: How many rows the whole batch has.
            is_present: Which parameters have a gradient in some process.
            receive: Called before they are read: the numbers may still be on their way.
        """
        self._total, self._is_present, self._receive = total, is_present, receive
        self._counters = self.get_counters()
        return Batch(sums, None, None)

    def await_inputs(self) -> None:
        """Wait for the sums; an update that never gets them does not count."""
        receive, self._receive = self._receive, do_nothing
        try:
            receive()
        except BaseException:
            self.set_counters(self._counters)
            raise

    def read_presence(self, sums: Sequence[Tensor]) -> tuple[bool, ...]:
        """Return which parameters have a gradient in some process."""
        parameters = self._optimizer.parameters
        of_group = 2 if len(sums) > 1 else sum(parameter.numel() for parameter in parameters) + 2
        counts = real(sums[-1].narrow(0, len(self.groups) * of_group, len(parameters)))
        return tuple(count > 0 for count in counts.tolist())

    def split(self, sums: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the parts of the sums, in their shapes: gradients, which of them there are, metrics, controls."""
        parameters = self._optimizer.parameters
        scalar, of_group = torch.Size(()), [parameter.shape for parameter in parameters]
        shapes = [shape for _ in self.groups for shape in (*of_group, scalar, scalar)]
        shapes += [torch.Size((len(parameters),)), *(state.shape for state in self.states)]
        if len(sums) == 1:
            return _cut(sums[0], shapes)
        is_gradient = ([True] * len(parameters) + [False] * 2) * len(self.groups)
        is_gradient += [False] * (len(shapes) - len(is_gradient))
        gradients = iter(_cut(sums[0], [shape for shape, chosen in zip(shapes, is_gradient) if chosen]))
        others = iter(_cut(sums[1], [shape for shape, chosen in zip(shapes, is_gradient) if not chosen]))
        return [next(gradients if chosen else others) for chosen in is_gradient]

    def _take(self, sums: Sequence[Tensor], total: float | Tensor, is_present: Sequence[bool]) -> MeanGradients:
        """Add the changes of the metrics to their states, and return the mean gradients of each group."""
        parts = self.split(sums)
        for state, change in zip(self.states, parts[len(parts) - len(self.states) :]):
            state.copy_(state + real(change).to(state.device))
        return mean_gradients(parts, self._optimizer.parameters, self.groups, is_present, total)

    def _run(self, batch: Batch) -> Results:
        self.await_inputs()
        gradients, _ = self._take(batch.inputs, self._total, self._is_present)
        update(self._optimizer, gradients)
        return {}

    def traceable(self, batch: Batch, *arguments: Any) -> list[Tensor]:
        """Make the update with tensors alone."""
        total, *numbers, _, is_present, is_update_step = arguments
        gradients, _ = self._take(batch.inputs, total, is_present)
        optimizer = self._optimizer
        if not self._accumulates:
            optimizer.update(sum_groups(gradients), *numbers)
            return []
        accumulate(optimizer, gradients)
        if is_update_step:
            optimizer.update_accumulated(*numbers)
            optimizer.zero_accumulated()
        return []

    def unpack_result(self, template: Results, tensors: list[Tensor]) -> Results:
        """Return nothing: the update has no result."""
        return template

    def merge_results(self, results: Sequence[Results]) -> Results:
        """Return nothing."""
        return results[-1]

    def step_scalars(self, rows: int) -> tuple[float, ...]:
        """Count an update, and return the rows of the whole batch, and the scalars of the optimizer."""
        optimizer = self._optimizer
        numbers = optimizer.begin_accumulation_step() if self._accumulates else optimizer.begin_update()
        return (float(self._total), *numbers)

    def variants(self, steps: int) -> tuple[Variant, ...]:
        """Return how the sums are to be divided, which gradients there are, and whether they make an update."""
        schedule = self._optimizer.update_schedule(steps) if self._accumulates else (True,) * steps
        return tuple((self.groups, self._is_present, is_update_step) for is_update_step in schedule)

    def get_counters(self) -> tuple[int, ...]:
        """Return the counters of the optimizer."""
        counters: tuple[int, ...] = self._optimizer.counter_state()
        return counters

    def set_counters(self, counters: tuple[int, ...]) -> None:
        """Set the counters of the optimizer back."""
        self._optimizer.set_counter_state(counters)

    def may_compile(self, is_worthwhile: Callable[[], bool]) -> bool:
        """Return whether all processes compile now."""
        return self._controls.is_compiling

    def confirm_graph(self, failure: str | None) -> None:
        """Compare with the other processes whether the graph works.

        Raises:
            GraphError: If it fails in another process.
        """
        others = first_failure(self._processes.gather(failure))
        if failure is None and others is not None:
            raise GraphError(others)


def _cut(flat: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    """Return the first parts of a tensor, in these shapes."""
    sizes = [shape.numel() for shape in shapes]
    *parts, _ = torch.split(flat, [*sizes, flat.numel() - sum(sizes)])
    return [part.view(shape) for part, shape in zip(parts, shapes)]


def first_failure(failures: Sequence[str | None]) -> str | None:
    """Return which process failed, and why."""
    found = [f"process {rank}: {failure}" for rank, failure in enumerate(failures) if failure is not None]
    return found[0] if found else None
