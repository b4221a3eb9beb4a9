"""The phases of a step, and the evaluation and prediction steps in every form: one by one, grouped or compiled.

Each form is composed of the same phases, which are functions of a model and its `StepState`:

- `forward_pass`: call the module and compute the loss;
- backward and the optimizer's step;
- `record`: update the metrics with the loss and the outputs, and return the logs.

`Model.train_step` and `Model.test_step` are these phases for one batch; a subclass may override them.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any, NamedTuple

from torch import Tensor
from torch.nn.parameter import is_lazy

from torchfit._execution.step_program import (
    StepProgram,
    concatenate_outputs,
    share_memory,
    unflatten_outputs,
)
from torchfit._trainer.base_model import BaseModel, overridden_method
from torchfit._trainer.logs import LazyLogs
from torchfit._trainer.loss_tracking import NO_LOSSES, LossTerms
from torchfit._trainer.module_call import Call
from torchfit._trainer.predictions import SampleList, is_list_per_sample
from torchfit._trainer.step_state import StepState
from torchfit._types import Nested, Results, StepFn
from torchfit._utils import tree
from torchfit._utils.errors import describe
from torchfit._utils.modules import has_lazy_weights
from torchfit._utils.tensors import map_tensors
from torchfit._utils.tree import Batch, parts_of, unwrapped
from torchfit.losses.base import Denominator

_requires_grad = attrgetter("requires_grad")
_MAX_GROUP_SIZE = 32
_MAX_GROUP_OUTPUT_BYTES = 2**18  # small enough for the CPU caches
_MAX_REUSED_OUTPUTS = 4  # buffers that a module may write its outputs into in turn


class ForwardResult(NamedTuple):
    """A batch with its outputs and its loss.

    Attributes:
        inputs: The inputs of the batch.
        targets: The targets of the batch.
        sample_weight: The sample weights of the batch.
        outputs: What the module returned.
        loss: The loss to minimize, a scalar.
        losses: The losses of the outputs that make up the loss, if they are known.
    """

    inputs: Nested
    targets: Nested
    sample_weight: Nested
    outputs: Nested
    loss: Tensor
    losses: LossTerms

    @property
    def rows(self) -> int:
        """The number of samples."""
        return count_rows(self.targets, self.outputs, self.inputs)

    @property
    def denominator(self) -> Denominator:
        """The denominator of the loss: that of a single output, if known, else the number of samples."""
        losses = self.losses
        if len(losses.terms) == 1 and self.loss is losses.total:
            return losses.terms[0].denominator
        return self.rows

    def detached(self) -> "ForwardResult":
        """Return the same without the autograd graph."""
        losses = self.losses.detached()
        loss = losses.total if self.loss is self.losses.total else self.loss.detach()
        assert loss is not None
        return self._replace(outputs=map_tensors(Tensor.detach, self.outputs), loss=loss, losses=losses)


# -- the phases of a step ----------------------------------------------------------------------------------


def forward_pass(model: BaseModel, state: StepState, batch: Any) -> ForwardResult:
    """Call the module with a batch and compute the loss."""
    parts = parts_of(batch)
    previous = state.auxiliary.enter()
    try:
        return _with_loss(model, state, parts, state.call(model.module, parts[0]))
    finally:
        state.auxiliary.leave(previous)


def _with_loss(
    model: BaseModel, state: StepState, parts: tuple[Nested, Nested, Nested], outputs: Nested
) -> ForwardResult:
    inputs, targets, sample_weight = parts
    if state.passes_training:
        loss = model.compute_loss(inputs, targets, outputs, sample_weight, training=model.training)
    else:
        loss = model.compute_loss(inputs, targets, outputs, sample_weight)
    if state.auxiliary.losses:
        state.auxiliary.losses.clear()
    objective = state.objective
    losses, objective.losses = objective.losses, NO_LOSSES
    return ForwardResult(inputs, targets, sample_weight, outputs, loss, losses)


def record(model: BaseModel, state: StepState, result: ForwardResult) -> Results:
    """Update the mean of the loss and all metrics with one batch, and return the logs."""
    inputs, targets, sample_weight, outputs, _, _ = result
    state.objective.tracker.update(result)
    return model.compute_metrics(inputs, targets, outputs, sample_weight)


def record_outputs(state: StepState, result: ForwardResult) -> None:
    """Update only the mean of the loss and the compiled metrics, if `compute_metrics` is not overridden."""
    state.objective.tracker.update(result)
    state.objective.update_metrics(result.targets, result.outputs, result.sample_weight)


def count_rows(*parts: Nested) -> int:
    """Return the number of samples of a batch: the size of the first axis of the first of its parts that has one."""
    for value in parts:
        leaves = (value,) if isinstance(value, Tensor) else tree.leaves(value)
        for leaf in leaves:
            if isinstance(leaf, Tensor) and leaf.ndim:
                return leaf.shape[0]
    return 1


# -- the steps as programs for an executor -----------------------------------------------------------------


class ModelStep(StepProgram):
    """Base class of the steps of a model.

    Args:
        model: The model.
        state: Its step state.
        keeps_step_logs: Whether the logs of each step must stay valid when the next step runs.
    """

    def __init__(self, model: BaseModel, state: StepState, keeps_step_logs: bool) -> None:
        self._model, self._state = model, state
        self.keeps_step_logs = keeps_step_logs

    def input_axes(self) -> set[int]:
        """Return the numbers of axes of the inputs of the last batch."""
        return {leaf.ndim for leaf in tree.leaves(self._state.call.example) if isinstance(leaf, Tensor)}

    def weights(self) -> list[Tensor]:
        """Return the parameters, the buffers and the tensors of the optimizer's state."""
        model, optimizer = self._model.module, self._model.optimizer
        return [*model.parameters(), *model.buffers(), *(optimizer.variables if optimizer.built else ())]


