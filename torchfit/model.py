"""`Model`: Keras' training interface around any `torch.nn.Module`."""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn

from torchfit._data.workers import LoaderConfig
from torchfit._trainer.base_model import check_name
from torchfit._trainer.hints import ErrorTranslator, MissingAttribute
from torchfit._trainer.loop_contexts import gradients_enabled
from torchfit._trainer.predictions import format_results
from torchfit._trainer.savable_model import SavableModel
from torchfit._trainer.step_state import CompileOptions
from torchfit._trainer.steps import show_parameters
from torchfit._trainer.summary import summarize_model
from torchfit._trainer.trainable_module import make_trainer
from torchfit._types import Nested, UserData
from torchfit._utils import validation
from torchfit._utils.console import write_line
from torchfit._utils.errors import traceback_filter
from torchfit._utils.names import hide_unknown, no_unknown
from torchfit.callbacks import History
from torchfit.optimizers.identifiers import resolve_optimizer

if TYPE_CHECKING:
    from torchfit._execution.precision import DTypePolicy
    from torchfit.utils.learning_rate_finder import LRFinderResult


class Model(SavableModel):
    """Gives `compile`, `fit`, `evaluate` and `predict` to a PyTorch module.

    Wrap an existing module, or subclass and define `forward`. The module itself is not changed: its parameters are
    trained in place, and its own `state_dict` is what is saved.

    Args:
        module: Any `torch.nn.Module`. A subclass that defines `forward` leaves it out, and keeps its modules in
            attributes of any name but `module` and those that `Model` has.
        input_names: Names of the inputs in the order of the parameters of `module.forward`, for data in dictionaries,
            whose other keys are then ignored; by default the names of the parameters.
        output_names: Names of the outputs of a module that returns a tuple or list; by default `output_1`, ….
        label_names: The keys of the targets in data that are a single dictionary, or `{output: key}`; these keys are
            then not inputs.
        device: A device, or "auto": the accelerator that the module is on or that the machine has, else the CPU.
        dtype_policy: "mixed_bfloat16", "mixed_float16", "float32", … (see `mixed_precision`); by default the global
            policy or, without one, the module's own dtype.
        name: The name of the model; by default its class name in snake case.

    Raises:
        TypeError: If `module` is not a module, or is passed to a subclass that defines `forward`.
        ValueError: If the device or the policy is unknown.

    `fit` checks the module and its first batch for common mistakes; set `model.preflight = False` to skip the checks.
    `compile` is that of Keras, not `nn.Module.compile`. For the latter, wrap a compiled module:
    `Model(torch.compile(net))`.

    >>> import numpy as np
    >>> model = Model(nn.Linear(4, 1))
    >>> model.compile("sgd", "mse")
    >>> history = model.fit(np.zeros((8, 4)), np.ones((8, 1)), epochs=2, verbose=0)
    >>> model.predict(np.zeros((3, 4))).shape
    (3, 1)
    """

    @hide_unknown
    def __init__(
        self,
        module: nn.Module | None = None,
        *,
        input_names: Sequence[str] | None = None,
        output_names: Sequence[str] | None = None,
        label_names: Sequence[str] | Mapping[str, str] | None = None,
        device: str | torch.device | None = "auto",
        dtype_policy: "DTypePolicy | str | None" = None,
        name: str | None = None,
        **_unknown: NoReturn,
    ) -> None:
        with traceback_filter:
            no_unknown("Model", Model.__init__, _unknown)
            super().__init__(module, name)
            # The only private attribute, so that subclasses are free to choose names for theirs.
            self._torchfit = make_trainer(self, input_names, output_names, label_names, device, dtype_policy)
        self.dtype_policy = self._torchfit.precision.policy
        self.optimizer = None
        self.loss: Any = None
        self.history = None

    def __getattr__(self, name: str) -> Tensor | nn.Module:
        """Suggest the equivalent for attributes that models of other libraries have."""
        modules = self.__dict__.get("_modules", ())
        if name in modules:  # as fast as without this method, for the layers of a subclass
            return modules[name]  # type: ignore[no-any-return]
        try:
            return super().__getattr__(name)
        except AttributeError:
            raise AttributeError(MissingAttribute(self, name)) from None

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute. `optimizer` may be set to whatever `compile` accepts for it.

        Raises:
            AttributeError: If a module or parameter would have a name that models use themselves.
            ValueError: If `optimizer` stands for no optimizer.
        """
        if isinstance(value, (nn.Module, nn.Parameter)):
            with traceback_filter:
                check_name(self, name)
        elif name == "optimizer" and value is not None:
            with traceback_filter:
                value = self._torchfit.as_optimizer(value, self.optimizer)
        super().__setattr__(name, value)

    @hide_unknown
    def compile(
        self,
        optimizer: object = "rmsprop",
        loss: object = None,
        metrics: object = None,
        loss_weights: object = None,
        weighted_metrics: object = None,
        run_eagerly: bool | None = None,
        steps_per_execution: int | None = None,
        *,
        jit_compile: bool | str | None = None,
        auto_scale_loss: bool = True,
        microbatch: int | str | None = None,
        memory_format: str | None = None,
        **_unknown: NoReturn,
    ) -> None:
        """Configure the model for training.

        Args:
            optimizer: A name, a torchfit optimizer, a `torch.optim` instance over the module's parameters or its
                class, or a callable from parameters to a `torch.optim.Optimizer`.
            loss: A name, a `Loss`, a `torch.nn` or `torch.nn.functional` loss, or any function
                `(y_true, y_pred)`; a list or dictionary of these for several outputs; `None` for no loss.
            metrics: A list of names, `Metric`s, functions or torchmetrics metrics; nested for several outputs.
            loss_weights: A list or dictionary of numbers by which the losses of the outputs are multiplied.
            weighted_metrics: Metrics that take sample and class weights into account.
            run_eagerly: `True` runs every step as ordinary Python code, without compilation.
            steps_per_execution: How many batches run between two calls of the batch callbacks; 1 by default.
            jit_compile: `True` runs each step (forward, losses, gradients, update, metrics) as one compiled graph;
                steps that cannot be compiled run eagerly, and the reason is logged once, and so do calls with a single
                batch, such as `train_on_batch`. "auto" starts eagerly and compiles once the remaining steps justify the
                compile time, on a processor in another process.
            auto_scale_loss: Whether "mixed_float16" wraps the optimizer in a `LossScaleOptimizer`.
            microbatch: The number of rows of a training batch that go through the module at once. Gradients and updates
                are still those of the whole batch, but batch statistics (BatchNorm) are those of the parts. "auto"
                reduces the number when memory runs out.
            memory_format: The memory layout of convolution weights, for inputs with four or five axes:
                "channels_last", "contiguous", or "auto", which times some of the first steps in both and keeps the
                faster; `None` leaves them as they are. Names and values stay the same; outputs agree up to rounding.

        Raises:
            ValueError: If a name is unknown (the message suggests the nearest ones), or an argument is invalid.
        """
        with traceback_filter:
            no_unknown("compile", Model.compile, _unknown)
            resolved = resolve_optimizer(optimizer, self.optimizer)
            options = CompileOptions(
                loss,
                metrics,
                loss_weights,
                weighted_metrics,
                run_eagerly,
                steps_per_execution,
                jit_compile,
                validation.boolean("auto_scale_loss", auto_scale_loss),
                microbatch,
                memory_format,
            )
            self._torchfit.compile(options)
            self.optimizer = resolved
            show_parameters(self, self._torchfit.state)
        object.__setattr__(self, "loss", loss)  # A loss that is a module must not become a submodule of the model.
        self.run_eagerly = bool(run_eagerly)

    # -- training, evaluation, prediction ------------------------------------------------------------------

    @hide_unknown
    def fit(
        self,
        x: UserData = None,
        y: UserData = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: int | str = "auto",
        callbacks: object = None,
        validation_split: float = 0.0,
        validation_data: UserData = None,
        shuffle: bool | str = True,
        class_weight: object = None,
        sample_weight: UserData = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int | Container[int] = 1,
        max_queue_size: int = 10,
        workers: int = 1,
        use_multiprocessing: bool = False,
        **_unknown: NoReturn,
    ) -> History:
        """Train for a number of epochs.

        Args:
            x: Inputs: an array, tensor, DataFrame or array on disk `(samples, …)`, a list of them for positional
                inputs, or a dictionary by name. Or data that contain their targets: a torch Dataset or DataLoader, a
                `utils.Sequence`, a generator or iterable of batches, or a function that returns one of these.
            y: Targets `(samples, …)`, or a list or dictionary by output; omitted if `x` contains its targets.
            batch_size: Samples per gradient update; 32 by default.
            epochs: The epoch to train up to: training stops after epoch `epochs`, counted from 1, whatever
                `initial_epoch` is.
            verbose: 0 for silent, 1 for a progress bar, 2 for one line per epoch; "auto" is 1 on a terminal or in a
                notebook.
            callbacks: `torchfit.callbacks.Callback`s.
            validation_split: The fraction of the samples, taken from the end before shuffling, to hold out for
                validation.
            validation_data: `(x, y)` or `(x, y, sample_weight)`, or data of the same kinds as `x`; overrides
                `validation_split`.
            shuffle: Whether to shuffle the samples before every epoch; "batch" keeps consecutive samples together in
                a batch. Has no effect with `steps_per_epoch`, and on loaders, iterable Datasets and generators.
            class_weight: `{class: weight}` to multiply the sample weights by, "balanced", or one of these for each
                output: `{output: {class: weight}}`.
            sample_weight: Weights of the samples in the loss: `(samples,)`, or `(samples, steps)` for sequences.
            initial_epoch: The epoch to start from.
            steps_per_epoch: Batches in an epoch, drawn from one iterator that continues from epoch to epoch; `None`
                and -1 continue until the data end. Data that end start again, up to `epochs` times; a generator
                cannot, and training stops with a warning.
            validation_steps: Batches in a validation, always from the start of the data; `None` uses all.
            validation_batch_size: Samples per validation batch; `batch_size` by default.
            validation_freq: Validate every `validation_freq` epochs, or after the epochs (counted from 1) in a
                container.
            max_queue_size: The number of batches of a Sequence or generator that workers read ahead.
            workers: The number of threads that read a Sequence, or of processes with `use_multiprocessing` or for a
                Dataset.
            use_multiprocessing: Whether workers are processes.

        Returns:
            The `History`, whose `history` maps each name to its values, one per epoch.

        Raises:
            RuntimeError: If the model was not compiled.
            ValueError: If the data are empty, of different lengths, or do not fit the model.
        """
        options: dict[str, Any] = {
            "batch_size": batch_size,
            "epochs": epochs,
            "verbose": verbose,
            "callbacks": callbacks,
            "validation_split": validation_split,
            "validation_data": validation_data,
            "shuffle": shuffle,
            "class_weight": class_weight,
            "sample_weight": sample_weight,
            "initial_epoch": initial_epoch,
            "steps_per_epoch": steps_per_epoch,
            "validation_steps": validation_steps,
            "validation_batch_size": validation_batch_size,
            "validation_freq": validation_freq,
            "loading": LoaderConfig(workers, use_multiprocessing, max_queue_size),
        }
        lock = self._torchfit.lock.owned("fit", is_loop=True, is_alone=True)
        with traceback_filter, gradients_enabled(), lock:
            no_unknown("fit", Model.fit, _unknown)
            return self._torchfit.fit(self, x, y, **options)  # in one line, because tracebacks show it

    @hide_unknown
    def evaluate(
        self,
        x: UserData = None,
        y: UserData = None,
        batch_size: int | None = None,
        verbose: int | str = 1,
        sample_weight: UserData = None,
        steps: int | None = None,
        callbacks: object = None,
        max_queue_size: int = 10,
        workers: int = 1,
        use_multiprocessing: bool = False,
        return_dict: bool = False,
        **_unknown: NoReturn,
    ) -> Any:
        """Return the loss and the metrics on data, in evaluation mode.

        Args:
            x: Inputs, as in `fit`.
            y: Targets, as in `fit`.
            batch_size: Samples per batch; 32 by default.
            verbose: 0 for silent, 1 for a progress bar, 2 for one line; "auto" as in `fit`.
            sample_weight: Weights of the samples, as in `fit`.
            steps: The number of batches to evaluate; `None` uses all.
            callbacks: Callbacks for the evaluation.
            max_queue_size: As in `fit`.
            workers: As in `fit`.
            use_multiprocessing: As in `fit`.
            return_dict: Whether to return a dictionary by name.

        Returns:
            The loss alone if there is nothing else, else a list in the order of `metrics_names`.

        Raises:
            RuntimeError: If the model was not compiled.
            ValueError: If the data are empty, of different lengths, or do not fit the model.
        """
        with traceback_filter:
            no_unknown("evaluate", Model.evaluate, _unknown)
            logs = self._torchfit.evaluate(
                self,
                x,
                y,
                sample_weight,
                batch_size=batch_size,
                verbose=verbose,
                steps=steps,
                callbacks=callbacks,
                loading=LoaderConfig(workers, use_multiprocessing, max_queue_size),
            )
        return format_results(logs, return_dict)

    @hide_unknown
    def predict(
        self,
        x: UserData,
        batch_size: int | None = None,
        verbose: int | str = 0,
        steps: int | None = None,
        callbacks: object = None,
        max_queue_size: int = 10,
        workers: int = 1,
        use_multiprocessing: bool = False,
        *,
        out: Any = None,
        pad_value: float | None = None,
        **_unknown: NoReturn,
    ) -> Any:
        """Return the outputs for all samples as NumPy arrays, in evaluation mode.

        The result is allocated once, on the host: the peak memory is the result plus one batch (or up to
        256 KiB of small batches).

        Args:
            x: Inputs, as in `fit`.
            batch_size: Samples per batch; 32 by default.
            verbose: 0 for silent, 1 for a progress bar.
            steps: The number of batches to predict; `None` uses all.
            callbacks: Callbacks for the prediction.
            max_queue_size: As in `fit`.
            workers: As in `fit`.
            use_multiprocessing: As in `fit`.
            out: Arrays to write into, such as memory maps `(samples, …)`, in the structure of the outputs.
            pad_value: Pads outputs whose batches differ in axes other than the first, such as sequences of different
                lengths; with `None` they raise a `ValueError`.

        Returns:
            An array `(samples, …)`, or arrays in the structure that the module returns, with `None` for outputs other
            than tensors; `out` if it was given. A list if the module returns a list with one entry per sample.

        Raises:
            ValueError: If the data are empty, of different lengths, or do not fit the model.
        """
        with traceback_filter:
            no_unknown("predict", Model.predict, _unknown)
            return self._torchfit.predict(
                self,
                x,
                batch_size=batch_size,
                verbose=verbose,
                steps=steps,
                callbacks=callbacks,
                loading=LoaderConfig(workers, use_multiprocessing, max_queue_size),
                out=out,
                pad_value=pad_value,
            )

    def predict_iter(
        self, x: UserData, batch_size: int | None = None, steps: int | None = None, **loading: Any
    ) -> Iterator[Any]:
        """Yield the outputs batch by batch, as NumPy arrays in the structure that the module returns.

        Only one batch is held at a time, so the data may be infinite. The model may be used, and even trained, between
        the batches. The arguments are those of `predict`; `loading` takes its `max_queue_size`, `workers` and
        `use_multiprocessing`.
        """
        return self._torchfit.predict_iter(self, x, batch_size, steps, LoaderConfig(**loading))

    def lr_find(self, x: UserData, y: UserData = None, **arguments: Any) -> "LRFinderResult":
        """Try learning rates from small to large on a copy of the model, and suggest one; see `utils.lr_find`."""
        from torchfit.utils.learning_rate_finder import lr_find  # Imported on use: it imports all of torchfit.utils.

        with traceback_filter:
            return lr_find(self, x, y, **arguments)

    def train_on_batch(
        self,
        x: UserData,
        y: UserData = None,
        sample_weight: UserData = None,
        class_weight: object = None,
        reset_metrics: bool = True,
        return_dict: bool = False,
    ) -> Any:
        """Make one gradient update on one batch.

        Args:
            x: Inputs of the batch, as in `fit`.
            y: Targets of the batch.
            sample_weight: Weights of the samples.
            class_weight: Weights of the classes, as in `fit`.
            reset_metrics: Whether the results are those of this batch alone; otherwise they accumulate over calls.
            return_dict: Whether to return a dictionary by name.

        Returns:
            The loss alone if there is nothing else, else a list in the order of `metrics_names`.
        """
        data = (x, y, sample_weight, class_weight)
        with traceback_filter, gradients_enabled():
            return format_results(self._torchfit.train_on_batch(self, data, reset_metrics), return_dict)

    def test_on_batch(
        self,
        x: UserData,
        y: UserData = None,
        sample_weight: UserData = None,
        reset_metrics: bool = True,
        return_dict: bool = False,
    ) -> Any:
        """Evaluate one batch; arguments and result as in `train_on_batch`."""
        data = (x, y, sample_weight)
        with traceback_filter:
            return format_results(self._torchfit.test_on_batch(self, data, reset_metrics), return_dict)

    def predict_on_batch(self, x: UserData) -> Any:
        """Return the outputs for one batch as NumPy arrays, in evaluation mode."""
        with traceback_filter:
            return self._torchfit.predict_on_batch(self, x)

    def summary(
        self,
        line_length: int | None = None,
        positions: Sequence[float] | None = None,
        print_fn: Callable[[str], object] | None = None,
        expand_nested: bool = False,
        show_trainable: bool = False,
        layer_range: Sequence[str] | None = None,
        input_shape: Nested = None,
    ) -> None:
        """Print a table of the layers with their output shapes and numbers of weights.

        Args:
            line_length: Characters in a line; by default as many as the contents need.
            positions: Where the columns end, in characters or as fractions of the line.
            print_fn: Called with the table instead of printing it.
            expand_nested: Whether to list the layers inside layers.
            show_trainable: Whether to show which layers are trainable.
            layer_range: Patterns for the names of the first and the last layer to list.
            input_shape: The shape of one sample, or a list or dictionary of shapes, to compute output shapes for;
                by default that of the data seen last.
        """
        options = {"expand_nested": expand_nested, "show_trainable": show_trainable, "layer_range": layer_range}
        translated = ErrorTranslator(self.module, "input_shape", has_gradients=False)
        with traceback_filter, self._torchfit.lock.shared("summary"), translated:
            table = summarize_model(self, self._torchfit.state.call, input_shape, **options)
        (print_fn or write_line)(table.text(line_length, positions))

    def _repr_html_(self) -> str:
        """Show the summary in a notebook."""
        return summarize_model(self, self._torchfit.state.call, show_trainable=True).html()
