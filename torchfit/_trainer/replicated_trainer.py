"""The trainer of one of several processes, each of which has the whole model and a part of the rows of every batch."""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from torchfit._data.adapters.dispatch import as_batch
from torchfit._data.batch_source import BatchSource
from torchfit._data.convert import BatchSpec
from torchfit._data.epoch_iterator import EpochIterator
from torchfit._data.pipelines import unpack_validation_data
from torchfit._data.sharding import OwnData, RowsOfProcess, RowsTaken
from torchfit._distribution import processes as distribution
from torchfit._distribution.batch_rows import whole_batches
from torchfit._distribution.process_group import ProcessGroup, do_nothing, local_device
from torchfit._execution.precision import DTypePolicy
from torchfit._trainer.base_model import BaseModel
from torchfit._trainer.gathered_predictions import GatheredPredictions
from torchfit._trainer.logs import LazyLogs
from torchfit._trainer.loops import StopFlags, evaluate_loop
from torchfit._trainer.replicas import AgreedFlags, FinishingCallbacks, Replica, require_equal_replicas, share_model
from torchfit._trainer.replicated_steps import ReplicatedEvaluateStep, ReplicatedTrainStep, as_part
from torchfit._trainer.step_state import CompileOptions
from torchfit._trainer.steps import PredictStep
from torchfit._trainer.trainer import Trainer
from torchfit._trainer.training_state import TrainingState
from torchfit._trainer.user_steps import additive_metrics, weighted_scalars
from torchfit._types import Nested, StepIterator, UserData
from torchfit.callbacks import CallbackList, History
from torchfit.callbacks.callback_list import as_callbacks