class LoggingStep(ModelStep):
    """A step that records its results in the metrics."""

    def __init__(self, model: BaseModel, state: StepState, keeps_step_logs: bool) -> None:
        super().__init__(model, state, keeps_step_logs)
        self._objective = state.objective

    def snapshot(self) -> Callable[[], None]:
        """Return a function that restores everything the next step will change, including metrics."""
        restore_weights = super().snapshot()
        states = [(metric, metric.snapshot_state()) for metric in self._model.metrics]

        def restore() -> None:
            restore_weights()
            for metric, state in states:
                metric.restore_state(state)

        return restore

    @property
    def is_current(self) -> bool:
        """Whether the model has not been compiled again."""
        return self._objective is self._state.objective

    def renewed(self) -> StepProgram:
        """Return the step with the current losses and metrics."""
        return type(self)(self._model, self._state, self.keeps_step_logs)

    def merge_results(self, results: Sequence[Any]) -> Any:
        """Return the last logs, which contain the earlier steps."""
        return results[-1]

    def unpack_result(self, template: Any, tensors: list[Tensor]) -> LazyLogs:
        """Return the logs after a step."""
        logs = LazyLogs(self._model.get_metrics_result)
        return logs.snapshot() if self.keeps_step_logs else logs

    def _wrap_logs(self, step: StepFn, name: str) -> StepFn:
        """Wrap a step to return lazy logs, because an overridden step may return any mapping."""
        overridden = overridden_method(self._model, name)
        if overridden is not None:
            step = self._prepare_user_step(step, name)
        if self.keeps_step_logs:
            return self._snapshot_logs(step)
        is_builtin = overridden is None and overridden_method(self._model, "compute_metrics") is None
        return step if is_builtin else lambda batch: LazyLogs.wrap(step(batch))

    def _snapshot_logs(self, step: StepFn) -> StepFn:
        """Wrap a step, if needed, so that its logs stay valid when the next step runs."""
        return (lambda batch: LazyLogs.wrap(step(batch)).snapshot()) if self.keeps_step_logs else step

    def _prepare_user_step(self, step: StepFn, name: str) -> StepFn:
        """Wrap a user-defined step to pass batches as Keras does, and to collect added terms."""
        auxiliary = self._state.auxiliary

        def run(batch: Batch) -> Any:
            previous = auxiliary.enter()
            # Calls of the model itself start new collections, as in Keras.
            auxiliary.is_active = auxiliary.metrics_updated = False
            try:
                results = step(unwrapped(batch))
                if not isinstance(results, Mapping):
                    raise TypeError(
                        f"`{name}` must return the logs, a mapping from names to numbers or tensors, such as "
                        f"`self.get_metrics_result()`, but it returned {describe(results)}."
                    )
                if not auxiliary.metrics_updated or auxiliary.values:
                    auxiliary.update_metrics(count_rows(batch.targets, batch.inputs))
                auxiliary.losses.clear()
                return results
            finally:
                auxiliary.leave(previous)

        return run


