"""The steps of one of several processes, each of which has a part of the rows of every batch."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from operator import attrgetter

import torch
from torch import Tensor, nn

from torchfit._data.sharding import BatchPart
from torchfit._distribution.process_group import do_nothing
from torchfit._execution.graph import GraphError
from torchfit._execution.step_program import GraphKey, StepProgram, Variant
from torchfit._trainer.base_model import BaseModel, overridden_method
from torchfit._trainer.exchange import (
    LossTotals,
    MetricChanges,
    TracedChanges,
    adds_up,
    exchange_dtypes,
    flatten,
    starts_from_zero,
    variables_of,
)
from torchfit._trainer.logs import LazyLogs
from torchfit._trainer.microbatches import (
    MicrobatchSplitter,
    PartialGradients,
    release_cached_memory,
    set_gradients,
    update,
)
from torchfit._trainer.replicas import Replica
from torchfit._trainer.replicated_update import ReplicatedUpdate, first_failure
from torchfit._trainer.step_state import StepState
from torchfit._trainer.steps import EvaluateStep, ForwardResult, LoggingStep, build_optimizer, forward_pass, record
from torchfit._trainer.train_step import AddedValues, TrainStep
from torchfit._trainer.user_steps import SharedMetrics, StepValues, shared_gradients, whole_losses
from torchfit._types import Results, StepFn
from torchfit._utils.compat import has_gradient_hooks
from torchfit._utils.tree import Batch
from torchfit.metrics.base import Variable

_BATCH_NORMS = nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm


class ReplicatedTrainStep(TrainStep):
    """The training step of one of several processes.

    The forward and the backward pass are those of its rows. The gradients, the changes of all metrics and a few numbers
    are then summed over the processes, together, and every process makes the same update.

    Args:
        replica: What the steps of this process have in common.
        model: As in `TrainStep`, likewise the others.
        state: Its step state.
        keeps_step_logs: Whether the logs of each step must stay as they are.
        microbatches: Splits the batches, or `None`.
        expected_steps: How many steps are to come.
        bind_part: Returns what runs a part of the step, as a graph once that is worthwhile.
    """

    def __init__(
        self,
        replica: Replica,
        model: BaseModel,
        state: StepState,
        keeps_step_logs: bool,
        microbatches: MicrobatchSplitter | None = None,
        expected_steps: int | None = None,
        bind_part: Callable[[StepProgram], StepFn] = attrgetter("run"),
    ) -> None:
        self._replica = replica
        super().__init__(model, state, keeps_step_logs, microbatches, expected_steps)
        self._values = StepValues()
        self._is_recording_overridden = overridden_method(model, "compute_metrics") is not None
        self.has_step_scalars, self.max_unrolled_steps = True, 1
        self._update = ReplicatedUpdate(self._optimizer, replica.controls, replica.processes)
        self._bind_part = bind_part
        self._run_update: StepFn | None = None
        self._dtype, self._reduce_dtype = torch.float32, replica.processes.reduce_dtype
        self._are_zeroed: list[bool] = []
        self._presence: dict[tuple[int, ...], tuple[bool, ...]] = {}
        self._failure: str | None = None
        self._reason: str | None = None

    def renewed(self) -> StepProgram:
        """Return the step with the optimizer, the losses and the metrics of now."""
        arguments = self.keeps_step_logs, self._microbatches, self.expected_steps, self._bind_part
        return ReplicatedTrainStep(self._replica, self._model, self._state, *arguments)

    @property
    def run(self) -> StepFn:
        """Runs the step eagerly."""
        if self._microbatches is not None and self._optimizer.needs_closure:
            return super().run  # Which raises the error.
        if any(map(has_gradient_hooks, self._model.trainable_weights)):
            raise ValueError(
                "With several processes, hooks for the gradients of parameters would get those of a part of the batch. "
                "Remove the hooks, clip gradients with the optimizer (`clipvalue`, `clipnorm`), or use one process."
            )
        if overridden_method(self._model, "train_step") is None:
            return self._snapshot_logs(self._run_closure if self._optimizer.accepts_closure else self._run_replicated)
        if self._microbatches is not None:
            return super().run  # Which raises the error.
        return self._snapshot_logs(self._wrap_user_step(self._prepare_user_step(self._model.train_step, "train_step")))

    # -- the built-in step ---------------------------------------------------------------------------------

    def _run_replicated(self, batch: Batch) -> Results:
        """Run the step with the rows of this process."""
        part = as_part(batch)
        while True:
            metrics = MetricChanges(self._model.metrics, from_zero=not self._is_recording_overridden)
            totals = LossTotals(self._optimizer, part.rows, part.total)
            try:
                results = self._compute(part, totals, metrics)
                break
            except (RuntimeError, MemoryError) as error:
                if self._microbatches is None:
                    raise
                self._microbatches.halve_after_oom(batch, error)
            release_cached_memory()  # Not before: the error holds the tensors of the attempt that failed.
            metrics.undo(self._model.metrics)
        if self._run_update is None or not totals.groups:
            self._make_update(totals, self._sum(totals, metrics, part))
        else:
            self._sum_flat(totals, metrics, part)
        self._dtype, self._update.groups = totals.dtype, totals.layout
        return self._values.logs(results)

    def _compute(self, batch: BatchPart, totals: LossTotals, metrics: MetricChanges) -> Results:
        """Compute losses, gradients and metrics of the own rows."""
        model, state, splitter = self._model, self._state, self._microbatches
        parts: Iterable[Batch] = [batch] if splitter is None else splitter.split(batch)
        results, values = [], []
        with self._replica.rows_of(batch, is_whole=splitter is None):
            for part in parts:
                result = forward_pass(model, state, part)
                if self._needs_update(result):
                    build_optimizer(model, state)
                    totals.add(self._splitter.split(result))
                results.append(result.detached())
                values.append(list(state.auxiliary.values))
        if not self._is_checked:
            self._is_checked = True
            _warn_if_not_separable(results[0])
        return self._record(results, values, metrics, batch)

    def _record(
        self, results: list[ForwardResult], values: list[AddedValues], metrics: MetricChanges, part: BatchPart
    ) -> Results:
        with self._replica.counting(part):
            if not self._is_recording_overridden:
                return self._update_and_record(PartialGradients(self._optimizer), results, values)
            with SharedMetrics(self._replica.exchange, metrics, self._model, part).installed():
                return self._values.keep(self._update_and_record(PartialGradients(self._optimizer), results, values))

    def _sum(self, totals: LossTotals, metrics: MetricChanges, part: BatchPart) -> list[Tensor]:
        """Sum up everything over the processes, set the metrics, and return what belongs to the gradients."""
        replica, gradients = self._replica, totals.tensors()
        changes = metrics.tensors(self._model.metrics, part.rows > 0, replica.processes)
        values = self._values.tensors(part.rows / part.total)
        tensors = [*gradients, *changes, *values, replica.controls.tensor(part.rows)]
        sums = replica.exchange.sum(tensors, self._dtypes(totals, len(tensors)), device_of(tensors))
        metrics.finish(sums[len(gradients) : len(gradients) + len(changes)])
        self._values.finish(sums[len(gradients) + len(changes) : -1])
        replica.controls.finish(sums[-1], part.total)
        return sums[: len(gradients)]

    def _dtypes(self, totals: LossTotals, count: int) -> list[torch.dtype]:
        return totals.dtypes(count, self._reduce_dtype)

    def _make_update(self, totals: LossTotals, sums: list[Tensor]) -> None:
        """Make the update with the gradients of the whole batch, or accumulate them for a later one."""
        if sums:
            update(self._optimizer, totals.finish(sums)[0])

    # -- the same as graphs: one up to the exchange, of each process, and one for the update, of all -------

    def graph_key(self, batches: Sequence[Batch], tensors: Sequence[Tensor]) -> GraphKey | None:
        """Prepare for the step with a batch in a graph; the shapes are those of the whole batch, as all see it.

        Raises:
            GraphError: If it cannot be in a graph, in this or another process.
        """
        part = as_part(batches[0])
        if self._run_update is None:
            self._start_updates()
        if self._reason is not None:
            raise GraphError(self._reason)
        if not part.rows:
            return None  # Nothing would be left of it, not even what is drawn.
        self._replica.take(part)
        return (self.variants(1), *[(*self._replica.key, *tensor.shape[1:]) for tensor in tensors])

    def _start_updates(self) -> None:
        """Run updates and changes of metrics apart from now on, in all processes."""
        for metric in self._model.metrics:
            if not adds_up(metric):
                raise GraphError(f"the processes do not just add up the states of the metric {metric.name!r}")
        self._run_update = self._bind_part(self._update) if self._updates_in_graph else self._update.run
        self._set_states(list(variables_of(self._model.metrics)))

    def _set_states(self, states: list[Variable]) -> None:
        """Exchange these states of metrics, which the first step has created."""
        self._update.states = states
        zeroed = {id(each) for each in variables_of(each for each in self._model.metrics if starts_from_zero(each))}
        self._are_zeroed = [id(state) in zeroed for state in states]

    def _sum_flat(self, totals: LossTotals, metrics: MetricChanges, part: BatchPart) -> None:
        """Sum up everything over the processes, and make the update, after a step that was not in a graph."""
        replica, controls = self._replica, self._replica.controls
        changes = metrics.tensors(self._model.metrics, part.rows > 0, replica.processes)
        tensors = [*totals.tensors(), *changes, controls.tensor(part.rows)]
        sums = replica.exchange.sum_flat(tensors, self._dtypes(totals, len(tensors)), device_of(tensors))
        metrics.undo(self._model.metrics)
        if len(metrics.changed) != len(self._update.states):
            self._set_states(metrics.changed)
        self._update.groups = totals.layout
        self._read_controls(sums[-1][-controls.count :])
        self._make_flat_update(sums, totals.presence or self._update.read_presence(sums), do_nothing)

    def _make_flat_update(
        self, sums: list[Tensor], is_present: tuple[bool, ...], receive: Callable[[], object]
    ) -> None:
        assert self._run_update is not None
        self._run_update(self._update.prepare(sums, self._replica.own.total, is_present, receive))

    def _read_controls(self, sums: Tensor, wait: Callable[[], object] = do_nothing) -> None:
        """Read what the processes tell each other, after waiting for it."""
        wait()
        controls = self._replica.controls
        controls.finish(sums, self._replica.own.total)
        if controls.is_eager and self._reason is None:
            self._reason = first_failure(self._replica.processes.gather(self._failure))

    def traceable(self, batch: Batch, *arguments: Tensor) -> list[Tensor]:
        """Compute what is to be summed, on tensors alone; `arguments` are the controls."""
        own = self._replica.own
        totals = LossTotals(self._optimizer, own.rows, own.total)
        changes = TracedChanges(self._update.states, self._are_zeroed)
        own.is_whole = True
        result = forward_pass(self._model, self._state, batch)
        own.is_whole = False
        totals.add(self._splitter.split(result))
        own.counts = True
        record(self._model, self._state, result)
        own.counts = False
        tensors = [*totals.tensors(), *changes.take(), torch.stack(arguments)]
        sizes = len(totals.groups), len(self._optimizer.parameters), len(tensors)
        dtypes = exchange_dtypes(*sizes, self._dtype, self._reduce_dtype)
        flat = flatten(tensors, dtypes, result.loss.device)
        # An empty one says that gradients are missing here; which ones exist elsewhere has to be read from the sums.
        return flat if totals.presence else [*flat, flat[0].new_empty(0)]

    def unpack_result(self, template: Results, tensors: list[Tensor]) -> LazyLogs:
        """Sum up over the processes, make the update, and return the logs."""
        is_complete = tensors[-1].shape[0] > 0
        sums = tensors if is_complete else tensors[:-1]
        wait = self._replica.processes.start_sums(sums)
        if not is_complete:
            wait()
        is_present = (True,) * len(self._optimizer.parameters) if is_complete else self._read_presence(sums)
        controls = sums[-1][-self._replica.controls.count :]
        self._make_flat_update(sums, is_present, partial(self._read_controls, controls, wait))
        return LoggingStep.unpack_result(self, template, tensors)

    def _read_presence(self, sums: Sequence[Tensor]) -> tuple[bool, ...]:
        """Return which parameters have a gradient in some process; from a device, it is read once for each graph."""
        key = self._replica.key
        if sums[-1].device.type == "cpu" or key not in self._presence:
            self._presence[key] = self._update.read_presence(sums)
        return self._presence[key]

    def step_scalars(self, rows: int) -> tuple[float, ...]:
        """Return the controls."""
        return self._replica.controls.numbers(self._replica.own.rows)

    def variants(self, steps: int) -> tuple[Variant, ...]:
        """Return no variants: those of the optimizer are variants of the update."""
        return ((),) * steps

    def get_counters(self) -> None:
        """Return nothing: the update counts."""

    def set_counters(self, counters: None) -> None:
        """Do nothing."""

    def may_compile(self, is_worthwhile: Callable[[], bool]) -> bool:
        """Return whether some process finds it worthwhile, and so all compile now."""
        controls = self._replica.controls
        controls.wants_to_compile = controls.wants_to_compile or is_worthwhile()
        return controls.is_compiling

    def confirm_graph(self, failure: str | None) -> None:
        """Tell the other processes with the next exchange if there is no graph here."""
        if failure is not None:
            self._failure, self._replica.controls.has_no_graph = failure, True

    @property
    def compile_blocker(self) -> str | None:  # type: ignore[override]
        """Why the step cannot be compiled, `None` if nothing is known to prevent it."""
        is_global = self._replica.processes.options.batch_norm == "global"
        if is_global and any(isinstance(module, _BATCH_NORMS) for module in self._model.module.modules()):
            return 'BatchNorm layers exchange their statistics, unless `DataParallel(batch_norm="local")` is set'
        if self._optimizer.accepts_closure:
            return "the optimizer may evaluate the loss itself, which all processes do together"
        return super().compile_blocker

    # -- optimizers that evaluate the loss themselves ------------------------------------------------------

    def _run_closure(self, batch: Batch) -> Results:
        """Run the step of an optimizer such as LBFGS, whose evaluations are each exchanged."""
        model, state, optimizer, part = self._model, self._state, self._optimizer, as_part(batch)
        build_optimizer(model, state)
        metrics = MetricChanges(model.metrics, from_zero=not self._is_recording_overridden)
        first: list[ForwardResult] = []

        def closure() -> Tensor:
            totals = LossTotals(optimizer, part.rows, part.total)
            with self._replica.rows_of(part):
                result = forward_pass(model, state, part)
                totals.add(self._splitter.split(result))
            if not first:
                first.append(result.detached())
            tensors = totals.tensors()
            sums = self._replica.exchange.sum(tensors, self._dtypes(totals, len(tensors)), device_of(tensors))
            groups, loss = totals.finish(sums)
            set_gradients(optimizer, groups)
            return loss

        optimizer.step(closure=closure)
        results = self._record(first, [list(state.auxiliary.values)], metrics, part)
        self._sum(LossTotals(optimizer, part.rows, part.total), metrics, part)
        return self._values.logs(results)

    # -- steps of the user ---------------------------------------------------------------------------------

    def _wrap_user_step(self, step: StepFn) -> StepFn:
        """Return a step of the user's that updates with the gradients of all processes, and logs what all found."""
        model, replica, state = self._model, self._replica, self._state

        def run(batch: Batch) -> Results:
            part = as_part(batch)
            share = part.rows / part.total
            metrics = MetricChanges(model.metrics, from_zero=False)
            shared = SharedMetrics(replica.exchange, metrics, model, part)
            with (
                replica.rows_of(part, weight=share),
                replica.counting(part),
                shared.installed(),
                shared_gradients(model, replica.exchange, share),
                whole_losses(state.objective, replica.exchange, part, shared.attach),
            ):
                results = self._values.keep(step(part))
            self._sum(LossTotals(self._optimizer, part.rows, part.total), metrics, part)
            return self._values.logs(results)

        return run


