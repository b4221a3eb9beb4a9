"""`Model`: Keras' training interface around any `torch.nn.Module`."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from torchfit import optimizers as optimizer_family
from torchfit._data.arguments import Loading, check_integer
from torchfit._data.convert import Conversion
from torchfit._data.source import as_batch, as_source
from torchfit._data.training import Paced, training_batches, training_sources, whole_pass
from torchfit._data.validation import due_epochs, validation_batches
from torchfit._execution.compiled import choose_execution
from torchfit._execution.device import resolve_device
from torchfit._execution.execution import Eager
from torchfit._execution.precision import choose_precision
from torchfit._families import FAMILY, aggregate
from torchfit._trainer.auxiliary import Added
from torchfit._trainer.course import Course
from torchfit._trainer.error_context import explained
from torchfit._trainer.logs import Logs
from torchfit._trainer.loops import evaluate_loop, predict_loop, train_loop
from torchfit._trainer.microbatches import Microbatches
from torchfit._trainer.objective import Objective, Uncompiled
from torchfit._trainer.predictions import Predictions, report, to_numpy
from torchfit._trainer.preflight import preflight
from torchfit._trainer.steps import Steps
from torchfit._trainer.timing import Stopwatch
from torchfit._utils.batch import Batch
from torchfit._utils.modules import floating_dtype_of, training_mode
from torchfit.callbacks import CallbackList, History
from torchfit.callbacks.callback_list import NO_CALLBACKS
from torchfit.callbacks.progress import resolve_verbose
from torchfit.saving.model_files import loads_as
from torchfit.saving.saveable import Saveable
from torchfit.saving.training_state import training_parts

Step = Callable[[Any], Any]


@loads_as
class Model(Saveable, Steps):
    """Gives `compile`, `fit`, `evaluate` and `predict` to a PyTorch module.

    Wrap a module that you have, or subclass and define `forward`. The module stays what it was: its parameters
    are trained in place, and what is saved is its own `state_dict`.

    Args:
        module: Any `torch.nn.Module`. Leave it out when you subclass.
        input_names: Names of the inputs, for dictionaries; by default the parameters of `module.forward`.
        output_names: Names of the outputs of a module that returns a tuple or list; by default `output_1`, ….
        device: "auto" (the accelerator that the module is on or that the machine has, else the CPU) or a device.
        dtype_policy: "mixed_bfloat16", "mixed_float16", "float32", … (see `mixed_precision`); by default the global
            policy, or else the module's own dtype.
        name: The name of the model; by default its class name in snake case.

    Raises:
        TypeError: If `module` is not a module.
        ValueError: If torch knows no such device, or there is no such policy.

    `fit` looks at the module and its first batch for usual mistakes; `model.preflight = False` leaves it alone.
    `compile` is Keras', not `nn.Module.compile`; for torch's, wrap a compiled module: `Model(torch.compile(net))`.

    >>> import numpy as np
    >>> model = Model(nn.Linear(4, 1))
    >>> model.compile("sgd", "mse")
    >>> history = model.fit(np.zeros((8, 4)), np.ones((8, 1)), epochs=2, verbose=0)
    >>> model.predict(np.zeros((3, 4))).shape
    (3, 1)
    """

    preflight: bool = True
    stop_training: bool = False
    stop_evaluating: bool = False
    stop_predicting: bool = False

    def __init__(
        self,
        module: nn.Module | None = None,
        *,
        input_names: Sequence[str] | None = None,
        output_names: Sequence[str] | None = None,
        device: str | torch.device | None = "auto",
        dtype_policy: Any = None,
        name: str | None = None,
    ) -> None:
        super().__init__(module, input_names, output_names, name)
        self._device = resolve_device(device, self.module)
        self._precision = choose_precision(dtype_policy, self._device)
        self._precision.prepare(self.module.to(self._device))
        self.dtype_policy = self._precision.policy
        self.prepare_calls(self._precision.wrap)
        self.optimizer: Any = None
        self.loss: Any = None
        self._compile_arguments: dict[str, Any] | None = None
        self.history: History | None = None
        self._objective: Objective | Uncompiled = Uncompiled()
        self._execution: Eager = Eager()
        self._is_fitting = False
        self._added = Added(aggregate)

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        metrics: Any = None,
        loss_weights: Any = None,
        weighted_metrics: Any = None,
        run_eagerly: bool | None = None,
        steps_per_execution: int | None = None,
        *,
        jit_compile: bool | str | None = None,
        auto_scale_loss: bool = True,
        microbatch: int | str | None = None,
    ) -> None:
        """Choose the optimizer, the losses and the metrics, and how training runs.

        Args:
            optimizer: A name, a torchfit optimizer, a `torch.optim` instance over the module's parameters or its
                class, or a callable from parameters to a `torch.optim.Optimizer`.
            loss: A name, a `Loss`, a `torch.nn` or `torch.nn.functional` loss, or any function
                `(y_true, y_pred)`; a list or dictionary of these for several outputs, `None` for no loss.
            metrics: A list of names, `Metric`s, functions or torchmetrics metrics; nested for several outputs.
            loss_weights: A list or dictionary of numbers by which the losses of the outputs are multiplied.
            weighted_metrics: Metrics that see sample and class weights.
            run_eagerly: `True` keeps every step ordinary Python.
            steps_per_execution: How many batches run between two calls of the batch callbacks; 1 by default.
            jit_compile: `True` runs each step (forward, losses, gradients, update, metrics) as one compiled graph;
                what cannot be a graph runs as ordinary Python, with a line that says why. "auto" begins as ordinary
                Python and goes over to a graph once the steps to come are worth the compilation.
            auto_scale_loss: Whether "mixed_float16" wraps the optimizer in a `LossScaleOptimizer`.
            microbatch: How many rows of a training batch go through the module at once, with the gradients and updates
                of the whole batch; "auto" finds it out when memory runs out. Batch statistics (BatchNorm) are those of
                the parts.

        Raises:
            ValueError: If a name is unknown, with the nearest known ones, or an argument is not what it must be.
        """
        self.optimizer = optimizer_family.as_optimizer(optimizer)
        if auto_scale_loss and self._precision.scales_loss:
            self.optimizer = optimizer_family.scaled(self.optimizer)
        self._objective = Objective(FAMILY, loss, loss_weights, metrics, weighted_metrics, self._given_names[1])
        self.prepare_calls(self._precision.wrap)
        self._microbatches = None if microbatch is None else Microbatches(microbatch)
        self._execution = choose_execution(run_eagerly, jit_compile, steps_per_execution)
        object.__setattr__(self, "loss", loss)  # a loss that is a module must not become a part of the model
        self.run_eagerly = bool(run_eagerly)
        self._compile_arguments = {
            "loss": loss,
            "metrics": metrics,
            "loss_weights": loss_weights,
            "weighted_metrics": weighted_metrics,
            "run_eagerly": run_eagerly,
            "steps_per_execution": steps_per_execution,
            "jit_compile": jit_compile,
            "auto_scale_loss": auto_scale_loss,
            "microbatch": microbatch,
        }

    # -- training, evaluation, prediction ------------------------------------------------------------------

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: int | str = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool | str = True,
        class_weight: Any = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: Any = 1,
        max_queue_size: int = 10,
        workers: int = 1,
        use_multiprocessing: bool = False,
    ) -> History:
        """Train for a number of epochs.

        Args:
            x: Inputs: an array, tensor, DataFrame or array on disk `(samples, …)`, a list of them for positional
                inputs, or a dictionary by name. Or data that carry their targets: a torch Dataset or DataLoader, a
                `utils.Sequence`, a generator or iterable of batches, or a function that makes one of these.
            y: Targets `(samples, …)`, or a list or dictionary by output; not beside data that carry their own.
            batch_size: Samples per gradient update; 32 by default.
            epochs: The epoch to train up to, counted from 0 (not from `initial_epoch`).
            verbose: 0 silent, 1 a progress bar, 2 a line per epoch; "auto" is 1 on a terminal or in a notebook.
            callbacks: `torchfit.callbacks.Callback`s.
            validation_split: Fraction of the last samples that is set apart before shuffling.
            validation_data: `(x, y)` or `(x, y, sample_weight)`, or data as `x`; goes before `validation_split`.
            shuffle: Whether to draw a new order for every epoch; "batch" keeps neighbours together in a batch. Of no
                effect with `steps_per_epoch`, and on loaders, iterable Datasets and generators.
            class_weight: `{class: weight}` by which the weights of samples are multiplied, "balanced", or one of
                these for each output: `{output: {class: weight}}`.
            sample_weight: Weights of the samples in the loss: `(samples,)`, or `(samples, steps)` for sequences.
            initial_epoch: The epoch to start from.
            steps_per_epoch: Batches in an epoch, drawn from one iterator that goes on from epoch to epoch; `None` and
                -1 go on until the data end. Data that end too early end the training, with a warning.
            validation_steps: Batches in a validation, each from the start of the data; `None` takes all.
            validation_batch_size: Samples per batch of validation; `batch_size` by default.
            validation_freq: Validate every so many epochs, or in the epochs (from 1) of a container.
            max_queue_size: Batches of a Sequence or generator that workers read ahead.
            workers: How many threads read a Sequence, or processes with `use_multiprocessing` or for a Dataset.
            use_multiprocessing: Whether workers are processes.

        Returns:
            The `History`, whose `history` maps names to a value for each epoch.

        Raises:
            RuntimeError: If the model was not compiled.
            ValueError: If the data are empty, of different lengths, or do not fit the model.
        """
        self._check_compiled("fit")
        epochs = check_integer("epochs", epochs, at_least=0)
        loading = Loading(workers, use_multiprocessing, max_queue_size)
        conversion = self._conversion()
        source, held_out = training_sources(
            x, y, sample_weight, class_weight, validation_split, validation_data, conversion
        )
        sizes = batch_size, validation_batch_size
        validation = validation_batches(held_out, *sizes, validation_steps, loading)
        batches = training_batches(source, batch_size, shuffle, steps_per_epoch, epochs, loading)
        batches.ran_out = lambda: setattr(self, "stop_training", True)
        params = {"epochs": epochs, "steps": batches.steps, "samples": batches.samples}
        callbacks = self._callbacks(callbacks, verbose, add_history=True, **params)
        self._announce_names(callbacks, batches, validation)
        self.history = next(callback for callback in callbacks.callbacks if isinstance(callback, History))
        bus, verbose = callbacks, callbacks.params["verbose"]
        compiled, copied = lambda: self._execution.compiling_seconds, lambda: conversion.copies.seconds
        watch = Stopwatch(self._device, compiled, copied, tells=verbose == 2)
        watch.listen(bus)
        self.history.timing = watch.timing
        validate = self._validation(validation, validation_freq, bus)
        indices = range(check_integer("initial_epoch", initial_epoch, at_least=0), epochs)
        pieces = self._train_pieces(bus.keeps_batch_logs, batches.steps and batches.steps * len(indices))
        parts = training_parts(self, callbacks.callbacks, validation)
        course = Course(batches, self._execution.work, indices, self, self.reset_metrics, parts)
        self.stop_training = False
        callbacks.set_training_state(course)
        with self._running(bus, training=True):
            if self.preflight:
                preflight(self.module, self._objective)
            step = self._execution.wrap(pieces, batches)
            course.rehearse = step if self._execution.first_step_differs else None
            train_loop(
                watch.epochs(course.epochs()),
                lambda epoch: watch.items(course.work(epoch)),
                step,
                bus,
                self,
                course.start,
                watch.timed("validation", self._after_flush(validate)),
                self._finish_training,
            )
        watch.close()
        return self.history

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: int | str = 1,
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Any = None,
        max_queue_size: int = 10,
        workers: int = 1,
        use_multiprocessing: bool = False,
        return_dict: bool = False,
    ) -> Any:
        """Return the loss and the metrics on data, in evaluation mode.

        Args:
            x: Inputs, as in `fit`.
            y: Targets, as in `fit`.
            batch_size: Samples per batch; 32 by default.
            verbose: 0 silent, 1 a progress bar, 2 one line; "auto" as in `fit`.
            sample_weight: Weights of the samples, as in `fit`.
            steps: How many batches to evaluate; `None` takes all.
            callbacks: Callbacks for the evaluation.
            max_queue_size, workers, use_multiprocessing: As in `fit`.
            return_dict: Whether to return a dictionary by name.

        Returns:
            The loss alone if there is nothing else, else a list in the order of `metrics_names`.

        Raises:
            RuntimeError: If the model was not compiled.
            ValueError: If the data are empty, of different lengths, or do not fit the model.
        """
        self._check_compiled("evaluate")
        source = as_source(x, y, sample_weight, self._conversion())
        batches = whole_pass(source, batch_size, steps, Loading(workers, use_multiprocessing, max_queue_size))
        bus = self._callbacks(callbacks, verbose, steps=batches.steps, samples=batches.samples)
        with self._running(bus, training=False):
            logs = self._evaluate(batches, bus)
        return report(logs, return_dict)

    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: int | str = 0,
        steps: int | None = None,
        callbacks: Any = None,
        max_queue_size: int = 10,
        workers: int = 1,
        use_multiprocessing: bool = False,
        *,
        out: Any = None,
    ) -> Any:
        """Return the outputs for all samples as NumPy arrays, in evaluation mode.

        The result is allocated once, on the host: the peak is the result plus one batch (or up to
        256 KiB of small ones).

        Args:
            x: Inputs, as in `fit`.
            batch_size: Samples per batch; 32 by default.
            verbose: 0 silent, 1 a progress bar.
            steps: How many batches to predict; `None` takes all.
            callbacks: Callbacks for the prediction.
            max_queue_size, workers, use_multiprocessing: As in `fit`.
            out: Arrays to write into, such as memory maps `(samples, …)`, in the structure of the outputs.

        Returns:
            An array `(samples, …)`, or arrays in the structure that the module returns, with `None` for outputs that
            are no tensors; `out` if it was given.

        Raises:
            ValueError: If the data are empty, of different lengths, or do not fit the model.
        """
        source = as_source(x, None, None, replace(self._conversion(), inputs_only=True))
        batches = whole_pass(source, batch_size, steps, Loading(workers, use_multiprocessing, max_queue_size))
        predictions = Predictions(batches.samples, out)
        bus = self._callbacks(callbacks, verbose, steps=batches.steps, samples=batches.samples)
        with self._running(bus, training=False), torch.no_grad():
            self.stop_predicting = False
            pieces = self._predict_pieces(bus.has_listeners("on_predict_batch_end"), self._is_unheard(bus, "predict"))
            work, step = self._execution.once(pieces, batches)
            predict_loop(work, step, bus, self, predictions.keep)
        return predictions.result()

    def predict_iter(
        self, x: Any, batch_size: int | None = None, steps: int | None = None, **loading: Any
    ) -> Iterator[Any]:
        """Yield the outputs batch by batch, as NumPy arrays in the structure that the module returns.

        Nothing but one batch is held, so data without an end will do. Arguments as in `predict`; `loading` takes its
        `max_queue_size`, `workers` and `use_multiprocessing`. Between the batches the model may be used, and trained.
        """
        source = as_source(x, None, None, replace(self._conversion(), inputs_only=True))
        return self._predictions(whole_pass(source, batch_size, steps, Loading(**loading)))

    def train_on_batch(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        class_weight: Any = None,
        reset_metrics: bool = True,
        return_dict: bool = False,
    ) -> Any:
        """Make one gradient update on one batch.

        Args:
            x: Inputs of the batch, as in `fit`.
            y: Targets of the batch.
            sample_weight: Weights of its samples.
            class_weight: Weights of the classes, as in `fit`.
            reset_metrics: Whether the results are those of this batch alone, or gather from call to call.
            return_dict: Whether to return a dictionary by name.

        Returns:
            The loss alone if there is nothing else, else a list in the order of `metrics_names`.
        """
        self._check_compiled("train_on_batch")
        batch = as_batch(x, y, sample_weight, self._conversion(), class_weight)
        return self._on_batch(self._step("train_step", False), batch, reset_metrics, return_dict, training=True)

    def test_on_batch(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        reset_metrics: bool = True,
        return_dict: bool = False,
    ) -> Any:
        """Evaluate one batch; arguments and result as in `train_on_batch`."""
        self._check_compiled("test_on_batch")
        with torch.no_grad():
            batch = as_batch(x, y, sample_weight, self._conversion())
            return self._on_batch(self._step("test_step", False), batch, reset_metrics, return_dict, training=False)

    def predict_on_batch(self, x: Any) -> Any:
        """Return the outputs for one batch as NumPy arrays, in evaluation mode."""
        batch = as_batch(x, None, None, self._conversion())
        with self._running(NO_CALLBACKS, training=False), torch.no_grad():
            return to_numpy(self._predict_pieces(False).step(batch))

    # -- inside --------------------------------------------------------------------------------------------

    def _check_compiled(self, method: str) -> None:
        if not isinstance(self._objective, Objective):
            raise RuntimeError(f"Call `compile(optimizer, loss, metrics)` before `{method}`.")

    def _forget_graphs(self) -> None:
        keys = ("run_eagerly", "jit_compile", "steps_per_execution")
        if self._compile_arguments is not None:
            self._execution = choose_execution(*(self._compile_arguments[key] for key in keys))

    def _conversion(self) -> Conversion:
        return Conversion(self._device, floating_dtype_of(self.module), *self._given_names)

    def _callbacks(self, callbacks: Any, verbose: Any, *, add_history: bool = False, **params: Any) -> CallbackList:
        """Gather the user's callbacks, the progress and, for `fit`, the history."""
        verbose = resolve_verbose(verbose)
        return CallbackList(callbacks, add_history, verbose > 0, self, verbose=verbose, **params)

    def _announce_names(self, callbacks: CallbackList, batches: Paced, validation: Paced | None) -> None:
        """Tell callbacks that look for a name, before training, which ones there will be, if that can be known."""
        if not callbacks.needs_log_names or self._own_part("train_step") or self._own_part("test_step"):
            return
        names = self._foreseen_names(batches.example())
        if names is not None:
            validated = [] if validation is None else [f"val_{name}" for name in names]
            callbacks.set_log_names([*names, *validated])

    @contextmanager
    def _running(self, bus: CallbackList, *, training: bool) -> Iterator[None]:
        """Hold the mode of the module, and let go of everything afterwards, also when a loop fails."""
        self._calls.clear()
        apart = self._apart() if self._is_fitting else nullcontext()
        was_fitting, self._is_fitting = self._is_fitting, self._is_fitting or training
        try:
            with apart, self._gathering(), training_mode(self, training), explained(self.module):
                yield
        finally:
            self._is_fitting = was_fitting
            if not was_fitting:  # An evaluation amid a training leaves it its graphs.
                self._execution.release()
            bus.close()

    def _evaluate(self, batches: Any, bus: CallbackList) -> Any:
        keep = self._metrics_apart() if self._is_fitting else nullcontext()
        self.stop_evaluating = False
        with keep, torch.no_grad():
            self.reset_metrics()
            pieces = self._test_pieces(bus.keeps_batch_logs, self._is_unheard(bus, "test"))
            work, step = self._execution.once(pieces, batches)
            logs = evaluate_loop(work, step, bus, self)
            return dict(logs)

    def _is_unheard(self, bus: CallbackList, kind: str) -> bool:
        """Tell whether nobody listens between the steps, which the processor makes itself."""
        events = f"on_{kind}_batch_begin", f"on_{kind}_batch_end"
        return self._device.type == "cpu" and not any(map(bus.has_listeners, events))

    def _predictions(self, batches: Paced) -> Iterator[Any]:
        step = self._predict_pieces(False).step
        for batch in batches.epoch(0):
            with self._running(NO_CALLBACKS, training=False), torch.no_grad():
                outputs = to_numpy(step(batch))
            yield outputs

    def _validation(
        self, batches: Paced | None, frequency: Any, bus: CallbackList
    ) -> Callable[[int], dict[str, float]]:
        if batches is None:
            return lambda _: {}
        is_due = due_epochs(frequency)

        def validate(epoch: int) -> dict[str, float]:
            if not is_due(epoch + 1):
                return {}
            with training_mode(self, training=False):
                return {f"val_{name}": value for name, value in self._evaluate(batches, bus).items()}

        return validate

    def _on_batch(self, step: Step, batch: Batch, reset: bool, return_dict: bool, *, training: bool) -> Any:
        keep = self._metrics_apart() if self._is_fitting else nullcontext()
        with keep, self._running(NO_CALLBACKS, training=training):
            if reset:
                self.reset_metrics()
            logs = dict(Logs.of(step(batch)))
        return report(logs, return_dict)