class EvaluateStep(LoggingStep):
    """The step of evaluation and validation.

    Args:
        model: The model.
        state: Its step state.
        keeps_step_logs: Whether the logs of each step must stay valid when the next step runs.
        no_batch_hooks: Whether no batch hooks run between the steps.
    """

    mode = "test"

    def __init__(self, model: BaseModel, state: StepState, keeps_step_logs: bool, no_batch_hooks: bool = False) -> None:
        super().__init__(model, state, keeps_step_logs)
        self.compile_blocker = overridden_method(model, "test_step", "compute_metrics")
        is_builtin = overridden_method(model, "test_step", "compute_loss", "compute_metrics") is None
        self.supports_grouping = no_batch_hooks and is_builtin and not state.auxiliary.metric_fns
        self._outputs = _OwnMemory()

    @property
    def run(self) -> StepFn:
        """Runs the step eagerly."""
        return self._wrap_logs(self._model.test_step, "test_step")

    def traceable(self, batch: Batch, *arguments: Any) -> list[Tensor]:
        """Run the step on tensors only."""
        record(self._model, self._state, forward_pass(self._model, self._state, batch))
        return []

    def run_group(self, batches: Sequence[Batch]) -> LazyLogs:
        """Run several small steps together, phase by phase."""
        model, state = self._model, self._state
        module, auxiliary, objective = model.module, state.auxiliary, state.objective
        called = []
        previous = auxiliary.enter()
        try:
            call = self._outputs.keep_outputs_of(state.call.bound_for(module, batches[0][0]))
            for batch in batches:
                parts = batch.parts
                outputs = call(module, parts[0])
                called.append((parts, outputs, auxiliary.take()))
            results = []
            for parts, outputs, (losses, values) in called:
                auxiliary.losses = losses
                results.append((_with_loss(model, state, parts, outputs), values))
            objective.tracker.update_all([result for result, _ in results])
            for result, auxiliary.values in results:
                objective.update_metrics(result.targets, result.outputs, result.sample_weight)
                if auxiliary.values:
                    auxiliary.update_metrics(result.rows)
        finally:
            auxiliary.leave(previous)
        return LazyLogs(model.get_metrics_result)

    def max_group_size(self, result: Any) -> int:
        """Return how many steps may run as a group; 1 if losses or metrics might depend on more than their batch."""
        objective = self._state.objective
        return _group_size(objective.output_bytes) if objective.is_builtin else 1


class PredictStep(ModelStep):
    """The prediction step. The arguments are those of `EvaluateStep`, and `pad_value` of `Model.predict`."""

    mode = "predict"

    def __init__(
        self,
        model: BaseModel,
        state: StepState,
        keeps_step_logs: bool,
        no_batch_hooks: bool = False,
        pad_value: float | None = None,
    ) -> None:
        super().__init__(model, state, keeps_step_logs)
        self._pad_value = pad_value
        self.compile_blocker = overridden_method(model, "predict_step")
        self.supports_grouping = no_batch_hooks and self.compile_blocker is None
        self._outputs = _OwnMemory()
        self._is_per_sample: bool | None = None

    @property
    def run(self) -> StepFn:
        """Runs the step eagerly."""
        step: StepFn = self._model.predict_step
        if overridden_method(self._model, "predict_step") is None:
            return lambda batch: self._mark_samples(step(batch), batch.inputs)
        return lambda batch: self._mark_samples(step(unwrapped(batch)), batch.inputs)

    def _mark_samples(self, outputs: Nested, inputs: Nested) -> Nested:
        """Return outputs that are a list with an entry for each sample as a `SampleList`; the first batch decides."""
        if self._is_per_sample is None:
            self._is_per_sample = is_list_per_sample(outputs, inputs)
        return SampleList(outputs) if self._is_per_sample else outputs

    def traceable(self, batch: Batch, *arguments: Any) -> list[Tensor]:
        """Run the step on tensors only, and return the leaves of the outputs."""
        return tree.leaves(self._state.call(self._model.module, batch.inputs))

    def keep_result(self, result: Nested) -> Nested:
        """Return the outputs, copied if the next call of the module would overwrite them."""
        return self._outputs.own(result)

    def merge_results(self, results: Sequence[Any]) -> Any:
        """Join the outputs of several batches."""
        if self._is_per_sample:
            return SampleList(chain.from_iterable(results))
        return concatenate_outputs(results, self._pad_value)

    def unpack_result(self, template: Any, tensors: list[Tensor]) -> Any:
        """Return the leaves of the outputs in the structure that the module returns."""
        outputs = unflatten_outputs(template, tensors)
        return SampleList(outputs) if self._is_per_sample else outputs

    def run_group(self, batches: Sequence[Batch]) -> Any:
        """Call the module with each batch, and join the outputs."""
        module = self._model.module
        call = self._outputs.keep_outputs_of(self._state.call.bound_for(module, batches[0][0]))
        outputs = [call(module, batch[0]) for batch in batches]
        return concatenate_outputs(outputs, self._pad_value)

    def max_group_size(self, result: Any) -> int:
        """Return how many steps may run as a group, by the size of their outputs."""
        return 1 if self._is_per_sample else _group_size(tree.nbytes(result))