class ReplicatedTrainer(Trainer):
    """Trains, evaluates and predicts together with other processes; see `Trainer` for the arguments."""

    def __init__(
        self,
        model: BaseModel,
        input_names: Sequence[str] | None,
        output_names: Sequence[str] | None,
        label_names: Sequence[str] | Mapping[str, str] | None,
        device: str | torch.device | None,
        dtype_policy: DTypePolicy | str | None,
    ) -> None:
        if device in ("auto", None) and torch.cuda.is_available():
            device = local_device()
        require_plain(model.module)
        super().__init__(model, input_names, output_names, label_names, device, dtype_policy)
        self._replica: Replica | None = None
        self._flags: AgreedFlags | None = None

    @property
    def _processes(self) -> ProcessGroup:
        processes: ProcessGroup = distribution.current()
        return processes

    @property
    def _rows(self) -> RowsTaken:
        processes = self._processes
        if not processes.options.auto_shard_dataset:
            return OwnData(processes.rank, processes.counts)
        return RowsOfProcess(processes.rank, processes.size, processes.gather, processes.are_equal)

    @property
    def _own(self) -> Replica:
        if self._replica is None or self._replica.processes is not self._processes:
            self._replica = Replica(self._processes)
        return self._replica

    def __getstate__(self) -> dict[str, object]:
        """Leave out what belongs to this process."""
        return {**self.__dict__, "_replica": None, "_flags": None}

    def compile(self, options: CompileOptions) -> None:
        """Build the objective and choose the execution.

        Raises:
            ValueError: If a name is unknown, or an argument is not one of its values.
        """
        super().compile(options)
        self._own.controls.forget_graphs()

    @contextmanager
    def _whole_batches(self) -> Iterator[None]:
        """Let layers and metrics see whole batches."""
        self.execution.load_compiler()
        with whole_batches(self._own.own, self._processes), weighted_scalars(self._own.own):
            yield

    # -- what differs in `fit` -----------------------------------------------------------------------------

    def fit(self, model: BaseModel, x: UserData, y: UserData, **arguments: Any) -> History:
        """Train `model` and return its `History`; arguments as those of `Model.fit`."""
        with self._processes.guarded():
            self._require_compiled("fit")
            self._share(model)
            self._check_arguments(arguments)
            validation = unpack_validation_data(arguments["validation_data"])
            names = "x", "y", "sample_weight"
            data = dict(zip(names, (x, y, arguments["sample_weight"])))
            self._rows.check({**data, **{f"validation_data, {name}": part for name, part in zip(names, validation)}})
            replica = self._own
            with self._whole_batches(), replica.controls.signals_handled(), additive_metrics(self.state.objective):
                return super().fit(model, x, y, **arguments)

    def _share(self, model: BaseModel) -> None:
        modules = model.module, *self.state.objective.loss_modules(), *self.state.auxiliary.modules
        share_model(self._processes, modules, self.device)

    def _check_arguments(self, arguments: Mapping[str, object]) -> None:
        """Check that numbers such as `batch_size` are the same in all processes.

        Raises:
            ValueError: If one differs, which is named.
        """
        if arguments.get("class_weight") == "balanced" and not self._rows.is_dealt_out:
            raise ValueError(
                '`class_weight="balanced"` counts the labels of this process alone, which with '
                "`auto_shard_dataset=False` are not all. Pass a dictionary of weights."
            )
        numbers = {name: value for name, value in arguments.items() if isinstance(value, (int, float, type(None)))}
        own, *others = self._processes.gather({**numbers, "verbose": None})
        for rank, theirs in enumerate(others, 1):
            for name, value in own.items():
                if theirs.get(name) != value:
                    raise ValueError(
                        f"`{name}` is {value!r} on process 0 and {theirs.get(name)!r} on process {rank}. Every process "
                        "must be called with the same arguments."
                    )

    def _train_step(
        self, model: BaseModel, keeps_logs: bool = False, expected_steps: int | None = None
    ) -> ReplicatedTrainStep:
        arguments = keeps_logs, self._microbatches, expected_steps, self.execution.bind_part
        return ReplicatedTrainStep(self._own, model, self.state, *arguments)

    def _stop_flags(self, model: BaseModel, callbacks: CallbackList) -> StopFlags:
        self._flags = AgreedFlags(self._processes, model, callbacks, self._own.controls)
        return self._flags

    def _start_epoch(self, model: BaseModel, run: TrainingState, epoch: int) -> StepIterator:
        assert self._flags is not None
        return self._flags.track(epoch, super()._start_epoch(model, run, epoch))

    def _make_validate(
        self, model: BaseModel, batches: EpochIterator | None, frequency: int | Container[int], callbacks: CallbackList
    ) -> Callable[[int], dict[str, float]]:
        validate = super()._make_validate(model, batches, frequency, callbacks)

        def end_epoch(epoch: int) -> dict[str, float]:
            for metric in self.metrics(model):
                getattr(metric, "synchronize", do_nothing)()
            require_equal_replicas(self._processes, model.module)
            if self._flags is not None:
                self._flags.is_epoch_over = True
            return validate(epoch)

        return end_epoch

    def _build_callbacks(
        self, model: BaseModel, callbacks: object, verbose: int | str, **arguments: Any
    ) -> CallbackList:
        """Return the callbacks: those that write files or the screen on the primary process alone."""
        if self._processes.rank:
            verbose = 0
            callbacks = [callback for callback in as_callbacks(callbacks) if not getattr(callback, "is_writer", False)]
        built = super()._build_callbacks(model, callbacks, verbose, **arguments)
        built.keeps_batch_logs = self._processes.any(built.keeps_batch_logs)
        return built

    def _batch_spec(self, model: BaseModel, x: UserData = None, *, inputs_only: bool = False) -> BatchSpec:
        return replace(super()._batch_spec(model, x, inputs_only=inputs_only), share=self._rows)

    # -- evaluate and predict ------------------------------------------------------------------------------

    def evaluate(
        self, model: BaseModel, x: UserData, y: UserData, sample_weight: UserData, **arguments: Any
    ) -> dict[str, Any]:
        """Evaluate `model` and return the logs; arguments as those of `Model.evaluate`."""
        with self._processes.guarded():
            self._rows.check({"x": x, "y": y, "sample_weight": sample_weight})
            self._require_compiled("evaluate")
            self._check_arguments(arguments)
            with weighted_scalars(self._own.own), additive_metrics(self.state.objective):
                return super().evaluate(model, x, y, sample_weight, **arguments)

    def _run_evaluation(self, model: BaseModel, batches: BatchSource, callbacks: CallbackList) -> dict[str, float]:
        model.stop_evaluating = False
        with torch.no_grad():
            model.reset_metrics()
            flags = AgreedFlags(self._processes, model, callbacks, self._own.controls)
            no_hooks = self._has_no_batch_hooks(callbacks, "test")
            keeps_logs = callbacks.keeps_batch_logs and flags.hears_test
            step = ReplicatedEvaluateStep(self._own, model, self.state, keeps_logs, no_hooks)
            steps, run_step = self.execution.single_pass(step, batches)
            finishing: Any = FinishingCallbacks(callbacks, lambda: self._finish_evaluation(model, step))
            return dict(evaluate_loop(steps, run_step, finishing, flags))

    def _finish_evaluation(self, model: BaseModel, step: ReplicatedEvaluateStep) -> None:
        step.finish()
        for metric in self.metrics(model):
            getattr(metric, "synchronize", do_nothing)()

    def predict(self, model: BaseModel, x: UserData, **arguments: Any) -> Nested:
        """Predict with `model`; arguments as those of `Model.predict`."""
        with self._processes.guarded():
            self._rows.check({"x": x})
            return super().predict(model, x, **arguments)

    def _make_predictions(self, samples: int | None, out: Nested, pad_value: float | None) -> GatheredPredictions:
        return GatheredPredictions(self._processes, self._rows, out, pad_value)

    def _predict_flags(self, model: BaseModel, callbacks: CallbackList) -> StopFlags:
        return AgreedFlags(self._processes, model, callbacks, self._own.controls)

    def _iter_predictions(self, model: BaseModel, batches: BatchSource) -> Iterator[Nested]:
        processes, rows = self._processes, self._rows
        for batch in batches.epoch(0):
            predictions = GatheredPredictions(processes, rows, None, None)
            with processes.guarded():
                # All processes run: layers in training mode, of which statistics are updated, see the whole batch.
                context = self._contexts.without_metrics("predict_iter", model, self.execution)
                with self._own.rows_of(as_part(batch)), context:
                    step = PredictStep(model, self.state, False)
                    predictions.append(predictions.collect(step.run)(batch))
                whole = predictions.result()
            yield whole

    # -- single batches ------------------------------------------------------------------------------------

    def train_on_batch(
        self, model: BaseModel, data: tuple[UserData, UserData, UserData, object], reset_metrics: bool
    ) -> dict[str, Any]:
        """Make one gradient update with `(x, y, sample_weight, class_weight)`, and return the logs."""
        with self._processes.guarded():
            self._require_compiled("train_on_batch")
            if not model.optimizer.built:
                self._share(model)
            x, y, sample_weight, class_weight = data
            batch = self._rows.take(as_batch(x, y, sample_weight, self._batch_spec(model, x), class_weight))
            with (
                self._whole_batches(),
                self._contexts.with_metrics("train_on_batch", model, self.execution, training=True) as structure,
            ):
                self.sync_optimizer(model, structure)
                self._reset_metrics(model, reset_metrics)
                return dict(LazyLogs.wrap(self._train_step(model).run(batch)))


def require_plain(module: nn.Module) -> None:
    """Check that nobody else exchanges gradients.

    Raises:
        ValueError: If the module is wrapped for data-parallel training.
    """
    for part in module.modules():
        if isinstance(part, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            kind = type(part).__name__
            raise ValueError(
                f"The module is wrapped in {kind}, which exchanges gradients as well. Pass the module itself: "
                f"Model(wrapped.module). Under `torchrun` torchfit trains on all processes by itself."
            )
