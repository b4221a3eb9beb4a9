"""`Trainer`, to which a model delegates `fit`, `evaluate` and `predict`; it holds torchfit's state of the model."""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from torchfit._data import pipelines
from torchfit._data.adapters.dispatch import as_batch, is_array_like
from torchfit._data.batch_converter import is_plain_array
from torchfit._data.batch_source import BatchSource
from torchfit._data.convert import BatchSpec, TransferTimer, as_label_names
from torchfit._data.epoch_iterator import EpochIterator
from torchfit._data.workers import LoaderConfig
from torchfit._execution.eager import EagerExecution
from torchfit._execution.precision import (
    DTypePolicy,
    choose_precision,
    move_module,
    require_values,
    resolve_device,
)
from torchfit._trainer.base_model import BaseModel, overridden_method
from torchfit._trainer.hints import ErrorTranslator
from torchfit._trainer.logs import LazyLogs
from torchfit._trainer.loop_contexts import LoopContexts, ModelStructure, SeenModel
from torchfit._trainer.loops import EpochTimer, StopFlags, evaluate_loop, predict_loop, train_loop
from torchfit._trainer.microbatches import MicrobatchSplitter
from torchfit._trainer.model_lock import ModelLock
from torchfit._trainer.module_call import ModuleCaller
from torchfit._trainer.nan_watch import NaNWatch
from torchfit._trainer.objective import Objective
from torchfit._trainer.predictions import CollectsOutputs, Predictions, to_numpy
from torchfit._trainer.preflight import infer_log_names_of_model, preflight
from torchfit._trainer.step_state import AuxiliaryTerms, CompileOptions, StepState
from torchfit._trainer.steps import EvaluateStep, PredictStep, with_sync
from torchfit._trainer.train_step import TrainStep
from torchfit._trainer.training_state import NullState, TrainingState, training_components
from torchfit._types import Nested, StepFn, StepIterator, UserData
from torchfit._utils import validation
from torchfit._utils.modules import floating_dtype_of
from torchfit._utils.tree import Batch
from torchfit.callbacks import CallbackList, History
from torchfit.callbacks.base import HOOKS
from torchfit.callbacks.progress import resolve_verbose
from torchfit.metrics.base import Metric
from torchfit.optimizers.identifiers import AnyOptimizer, resolve_optimizer, with_loss_scaling

_HOOKS_WITHOUT_GRADIENTS = [hook for hook in HOOKS if "test" in hook or "predict" in hook]
"""The hooks that are called where gradients are disabled."""