class ReplicatedEvaluateStep(EvaluateStep):
    """The step of evaluation of one of several processes.

    Every process evaluates its rows, and the metrics are summed at the end; after each step if somebody reads them
    then, or if the user has overridden the step.

    Args:
        replica: What the steps of this process have in common.
        model: As in `EvaluateStep`, likewise the others.
        state: Its step state.
        keeps_step_logs: Whether the logs of each step must stay as they are.
        no_batch_hooks: Whether nothing runs between the steps.
    """

    def __init__(
        self,
        replica: Replica,
        model: BaseModel,
        state: StepState,
        keeps_step_logs: bool,
        no_batch_hooks: bool = False,
    ) -> None:
        super().__init__(model, state, keeps_step_logs, no_batch_hooks)
        self._replica, self._values, self._no_batch_hooks = replica, StepValues(), no_batch_hooks
        self.max_unrolled_steps = 1
        self._sums_each_step = keeps_step_logs or self.compile_blocker is not None
        self.supports_grouping = self.supports_grouping and not self._sums_each_step
        if keeps_step_logs and self.compile_blocker is None:
            self.compile_blocker = "callbacks read the metrics of all processes after each step"
        self._changes = MetricChanges(model.metrics, from_zero=True)
        self._has_run = False

    @property
    def run(self) -> StepFn:
        """Runs the step eagerly."""
        step = super().run
        if self._sums_each_step:
            return self._snapshot_logs(lambda batch: self._run_and_sum(step, as_part(batch)))
        return lambda batch: self._run_counted(step, as_part(batch))

    def _run_counted(self, step: StepFn, part: BatchPart) -> Results:
        """Run the step, unless the process has no row of the batch; the first time even then, to create metrics."""
        if part.rows:
            self._has_run = True
            with self._replica.counting(part):
                return step(part)  # type: ignore[no-any-return]
        if not self._has_run:
            self._has_run = True
            metrics = MetricChanges(self._model.metrics, from_zero=False)
            step(part)
            metrics.undo(self._model.metrics)
        return LazyLogs(self._model.get_metrics_result)

    def graph_key(self, batches: Sequence[Batch], tensors: Sequence[Tensor]) -> GraphKey | None:
        """Prepare for the step with a batch in a graph, unless none of its rows counts."""
        part = as_part(batches[0])
        self._replica.take(part)
        key = self._replica.key
        return (self.variants(1), *[(*key, *tensor.shape[1:]) for tensor in tensors]) if part.rows else None

    def traceable(self, batch: Batch, *arguments: Tensor) -> list[Tensor]:
        """Run the step on tensors alone."""
        self._replica.own.counts = True
        super().traceable(batch, *arguments)
        self._replica.own.counts = False
        return []

    def renewed(self) -> StepProgram:
        """Return the step with the losses and metrics of now."""
        arguments = self.keeps_step_logs, self._no_batch_hooks
        return ReplicatedEvaluateStep(self._replica, self._model, self._state, *arguments)

    def run_group(self, batches: Sequence[Batch]) -> LazyLogs:
        """Run several small steps phase by phase."""
        counted = [batch for batch in batches if as_part(batch).rows]
        return super().run_group(counted) if counted else LazyLogs(self._model.get_metrics_result)

    def _run_and_sum(self, step: StepFn, part: BatchPart) -> Results:
        """Run the step, and sum up what it changed and returned over the processes."""
        model, exchange = self._model, self._replica.exchange
        metrics = MetricChanges(model.metrics, from_zero=False)
        shared = SharedMetrics(exchange, metrics, model, part)
        objective = self._state.objective
        counting = self._replica.counting(part)
        with counting, shared.installed(), whole_losses(objective, exchange, part, shared.attach):
            results = self._values.keep(step(part))
        changes = metrics.tensors(model.metrics, part.rows > 0, exchange.processes)
        tensors = [*changes, *self._values.tensors(part.rows / part.total)]
        sums = exchange.sum(tensors, torch.float64, device_of(tensors)) if tensors else []
        metrics.finish(sums[: len(changes)])
        self._values.finish(sums[len(changes) :])
        return self._values.logs(results)

    def finish(self) -> None:
        """Sum up the metrics over the processes."""
        if self._sums_each_step:
            return
        changes = self._changes.tensors(self._model.metrics, True, self._replica.processes)
        if changes:
            self._changes.finish(self._replica.exchange.sum(changes, torch.float64, device_of(changes)))


def _warn_if_not_separable(result: ForwardResult) -> None:
    names = [term.output for term in result.losses.terms if not term.is_separable]
    if names:
        warnings.warn(
            f"With several processes: the loss of {', '.join(map(repr, names))} is one number for the rows of each "
            "process, not a sum over samples, so the update is the mean over them, weighted by rows. That is the same "
            "for a mean over samples, and not where samples are compared. Let the loss return one value per sample.",
            stacklevel=2,
        )


def as_part(batch: Batch) -> BatchPart:
    """Return a batch as what the adapters of several processes yield."""
    assert isinstance(batch, BatchPart)
    return batch


def device_of(tensors: Sequence[Tensor]) -> torch.device:
    """Return the device of what is exchanged: numbers of the host go where the rest is."""
    return next((tensor.device for tensor in tensors if tensor.device.type != "cpu"), torch.device("cpu"))
