"""`StepProgram`: what an executor needs to know about one kind of step."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from torchfit._types import Nested, Results, StepFn
from torchfit._utils import tree
from torchfit._utils.rng import random_state, restore_random_state
from torchfit._utils.tensors import dense, is_plain

Variant: TypeAlias = tuple[Any, ...]
"""The arguments of a traced step that are known when it is traced."""

GraphKey: TypeAlias = tuple[Any, ...]
"""The variant of each step in a graph, and the shapes of the inputs of all of them."""

PADDING_HINT = "Or pass `pad_value=`, which fills up shorter outputs."


class StepProgram(ABC):
    """One kind of step, in the forms that an executor chooses from: eager, grouped, and traceable.

    Attributes:
        mode: Which loop the step belongs to.
        keeps_step_logs: Whether user code runs between the steps: it may read the logs of each, and change anything.
        expected_steps: How many steps the loop is going to run, `None` if unknown.
        compile_blocker: Why the step cannot be compiled, `None` if nothing is known to prevent it.
        supports_grouping: Whether small steps may run in groups, phase by phase (`run_group`).
        has_step_scalars: Whether the traceable form takes scalars that the host computes for each step.
        max_unrolled_steps: How many steps may be one graph: more would save little and take long to compile.
        result_template: What results look like, `None` if only an eager step shows that.
        needs_batch: Whether `unpack_result` may need the batch of the step, beside what a graph returned.
        make_batch: Returns that batch, if it may be needed.
    """

    mode: Literal["train", "test", "predict", "update"]
    keeps_step_logs: bool = False
    expected_steps: int | None = None
    compile_blocker: str | None = None
    supports_grouping: bool = False
    has_step_scalars: bool = False
    max_unrolled_steps: int = 4
    result_template: Results | None = None
    needs_batch: bool = False
    make_batch: Callable[[], Any]

    @property
    def is_current(self) -> bool:
        """Whether the step still is that of the model, which may be compiled again in the middle of a loop."""
        return True

    def renewed(self) -> "StepProgram":
        """Return the step for the model as it is compiled now."""
        return self

    def input_axes(self) -> set[int]:
        """Return how many axes the inputs of the last batch have."""
        return set()

    def weights(self) -> list[Tensor]:
        """Return the weights of the module, and the tensors that the optimizer keeps for them."""
        return []

    def snapshot(self) -> Callable[[], None]:
        """Return what restores all that the next step is going to change."""
        saved = [(tensor, tensor.detach().clone()) for tensor in self.weights()]
        counters, generators = self.get_counters(), random_state()

        def restore() -> None:
            with torch.no_grad():
                for tensor, value in saved:
                    tensor.copy_(value)
            self.set_counters(counters)
            restore_random_state(generators)

        return restore

    @property
    @abstractmethod
    def run(self) -> StepFn:
        """Runs the step eagerly with one batch, and returns its logs or outputs; ask for it once per loop."""

    @abstractmethod
    def merge_results(self, results: Sequence[Any]) -> Any:
        """Return one result for several steps, of results that `keep_result` returned."""

    def keep_result(self, result: Any) -> Any:
        """Return the result of a step in a form that later steps do not overwrite."""
        return result

    @abstractmethod
    def traceable(self, batch: Any, *arguments: Any) -> list[Tensor]:
        """Run the step with tensors alone, so that it can be compiled.

        Args:
            batch: A batch.
            *arguments: The scalars of the step (`step_scalars`) as 0-d tensors, then what `variants` says of it.
        """

    @abstractmethod
    def unpack_result(self, template: Any, tensors: list[Tensor]) -> Any:
        """Turn what the traceable form returned, for one or several steps, into a result like `template`."""

    def step_scalars(self, rows: int) -> tuple[float, ...]:
        """Count a step with this many rows, and return the scalars that its traceable form takes."""
        return ()

    def await_inputs(self) -> None:
        """Wait for what the step reads, if it was started without that; all else is prepared when this is called."""
        return

    def variants(self, steps: int) -> tuple[Variant, ...]:
        """Return, for each of the next `steps`, the compile-time arguments of its traceable form."""
        return ((),) * steps

    def graph_key(self, batches: Sequence[Any], tensors: Sequence[Tensor]) -> GraphKey | None:
        """Prepare for steps with these batches in a graph.

        Returns:
            The variant of each step, and the shapes of all tensors; `None` if these steps must run eagerly.

        Raises:
            GraphError: If the steps cannot be in a graph.
        """
        return (self.variants(len(batches)), *[tensor.shape for tensor in tensors])

    def may_compile(self, is_worthwhile: Callable[[], bool]) -> bool:
        """Return whether to compile the first graph now, which `is_worthwhile` says for this process."""
        return is_worthwhile()

    def confirm_graph(self, failure: str | None) -> None:
        """Called after a graph was compiled and ran for the first time, or with the reason why it failed.

        Raises:
            GraphError: If the graph must not be used, although it works here. What it has changed is restored then.
        """
        return

    def get_counters(self) -> Any:
        """Return what `step_scalars` counts."""
        return None

    def set_counters(self, counters: Any) -> None:
        """Set the counters back, because steps failed."""
        return

    def run_group(self, batches: Sequence[Any]) -> Any:
        """Run several small steps phase by phase: first all forward passes, then all losses, and so on."""
        return run_each(self, self.run, batches)

    def max_group_size(self, result: Any) -> int:
        """Return how many steps like the one that gave `result` may run as a group."""
        return 1


def run_each(program: StepProgram, step: StepFn, batches: Sequence[Any]) -> Any:
    """Run a step with each batch of a group, and merge the results."""
    return program.merge_results([program.keep_result(step(batch)) for batch in batches])


def concatenate_outputs(outputs: Sequence[Nested], pad_value: float | None = None) -> Nested:
    """Join the outputs of several batches along the first axis.

    Args:
        outputs: The outputs of each batch.
        pad_value: Fills up outputs of different shapes, `None` to refuse them.

    Raises:
        ValueError: If the shapes differ.
    """
    if len(outputs) == 1:
        return outputs[0]
    columns = zip(*map(tree.leaves, outputs))
    return tree.unflattener(outputs[0])([_join(column, pad_value) for column in columns])


def share_memory(a: Nested, b: Nested) -> bool:
    """Return whether a tensor of `a` and one of `b` have the same memory."""
    first, second = (
        {leaf.data_ptr() for leaf in tree.leaves(outputs) if is_plain(leaf) and leaf.numel()} for outputs in (a, b)
    )
    return bool(first & second)


def _join(column: tuple[Any, ...], pad_value: float | None) -> Any:
    if not isinstance(column[0], Tensor):
        return column[0]
    if not is_plain(column[0]):
        column = tuple(dense("the outputs of the model", part) for part in column)
    shapes = {part.shape[1:] for part in column}
    if len(shapes) == 1:
        return torch.cat([part if part.ndim else part[None] for part in column])
    if pad_value is None or len({part.ndim for part in column}) > 1:
        found = ", ".join(str(tuple(part.shape)) for part in column)
        raise ValueError(f"{cannot_join(f'batches gave outputs of the shapes {found}')} {PADDING_HINT}")
    sizes = [max(sizes) for sizes in zip(*shapes)]
    return torch.cat([_pad(part, sizes, pad_value) for part in column])


def cannot_join(reason: str) -> str:
    """Return the message for outputs of batches that do not go together."""
    return (
        f"`predict` joins the outputs of all batches along the first axis, but {reason}. Use `predict_iter` or "
        "`predict_on_batch`, which return the outputs of each batch."
    )


def _pad(part: Tensor, sizes: Sequence[int], value: float) -> Tensor:
    """Fill up all axes but the first to these sizes."""
    missing = [size - own for size, own in zip(sizes, part.shape[1:])]
    return functional.pad(part, [width for size in reversed(missing) for width in (0, size)], value=value)


def unflatten_outputs(example: Any, leaves: Sequence[Tensor]) -> Any:
    """Put the outputs of one or several batches, as a graph returned them, into the structure of an example."""
    unflatten, size = tree.unflattener(example), len(tree.leaves(example))
    if len(leaves) == size:
        return unflatten(leaves)
    return concatenate_outputs([unflatten(leaves[start : start + size]) for start in range(0, len(leaves), size)])