class _OwnMemory:
    """Copies the outputs of a module that reuses memory of earlier outputs, such as two alternating buffers.

    The first calls show whether it does; until then, and if it does, outputs are copied.
    """

    def __init__(self) -> None:
        self._seen: list[Nested] = []
        self._reuses_memory: bool | None = None

    def keep_outputs_of(self, call: Call) -> Call:
        """Wrap a function that calls a module, so that later calls do not overwrite its outputs."""
        return call if self._reuses_memory is False else lambda module, inputs: self.own(call(module, inputs))

    def own(self, outputs: Nested) -> Nested:
        """Return outputs that later calls do not overwrite."""
        if self._reuses_memory is None:
            self._compare(outputs)
        return outputs if self._reuses_memory is False else map_tensors(Tensor.clone, outputs)

    def _compare(self, outputs: Nested) -> None:
        if any(share_memory(earlier, outputs) for earlier in self._seen):
            self._reuses_memory = True
        elif len(self._seen) == _MAX_REUSED_OUTPUTS:
            self._reuses_memory = False
        self._seen = [*self._seen, outputs] if self._reuses_memory is None else []


def _group_size(output_bytes: int) -> int:
    """Return how many steps with outputs of this size run as a group."""
    return max(1, min(_MAX_GROUP_SIZE, _MAX_GROUP_OUTPUT_BYTES // max(1, output_bytes)))


def build_optimizer(model: BaseModel, state: StepState) -> None:
    """Bind the optimizer, unless it is bound, to the parameters that the module has after its first forward pass."""
    if not model.optimizer.built:
        sync_optimizer(model, state, after_forward=True)


def show_parameters(model: BaseModel, state: StepState) -> None:
    """Tell the optimizer of `compile` all parameters, so that it later notices which ones became trainable.

    The parameters of losses come second. A user-defined optimizer that does not contain them warns, except with a
    custom `train_step`, in which another optimizer may train them.
    """
    if has_lazy_weights(model.module):
        return
    if overridden_method(model, "train_step") is None:
        model.optimizer.sync_parameters(model.module.named_parameters(), build=False)
    model.optimizer.sync_parameters(state.named_parameters(model), build=False)


def sync_optimizer(model: BaseModel, state: StepState, after_forward: bool = False) -> bool:
    """Call `sync_parameters`, after an overridden `build_optimizer` has bound the optimizer."""
    is_overridden = not model.optimizer.built and overridden_method(model, "build_optimizer") is not None
    if is_overridden and (after_forward or not has_lazy_weights(model.module)):
        model.build_optimizer()
        return False
    return sync_parameters(model, state, after_forward)


def sync_parameters(model: BaseModel, state: StepState, after_forward: bool = False) -> bool:
    """Make the optimizer train the currently trainable parameters, and return whether these have changed.

    In a custom `train_step`, the optimizer binds to the parameters that it is first used with. In the built-in one, an
    unbound optimizer waits for the first forward pass if there are lazy layers; lazy layers that are not called are not
    trained.
    """
    is_custom, was_built = overridden_method(model, "train_step") is not None, model.optimizer.built
    named = state.named_parameters(model)
    if not is_custom:
        if not was_built and not after_forward and has_lazy_weights(model.module):
            return False
        named = [(name, parameter) for name, parameter in named if not is_lazy(parameter)]
    changes = model.optimizer.sync_parameters(named, build=not is_custom)
    return was_built and bool(changes)


def with_sync(run_step: StepFn, parameters: Sequence[Tensor], sync: Callable[[], None]) -> StepFn:
    """Wrap a step so that `sync` is called before it if parameters were frozen or unfrozen since the last step."""
    flags = list(map(_requires_grad, parameters))

    def run(batch: object) -> Any:
        nonlocal flags
        before, flags = flags, list(map(_requires_grad, parameters))
        if flags != before:
            sync()
        return run_step(batch)

    return run