class Trainer:
    """Trains, evaluates and predicts with a model, which is passed to every method and not referenced.

    Args:
        model: The model; no reference to it is kept.
        input_names: The names of the inputs, as the user gave them.
        output_names: The names of the outputs, as the user gave them.
        label_names: The keys of targets in data that are a single dictionary, as the user gave them.
        device: "auto" or a device.
        dtype_policy: The dtype policy, or its name; `None` for the global one.

    Attributes:
        state: The state that steps need besides the model: objective, auxiliary terms, and the caller of the module.
        device: The device of the model.
        precision: The dtype in which the module computes.
        lock: The lock that controls which threads may use the model.
        compile_options: The arguments of `compile`, or `None` before it was called.
    """

    def __init__(
        self,
        model: BaseModel,
        input_names: Sequence[str] | None,
        output_names: Sequence[str] | None,
        label_names: Sequence[str] | Mapping[str, str] | None,
        device: str | torch.device | None,
        dtype_policy: DTypePolicy | str | None,
    ) -> None:
        self.input_names = input_names = validation.names("input_names", input_names)
        self.output_names, self.label_names = validation.names("output_names", output_names), label_names
        self._label_names = as_label_names(label_names)
        self.device = resolve_device(device, model.module)
        self.precision = choose_precision(dtype_policy, self.device)
        move_module(model.module, self.device)
        self.precision.convert_module(model.module)
        call = ModuleCaller(input_names, list(self._label_names.values()))
        self.state = StepState(call, AuxiliaryTerms(), type(model).compute_loss, self.device)
        self.state.call.set_wrapper(self.precision.wrap_forward)
        self.compile_options: CompileOptions | None = None
        self.execution = EagerExecution()
        self._microbatches: MicrobatchSplitter | None = None
        self.lock = ModelLock()
        self._seen = SeenModel()
        self._contexts = LoopContexts(self.lock, self.state, self._seen)

    def compile(self, options: CompileOptions) -> None:
        """Build the objective and choose the execution.

        Raises:
            ValueError: If a name is unknown, or an argument is invalid.
        """
        self.state.objective = Objective(
            options.loss, options.loss_weights, options.metrics, options.weighted_metrics, self.output_names
        )
        for module in self.state.objective.loss_modules():
            module.to(self.device)
        self.state.call.set_wrapper(self.precision.wrap_forward)
        self._microbatches = None if options.microbatch is None else MicrobatchSplitter(options.microbatch)
        self.execution = options.choose_execution()
        self.compile_options = options

    def as_optimizer(self, identifier: object, current: "AnyOptimizer | None") -> AnyOptimizer:
        """Return an optimizer for everything that `compile` takes as one, which scales the loss if that was compiled.

        Raises:
            ValueError: If it stands for no optimizer.
        """
        found, options = resolve_optimizer(identifier, current), self.compile_options
        scales_loss = self.precision.scales_loss and options is not None and options.auto_scale_loss
        return with_loss_scaling(found) if scales_loss else found

    def invalidate_compiled_steps(self) -> None:
        """Invalidate compiled steps, which do not contain a term that was added."""
        options = self.compile_options
        if options is not None:
            self.execution = options.choose_execution()

    def register_hook(self, on: str, add: Callable[[Nested], None]) -> None:
        """Call `add` with the output of the submodule `on` whenever the model runs."""
        self.state.auxiliary.register_hook(on, add)
        self.invalidate_compiled_steps()

    # -- fit -----------------------------------------------------------------------------------------------

    def fit(
        self,
        model: BaseModel,
        x: UserData,
        y: UserData,
        *,
        batch_size: int | None,
        epochs: int,
        verbose: int | str,
        callbacks: object,
        validation_split: float,
        validation_data: UserData,
        shuffle: bool | str,
        class_weight: object,
        sample_weight: UserData,
        initial_epoch: int,
        steps_per_epoch: int | None,
        validation_steps: int | None,
        validation_batch_size: int | None,
        validation_freq: int | Container[int],
        loading: LoaderConfig,
    ) -> History:
        """Train `model` and return its `History`; the arguments are those of `Model.fit`."""
        self._require_compiled("fit")
        validation.batch_size(batch_size)
        epochs = validation.integer("epochs", epochs, min_value=0)
        batch_spec = replace(self._batch_spec(model, x), transfer_timer=TransferTimer())
        adapter, held_out = pipelines.make_training_adapters(
            x, y, sample_weight, class_weight, validation_split, validation_data, batch_spec
        )
        validation_batches = pipelines.make_validation_batches(
            held_out, batch_size, validation_batch_size, validation_steps, loading
        )
        batches = pipelines.make_training_batches(adapter, batch_size, shuffle, steps_per_epoch, epochs, loading)
        batches.on_exhausted = lambda: setattr(model, "stop_training", True)
        indices = range(validation.integer("initial_epoch", initial_epoch, min_value=0), epochs)
        params = {"epochs": epochs, "steps": batches.steps, "samples": batches.samples}
        callback_list = self._build_callbacks(model, callbacks, verbose, add_history=True, **params)
        self._set_log_names(model, callback_list, batches, validation_batches)
        model.history = history = next(each for each in callback_list.callbacks if isinstance(each, History))
        timer = self._make_timer(batch_spec, callback_list, history)
        validate = self._make_validate(model, validation_batches, validation_freq, callback_list)
        run = self._make_training_state(model, batches, indices, callback_list, validation_batches)
        watch = NaNWatch(batches, getattr(x, "columns", None))
        watch.listen(callback_list, validation_batches, epochs)
        model.stop_training = False
        if model.optimizer.built and model.optimizer.gradient_accumulation_steps is not None:
            model.optimizer.clear_accumulated()  # An interrupted `fit` may have left some.
        with self._contexts.with_metrics("fit", model, self.execution, callback_list, is_loop=True, training=True):
            train_loop(
                timer.epochs(run.epochs()),
                lambda epoch: timer.time_iterator(watch.examine(self._start_epoch(model, run, epoch))),
                self._bind_train_step(model, callback_list, batches, len(indices), run),
                callback_list,
                self._stop_flags(model, callback_list),
                run.start_epoch,
                timer.timed("validation", validate),
                lambda: _finalize_weights(model.optimizer),
            )
        timer.close()
        return history

    def _start_epoch(self, model: BaseModel, run: TrainingState, epoch: int) -> StepIterator:
        """Return the steps of an epoch, after updating the optimizer for parameters that callbacks froze or added."""
        self.sync_optimizer(model)
        return run.iter_steps(epoch)

    def sync_optimizer(self, model: BaseModel, structure: ModelStructure | None = None) -> None:
        """Make the optimizer train the currently trainable parameters; `structure` is that of the model, if known."""
        if self._seen.sync_optimizer(model, self.state, structure):
            self.execution.invalidate()

    def _bind_train_step(
        self, model: BaseModel, callbacks: CallbackList, batches: EpochIterator, epochs: int, run: TrainingState
    ) -> StepFn:
        parameters = [parameter for _, parameter in self.state.named_parameters(model)]
        if model.preflight:
            preflight(model.module, self.state, batches, parameters)
        expected_steps = batches.steps and batches.steps * epochs
        step = self._train_step(model, callbacks.keeps_batch_logs, expected_steps)
        run_step = self.execution.bind(step, batches)
        if callbacks.keeps_batch_logs:  # User-defined hooks, which may do anything.
            run_step = with_sync(run_step, parameters, lambda: self.sync_optimizer(model))
        run.warmup_step = run_step if self.execution.first_step_is_eager else None
        return run_step

    def _train_step(self, model: BaseModel, keeps_logs: bool = False, expected_steps: int | None = None) -> TrainStep:
        return TrainStep(model, self.state, keeps_logs, self._microbatches, expected_steps)

    def _stop_flags(self, model: BaseModel, callbacks: CallbackList) -> StopFlags:
        """Return the flags that ask a loop to stop."""
        return model

    def _make_timer(self, batch_spec: BatchSpec, callbacks: CallbackList, history: History) -> EpochTimer:
        timer = EpochTimer(
            self.device,
            lambda: (self.execution.compile_seconds, self.execution.background_compile_seconds),
            lambda: batch_spec.transfer_timer.seconds,
            verbose=callbacks.params["verbose"] == 2,
        )
        timer.time_callbacks(callbacks)
        history.timing = timer.timing
        return timer

    def _make_validate(
        self, model: BaseModel, batches: EpochIterator | None, frequency: int | Container[int], callbacks: CallbackList
    ) -> Callable[[int], dict[str, float]]:
        """Return a function that ends an epoch: it applies leftover accumulated gradients, and validates if due."""
        is_due = pipelines.validation_schedule(frequency)

        def validate(epoch: int) -> dict[str, float]:
            if model.optimizer.built:
                model.optimizer.flush()
            if batches is None or not is_due(epoch + 1):
                return {}
            self.state.data_name = "validation_data"
            try:
                translated = ErrorTranslator(model.module, "validation_data", has_gradients=False)
                with translated, self._contexts.mode(model, training=False), self._contexts.metrics_isolated(model):
                    logs = self._run_evaluation(model, batches, callbacks)
            finally:
                self.state.data_name = "x"
            return {f"val_{name}": value for name, value in logs.items()}

        return validate

    def _make_training_state(
        self,
        model: BaseModel,
        batches: EpochIterator,
        epochs: range,
        callbacks: CallbackList,
        validation: EpochIterator | None,
    ) -> TrainingState:
        data = NullState() if validation is None else validation
        parts = model, self.state, callbacks.callbacks, data, self.execution, self.device
        components = partial(training_components, *parts)
        run = TrainingState(batches, self.execution.iter_steps, epochs, model, model.reset_metrics, components)
        callbacks.set_training_state(run)
        return run

    # -- evaluate and predict ------------------------------------------------------------------------------

    def evaluate(
        self,
        model: BaseModel,
        x: UserData,
        y: UserData,
        sample_weight: UserData,
        *,
        batch_size: int | None,
        verbose: int | str,
        steps: int | None,
        callbacks: object,
        loading: LoaderConfig,
    ) -> dict[str, Any]:
        """Evaluate `model` and return the logs; the arguments are those of `Model.evaluate`."""
        self._require_compiled("evaluate")
        data = x, y, sample_weight, self._batch_spec(model, x)
        batches = pipelines.make_evaluation_batches(*data, batch_size, steps, loading)
        callback_list = self._build_callbacks(model, callbacks, verbose, steps=batches.steps, samples=batches.samples)
        with self._contexts.with_metrics("evaluate", model, self.execution, callback_list, is_loop=True):
            logs = self._run_evaluation(model, batches, callback_list)
        NaNWatch(batches, getattr(x, "columns", None)).check(logs, "in the evaluation", 0)
        return logs

    def _run_evaluation(self, model: BaseModel, batches: BatchSource, callbacks: CallbackList) -> dict[str, float]:
        if model.stop_evaluating:
            model.stop_evaluating = False
        with torch.no_grad():
            model.reset_metrics()
            no_hooks = self._has_no_batch_hooks(callbacks, "test")
            step = EvaluateStep(model, self.state, callbacks.keeps_batch_logs, no_hooks)
            steps, run_step = self.execution.single_pass(step, batches)
            return LazyLogs.wrap(evaluate_loop(steps, run_step, callbacks, model)).to_dict()

    def predict(
        self,
        model: BaseModel,
        x: UserData,
        *,
        batch_size: int | None,
        verbose: int | str,
        steps: int | None,
        callbacks: object,
        loading: LoaderConfig,
        out: Nested,
        pad_value: float | None,
    ) -> Nested:
        """Predict with `model`; the arguments are those of `Model.predict`."""
        batches = self._prediction_batches(model, x, batch_size, steps, loading)
        predictions = self._make_predictions(batches.samples, out, pad_value)
        callback_list = self._build_callbacks(model, callbacks, verbose, steps=batches.steps, samples=batches.samples)
        with self._contexts.without_metrics("predict", model, self.execution, callback_list, bool(callbacks)):
            if model.stop_predicting:
                model.stop_predicting = False
            no_hooks = self._has_no_batch_hooks(callback_list, "predict")
            hooks = "on_predict_batch_begin", "on_predict_batch_end"
            keeps_outputs = any(map(callback_list.has_listeners, hooks))
            step = PredictStep(model, self.state, keeps_outputs, no_hooks, pad_value)
            iterator, run_step = self.execution.single_pass(step, batches)
            flags = self._predict_flags(model, callback_list)
            predict_loop(iterator, predictions.collect(run_step), callback_list, flags, predictions.append)
        return predictions.result()

    def _make_predictions(self, samples: int | None, out: Nested, pad_value: float | None) -> CollectsOutputs:
        return Predictions(samples, out, pad_value)

    def _predict_flags(self, model: BaseModel, callbacks: CallbackList) -> StopFlags:
        """Return the flags that ask a prediction to stop."""
        return model

    def predict_iter(
        self, model: BaseModel, x: UserData, batch_size: int | None, steps: int | None, loading: LoaderConfig
    ) -> Iterator[Nested]:
        """Return an iterator over the outputs of each batch; the arguments are those of `Model.predict_iter`."""
        batches = self._prediction_batches(model, x, batch_size, steps, loading)
        return self._iter_predictions(model, batches)

    def _iter_predictions(self, model: BaseModel, batches: BatchSource) -> Iterator[Nested]:
        for batch in batches.epoch(0):
            yield self._predict_batch(model, batch, "predict_iter")

    def _prediction_batches(
        self, model: BaseModel, x: UserData, batch_size: int | None, steps: int | None, loading: LoaderConfig
    ) -> BatchSource:
        data = x, None, None, self._batch_spec(model, x, inputs_only=True)
        return pipelines.make_evaluation_batches(*data, batch_size, steps, loading)

    # -- single batches ------------------------------------------------------------------------------------

    def train_on_batch(
        self, model: BaseModel, data: tuple[UserData, UserData, UserData, object], reset_metrics: bool
    ) -> dict[str, Any]:
        """Make one gradient update with `(x, y, sample_weight, class_weight)`, and return the logs."""
        self._require_compiled("train_on_batch")
        x, y, sample_weight, class_weight = data
        batch = as_batch(x, y, sample_weight, self._batch_spec(model, x), class_weight)
        with self._contexts.with_metrics("train_on_batch", model, self.execution, training=True) as structure:
            self.sync_optimizer(model, structure)
            self._reset_metrics(model, reset_metrics)
            return LazyLogs.wrap(self._train_step(model).run(batch)).to_dict()

    def test_on_batch(
        self, model: BaseModel, data: tuple[UserData, UserData, UserData], reset_metrics: bool
    ) -> dict[str, Any]:
        """Evaluate `(x, y, sample_weight)`, and return the logs."""
        self._require_compiled("test_on_batch")
        with torch.no_grad():
            batch = as_batch(*data, self._batch_spec(model, data[0]))
            with self._contexts.with_metrics("test_on_batch", model, self.execution):
                self._reset_metrics(model, reset_metrics)
                return LazyLogs.wrap(EvaluateStep(model, self.state, False).run(batch)).to_dict()

    def predict_on_batch(self, model: BaseModel, x: UserData) -> Nested:
        """Return the outputs for one batch as NumPy arrays."""
        batch = as_batch(x, None, None, self._batch_spec(model, x, inputs_only=True))
        return self._predict_batch(model, batch, "predict_on_batch")

    def _predict_batch(self, model: BaseModel, batch: Batch, method: str) -> Nested:
        with self._contexts.without_metrics(method, model, self.execution):
            return to_numpy(PredictStep(model, self.state, False).run(batch))

    @staticmethod
    def _reset_metrics(model: BaseModel, reset_metrics: bool) -> None:
        if validation.boolean("reset_metrics", reset_metrics):
            model.reset_metrics()

    # -- metrics -------------------------------------------------------------------------------------------

    def metrics(self, model: BaseModel) -> list[Metric]:
        """Return all metrics: the mean of the loss, those of `compile`, those in attributes, and added ones."""
        in_attributes = self._contexts.attribute_metrics
        if in_attributes is None:
            in_attributes = self._seen.structure(model, self.state).attribute_metrics
        return [*self.state.objective.metrics, *in_attributes, *self.state.auxiliary.metrics.values()]

    def reported_metrics(self, model: BaseModel) -> list[Metric]:
        """Return the metrics, except those whose outputs, targets or values were missing in the last loop."""
        objective, auxiliary = self.state.objective, self.state.auxiliary
        unreported = {id(metric) for metric in (*objective.unreported_metrics, *auxiliary.unreported_metrics)}
        return [metric for metric in model.metrics if id(metric) not in unreported] if unreported else model.metrics

    def _set_log_names(
        self, model: BaseModel, callbacks: CallbackList, batches: EpochIterator, validation: EpochIterator | None
    ) -> None:
        """Pass the names of the future log entries to callbacks that monitor one, if they can be inferred."""
        is_custom = overridden_method(model, "train_step", "test_step", "compute_metrics") is not None
        if is_custom or not callbacks.needs_log_names:
            return
        names = infer_log_names_of_model(model, self.state, batches.peek())
        if names is not None:
            validated = [] if validation is None else [f"val_{name}" for name in names]
            callbacks.set_log_names([*names, *validated])

    def _has_no_batch_hooks(self, callbacks: CallbackList, mode: str) -> bool:
        """Return whether no batch hooks run between the steps, on a CPU."""
        hooks = f"on_{mode}_batch_begin", f"on_{mode}_batch_end"
        return self.device.type == "cpu" and not any(map(callbacks.has_listeners, hooks))

    def _require_compiled(self, method: str) -> None:
        if self.compile_options is None:
            raise RuntimeError(f"Call `compile(optimizer, loss, metrics)` before `{method}`.")

    def _batch_spec(self, model: BaseModel, x: UserData = None, *, inputs_only: bool = False) -> BatchSpec:
        """Return the specification of batches of `x`; the columns of a DataFrame may be the parameters of `forward`.

        Labels stay among the inputs for modules that need them, or that compute their own loss with them.
        """
        require_values(self.device)
        objective, parameters, kept_labels = self.state.objective, set(), []
        if self._label_names or (self.input_names is None and hasattr(x, "columns")):
            signature = self.state.call.signature(model.module)
            has_own_loss = not inputs_only and not objective.has_losses
            kept_labels = [key for key in self._label_names.values() if signature.takes(key, if_optional=has_own_loss)]
            parameters = set() if self.input_names else signature.required_names
        names = self.input_names, self.output_names, inputs_only, parameters
        labels = self._label_names, kept_labels, objective.index_targets
        arguments = self.device, floating_dtype_of(model.module), *names, *labels
        spec = self._seen.batch_spec(*arguments) if is_plain_array(x) else BatchSpec(*arguments)
        loop = self.state.call.loop
        loop.checks_batch_axis, loop.sample_lists = is_array_like(x), spec.sample_lists
        return spec

    def _build_callbacks(
        self, model: BaseModel, callbacks: object, verbose: int | str, *, add_history: bool = False, **params: Any
    ) -> CallbackList:
        """Return the user's callbacks, with a progress bar and, for `fit`, the history."""
        verbose = resolve_verbose(verbose)
        built = CallbackList(callbacks, add_history, verbose > 0, model, verbose=verbose, **params)
        if torch.is_grad_enabled():  # Also where steps need no gradients, hooks may train another model.
            built.wrap_hooks(_HOOKS_WITHOUT_GRADIENTS, torch.enable_grad())
        return built


def _finalize_weights(optimizer: AnyOptimizer) -> None:
    """Replace the weights by their averages, if the optimizer keeps averages."""
    if optimizer.built:
        optimizer.finalize_variable_values()
