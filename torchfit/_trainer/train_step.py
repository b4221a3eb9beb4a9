"""The training step, in every form that an executor may run: eager, microbatched, with a closure or compiled."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from torch import Tensor

from torchfit._execution.graph import GraphError
from torchfit._execution.step_program import GraphKey, StepProgram, Variant
from torchfit._trainer.base_model import BaseModel, overridden_method
from torchfit._trainer.logs import LazyLogs
from torchfit._trainer.microbatches import (
    LossSplitter,
    MicrobatchSplitter,
    PartialGradients,
    compute_gradients,
    refuse_to_evaluate,
    release_cached_memory,
    step_evaluated,
    warn_if_not_separable,
)
from torchfit._trainer.step_state import StepState
from torchfit._trainer.steps import ForwardResult, LoggingStep, build_optimizer, forward_pass, record, record_outputs
from torchfit._types import Results, StepFn
from torchfit._utils.compat import backward, has_accumulation_hooks, has_gradient_hooks
from torchfit._utils.tree import Batch

AddedValues: TypeAlias = "list[tuple[str, object, str]]"
"""What modules added with `add_metric` in a part of a batch."""

PartResults: TypeAlias = "tuple[PartialGradients, list[ForwardResult], list[AddedValues]]"


class TrainStep(LoggingStep):
    """The training step.

    Args:
        model: The model.
        state: Its step state.
        keeps_step_logs: Whether the logs of each step must stay valid when the next step runs.
        microbatches: The splitter of batches that do not fit into memory at once, or `None`.
        expected_steps: The expected number of steps, or `None` if unknown.
    """

    mode = "train"

    def __init__(
        self,
        model: BaseModel,
        state: StepState,
        keeps_step_logs: bool,
        microbatches: MicrobatchSplitter | None = None,
        expected_steps: int | None = None,
    ) -> None:
        self._optimizer = model.optimizer
        self._accumulates = self._optimizer.gradient_accumulation_steps is not None
        self._microbatches = microbatches
        self._splitter = LossSplitter()
        self._is_checked = self._has_hooks = False
        self.expected_steps = expected_steps
        super().__init__(model, state, keeps_step_logs)
        self.has_step_scalars = self._updates_in_graph = self._optimizer.updates_in_graph
        self.needs_batch = self._optimizer.accepts_closure
        self.max_unrolled_steps = super().max_unrolled_steps if self._updates_in_graph else 1

    @property
    def is_current(self) -> bool:
        """Whether the model has not been compiled again, and has the same optimizer and no first gradient hook."""
        is_same = super().is_current and self._optimizer is self._model.optimizer
        return is_same and self._has_hooks == any(map(has_gradient_hooks, self._optimizer.parameters))

    def renewed(self) -> StepProgram:
        """Return the step with the current optimizer, losses and metrics."""
        return TrainStep(self._model, self._state, self.keeps_step_logs, self._microbatches, self.expected_steps)

    @property
    def run(self) -> StepFn:
        """The function that runs the step eagerly.

        Raises:
            ValueError: If `microbatch` is set, but `train_step` is overridden, or the optimizer evaluates the loss
                itself.
        """
        is_overridden = overridden_method(self._model, "train_step") is not None
        if self._microbatches is not None and is_overridden:
            raise ValueError(
                "`microbatch` splits the batches of the built-in `train_step`, but this model overrides it. Leave "
                "`microbatch` out of `compile`, and split the batch in `train_step`."
            )
        if self._microbatches is not None and self._optimizer.needs_closure:
            refuse_to_evaluate()
        if self._microbatches is not None or self._accumulates:
            self._refuse_accumulation_hooks()
        if self._microbatches is not None:
            step: StepFn = self._run_microbatched
        elif self._accumulates and not is_overridden:
            step = self._run_accumulating
        elif self._optimizer.accepts_closure and not is_overridden:
            step = self._run_with_closure
        else:
            return self._wrap_logs(self._model.train_step, "train_step")
        return self._snapshot_logs(step)

    def traceable(self, batch: Batch, *arguments: Any) -> list[Tensor]:
        """Run the step on tensors only; `arguments` are the scalars and the variant of the optimizer's update.

        For an optimizer that updates outside graphs, the gradients and the loss are returned.
        """
        optimizer = self._optimizer
        result = forward_pass(self._model, self._state, batch)
        if not self._updates_in_graph:
            gradients = compute_gradients(optimizer, result.loss)
            record(self._model, self._state, result)
            return [result.loss.new_empty(0) if each is None else each for each in (*gradients, result.loss.detach())]
        if not self._accumulates:
            gradients = compute_gradients(optimizer, result.loss)
            record(self._model, self._state, result)
            optimizer.update(gradients, *arguments)
            return []
        *scalars, is_update_step = arguments
        parts = self._splitter.split(result)
        for number, part in enumerate(parts):
            gradients = compute_gradients(optimizer, part.value, keep_graph=number + 1 < len(parts))
            optimizer.accumulate(gradients, part.denominator, part.group)
        record(self._model, self._state, result)
        if is_update_step:
            optimizer.update_accumulated(*scalars)
            optimizer.zero_accumulated()
        return []

    def unpack_result(self, template: Any, tensors: list[Tensor]) -> LazyLogs:
        """Return the logs after a step, and apply the update if it was not part of the graph."""
        if not self._updates_in_graph:
            self._optimizer.zero_grad()
            *gradients, loss = tensors
            for parameter, gradient in zip(self._optimizer.parameters, gradients):
                parameter.grad = gradient if gradient.shape == parameter.shape else None
            step_evaluated(self._optimizer, loss, lambda: self._evaluate(self.make_batch()).loss)
        return super().unpack_result(template, tensors)

    def graph_key(self, batches: Sequence[Batch], tensors: Sequence[Tensor]) -> GraphKey | None:
        """Prepare for steps with these batches in a graph, once it is known if the optimizer evaluates the loss itself.

        Raises:
            GraphError: If it does.
        """
        if self.needs_batch:
            if self._optimizer.may_evaluate_again:
                return None
            if self._optimizer.compile_blocker is not None:
                raise GraphError(self._optimizer.compile_blocker)
        return super().graph_key(batches, tensors)

    def step_scalars(self, rows: int) -> tuple[float, ...]:
        """Count a step, and return the scalar arguments of the optimizer's update."""
        scalars: tuple[float, ...]
        scalars = self._optimizer.begin_accumulation_step() if self._accumulates else self._optimizer.begin_update()
        return scalars

    def variants(self, steps: int) -> tuple[Variant, ...]:
        """Return the variant of each of the next steps: whether it ends an accumulation window."""
        if not self._accumulates:
            return super().variants(steps)
        return tuple((is_update_step,) for is_update_step in self._optimizer.update_schedule(steps))

    def get_counters(self) -> Any:
        """Return the counters of the optimizer."""
        return self._optimizer.counter_state()

    def set_counters(self, counters: Any) -> None:
        """Restore the counters of the optimizer."""
        self._optimizer.set_counter_state(counters)

    @property
    def compile_blocker(self) -> str | None:  # type: ignore[override]
        """The reason why the step cannot be compiled, or `None` if none is known."""
        overridden = overridden_method(self._model, "train_step", "compute_metrics")
        microbatched = "`microbatch` splits the batches" if self._microbatches is not None else None
        is_frozen = None if self._model.trainable_weights else "the module has no trainable parameters"
        self._has_hooks = any(map(has_gradient_hooks, self._model.trainable_weights))
        hooked = "a parameter has a hook for its gradient, which only `backward` calls" if self._has_hooks else None
        return overridden or microbatched or is_frozen or hooked or self._optimizer.compile_blocker

    def _refuse_accumulation_hooks(self) -> None:
        """Raise if there are hooks that are never called, because gradients are not stored in the parameters.

        Raises:
            ValueError: If that is so.
        """
        if any(map(has_accumulation_hooks, self._model.trainable_weights)):
            argument = "gradient_accumulation_steps" if self._microbatches is None else "microbatch"
            raise ValueError(
                f"`{argument}` does not go with `register_post_accumulate_grad_hook`: gradients are added up before "
                f"they are stored in the parameters. Leave out `{argument}` or the hooks, or use `register_hook`, "
                "whose hooks are called with the gradient of each part."
            )

    # -- one batch in several passes, or several batches for one update ------------------------------------

    def _run_accumulating(self, batch: Batch) -> Results:
        """Run the step with an optimizer that accumulates gradients."""
        return self._update_and_record(*self._compute_parts([batch], "gradient_accumulation_steps"))

    def _run_microbatched(self, batch: Batch) -> Results:
        """Run the step with as many rows at once as fit into memory.

        Only forward and backward are retried: an update that failed midway must not be repeated.
        """
        microbatches = self._microbatches
        assert microbatches is not None
        while True:
            snapshots = [(metric, metric.snapshot_state()) for metric in self._state.objective.output_metrics]
            try:
                computed = self._compute_parts(microbatches.split(batch), "microbatch")
                break
            except (RuntimeError, MemoryError) as error:
                microbatches.halve_after_oom(batch, error)
            release_cached_memory()  # Not earlier, because the error references the tensors of the failed attempt.
            for metric, snapshot in snapshots:
                metric.restore_state(snapshot)
        return self._update_and_record(*computed)

    def _compute_parts(self, parts: Iterable[Batch], argument: str) -> PartResults:
        """Run forward and backward with each part of a batch."""
        model, state = self._model, self._state
        gradients, results, values = PartialGradients(self._optimizer), [], []
        for part in parts:
            result = forward_pass(model, state, part)
            if self._needs_update(result):
                build_optimizer(model, state)
                gradients.add(self._splitter.split(result))
            results.append(result.detached())
            values.append(list(state.auxiliary.values))
        if not self._is_checked and (len(results) > 1 or self._accumulates):
            self._is_checked = True
            warn_if_not_separable(argument, results[0])
        return gradients, results, values

    def _update_and_record(
        self, gradients: PartialGradients, results: list[ForwardResult], values: list[AddedValues]
    ) -> Results:
        """Apply the update, and record the parts of a batch with the values that were added in them."""
        gradients.finish()
        auxiliary = self._state.auxiliary
        if overridden_method(self._model, "compute_metrics") is not None:
            for result, auxiliary.values in zip(results, values):
                logs = record(self._model, self._state, result)
            return LazyLogs.wrap(logs)
        for result, auxiliary.values in zip(results, values):
            record_outputs(self._state, result)
            auxiliary.update_values(result.rows)
        auxiliary.update_metrics(sum(result.rows for result in results))
        return LazyLogs(self._model.get_metrics_result)

    def _needs_update(self, result: ForwardResult) -> bool:
        """Return whether the step must call the optimizer, to train or to raise an error."""
        return result.loss.requires_grad or bool(self._model.trainable_weights)

    # -- optimizers that evaluate the loss themselves ------------------------------------------------------

    def _run_with_closure(self, batch: Batch) -> Results:
        """Run the step of an optimizer such as LBFGS; the first evaluation is logged."""
        self._model.build_optimizer()
        results: list[ForwardResult] = []

        def closure() -> Tensor:
            result = self._evaluate(batch)
            if not results:
                results.append(result.detached())
            return result.loss

        self._optimizer.step(closure=closure)
        return record(self._model, self._state, results[0])

    def _evaluate(self, batch: Batch) -> ForwardResult:
        """Compute the loss and its gradients."""
        optimizer, state = self._optimizer, self._state
        optimizer.zero_grad()
        result = forward_pass(self._model, state, batch)
        backward(optimizer.scale_loss(result.loss), state.unit)
        return result
