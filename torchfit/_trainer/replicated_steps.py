"""The steps of one of several processes, each of which has a part of the rows of every batch."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from torchfit._data.sharding import BatchPart
from torchfit._distribution.batch_rows import OwnRows
from torchfit._distribution.process_group import ProcessGroup
from torchfit._execution.step_program import run_each
from torchfit._trainer.base_model import BaseModel, overridden_method
from torchfit._trainer.exchange import Exchange, LossTotals, MetricChanges
from torchfit._trainer.logs import LazyLogs
from torchfit._trainer.microbatches import MicrobatchSplitter, PartialGradients, release_cached_memory
from torchfit._trainer.replicas import Controls
from torchfit._trainer.step_state import StepState
from torchfit._trainer.steps import EvaluateStep, ForwardResult, build_optimizer, forward_pass
from torchfit._trainer.train_step import TrainStep
from torchfit._trainer.user_steps import SharedMetrics, StepValues, shared_gradients, weighted_scalars, whole_losses
from torchfit._types import Results, StepFn
from torchfit._utils.tree import Batch


class Replica:
    """What the steps of one of several processes have in common.

    Args:
        processes: The processes.

    Attributes:
        exchange: Adds up what the processes have.
        own: Which rows this process has in the batch of the moment, as layers and dropout ask for it.
        controls: What the processes tell each other with every step.
    """

    def __init__(self, processes: ProcessGroup) -> None:
        self.processes, self.exchange = processes, Exchange(processes)
        self.own, self.controls = OwnRows(), Controls()

    @contextmanager
    def rows_of(self, part: BatchPart, is_whole: bool = True, weight: float = 1.0) -> Iterator[None]:
        """Set the rows of this process while the module is called with them."""
        own = self.own
        own.first, own.rows, own.total, own.weight, own.is_whole = part.first, part.rows, part.total, weight, is_whole
        try:
            yield
        finally:
            own.is_whole = False


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
    """

    def __init__(
        self,
        replica: Replica,
        model: BaseModel,
        state: StepState,
        keeps_step_logs: bool,
        microbatches: MicrobatchSplitter | None = None,
        expected_steps: int | None = None,
    ) -> None:
        super().__init__(model, state, keeps_step_logs, microbatches, expected_steps)
        self._replica = replica
        self._values = StepValues()
        self._is_recording_overridden = overridden_method(model, "compute_metrics") is not None

    @property
    def run(self) -> StepFn:
        """Runs the step eagerly."""
        if self._microbatches is not None and self._optimizer.needs_closure:
            return super().run  # Which raises the error.
        if overridden_method(self._model, "train_step") is None:
            return self._snapshot_logs(self._run_closure if self._optimizer.accepts_closure else self._run_replicated)
        if self._microbatches is not None:
            return super().run  # Which raises the error.
        return self._snapshot_logs(self._wrap_user_step(self._prepare_user_step(self._model.train_step)))

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
        self._update(totals, self._sum(totals, metrics, part))
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
                values += state.auxiliary.values
        if not self._is_checked:
            self._is_checked = True
            _warn_if_not_separable(results[0])
        return self._record(results, values, metrics, batch)

    def _record(
        self, results: list[ForwardResult], values: list[Any], metrics: MetricChanges, part: BatchPart
    ) -> Results:
        with weighted_scalars(part):
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
        sums = replica.exchange.sum(tensors, totals.dtype, device_of(tensors))
        metrics.finish(sums[len(gradients) : len(gradients) + len(changes)])
        self._values.finish(sums[len(gradients) + len(changes) : -1])
        replica.controls.finish(sums[-1], part.total)
        return sums[: len(gradients)]

    def _update(self, totals: LossTotals, sums: list[Tensor]) -> None:
        """Make the update with the gradients of the whole batch, or accumulate them for a later one."""
        if not sums:
            return
        optimizer = self._optimizer
        groups, _ = totals.finish(sums)
        if not self._accumulates:
            _set_gradients(optimizer, groups)
            optimizer.step()
            return
        for group, (gradients, denominator) in groups.items():
            optimizer.accumulate(gradients, denominator, group)
        optimizer.end_accumulation_step()

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
            sums = self._replica.exchange.sum(tensors, totals.dtype, device_of(tensors))
            groups, loss = totals.finish(sums)
            _set_gradients(optimizer, groups)
            return loss

        optimizer.step(closure=closure)
        results = self._record(first, list(state.auxiliary.values), metrics, part)
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
                weighted_scalars(part),
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
        self._replica, self._values = replica, StepValues()
        self._sums_each_step = keeps_step_logs or self.compile_blocker is not None
        self.supports_grouping = self.supports_grouping and not self._sums_each_step
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
            with weighted_scalars(part):
                return step(part)  # type: ignore[no-any-return]
        if not self._has_run:
            self._has_run = True
            metrics = MetricChanges(self._model.metrics, from_zero=False)
            step(part)
            metrics.undo(self._model.metrics)
        return LazyLogs(self._model.get_metrics_result)

    def run_group(self, batches: Sequence[Batch]) -> LazyLogs:
        """Run several small steps phase by phase."""
        if self._state.auxiliary.metrics:  # Whose values count by the rows of their batch.
            return run_each(self, self.run, batches)  # type: ignore[no-any-return]
        counted = [batch for batch in batches if as_part(batch).rows]
        return super().run_group(counted) if counted else LazyLogs(self._model.get_metrics_result)

    def _run_and_sum(self, step: StepFn, part: BatchPart) -> Results:
        """Run the step, and sum up what it changed and returned over the processes."""
        model, exchange = self._model, self._replica.exchange
        metrics = MetricChanges(model.metrics, from_zero=False)
        shared = SharedMetrics(exchange, metrics, model, part)
        objective = self._state.objective
        with weighted_scalars(part), shared.installed(), whole_losses(objective, exchange, part, shared.attach):
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


def _set_gradients(optimizer: Any, groups: Mapping[int, tuple[list[Tensor | None], Any]]) -> None:
    optimizer.zero_grad()
    for gradients, _ in groups.values():
        for parameter, gradient in zip(optimizer.parameters, gradients):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


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
