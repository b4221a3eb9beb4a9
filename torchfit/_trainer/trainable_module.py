"""`TrainableModule`, which defines what a model does with one batch, in methods that a subclass may override."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from torchfit._data.convert import hint_for_pairs
from torchfit._distribution.processes import current
from torchfit._trainer.base_model import BaseModel
from torchfit._trainer.hints import suggest_label_names
from torchfit._trainer.logs import LazyLogs
from torchfit._trainer.loss_tracking import NO_LOSSES
from torchfit._trainer.model_lock import ModelLock
from torchfit._trainer.module_call import call_model
from torchfit._trainer.step_state import submodule_name
from torchfit._trainer.steps import ForwardResult, build_optimizer, count_rows, forward_pass, record, sync_parameters
from torchfit._trainer.trainer import Trainer
from torchfit._types import Nested, Results, TensorLike
from torchfit._utils import collector
from torchfit._utils.collector import AddedTerm
from torchfit._utils.compat import backward
from torchfit._utils.errors import describe
from torchfit._utils.modules import training_mode
from torchfit._utils.tree import Batch, parts_of
from torchfit.losses.identifiers import loss_modules
from torchfit.metrics.base import Metric


class TrainableModule(BaseModel):
    """A module with the steps of training, evaluation and prediction, and with its losses and metrics."""

    _torchfit: Trainer

    def __call__(self, *args: Any, training: bool | None = None, **kwargs: Any) -> Any:
        """Run the module on one batch under the dtype policy, and reset `losses` to those of this call.

        A single list, tuple or dictionary is passed to the module as in `fit`. `training` puts the model into
        train (`True`) or evaluation mode (`False`) for this call; by default the mode stays as it is.
        """
        if training is not None:
            with _mode_for_call(self, self._torchfit.lock, training):
                return self(*args, **kwargs)
        state = self._torchfit.state
        auxiliary = state.auxiliary
        if auxiliary.is_active or collector.is_suspended():
            return call_model(self, state.call, super().__call__, args, kwargs)
        if auxiliary.has_uninstalled_hooks:
            with auxiliary.hooks_installed(self.module):
                return self(*args, **kwargs)
        if auxiliary.is_nested():
            return call_model(self, state.call, super().__call__, args, kwargs)
        previous = auxiliary.enter()
        try:
            return call_model(self, state.call, super().__call__, args, kwargs)
        finally:
            auxiliary.leave(previous)

    @property
    def input_names(self) -> list[str]:
        """The names of the inputs: those passed to the model, else the parameters of the module's `forward`."""
        return self._torchfit.state.call.signature(self.module).input_names

    @property
    def output_names(self) -> list[str]:
        """The names of the outputs: those passed to the model, else those that training or evaluation has found."""
        trainer = self._torchfit
        return list(trainer.output_names or [output.name for output in trainer.state.objective.outputs])

    @property
    def example_inputs(self) -> Nested:
        """A sample of zeros like those of the last batch, on the CPU, or `None` before the first batch."""
        return self._torchfit.state.call.example

    def build_optimizer(self) -> None:
        """Bind the optimizer to the parameters of the module and of losses, by name.

        If it is already bound, update which parameters it trains. In a custom `train_step`, it binds to the parameters
        that it is first used with.
        """
        if sync_parameters(self, self._torchfit.state):
            self._torchfit.execution.invalidate()

    # -- the steps, which may be overridden ----------------------------------------------------------------

    def train_step(self, batch: Batch) -> Results:
        """Train on one batch: forward, loss, backward, update, metrics.

        Override it for custom training. An override may use `self(x, training=True)`, `self.compute_loss`,
        `self.optimizer`, `self.trainable_weights`, `self.metrics` and `self.get_metrics_result`.

        Args:
            batch: The batch on the model's device: a tuple `(x, y)` or `(x, y, sample_weight)` or, if there are only
                inputs, `x` itself (in a tuple of length 1 if it is a list or tuple).

        Returns:
            The logs: a mapping from names to numbers or tensors.
        """
        state = self._torchfit.state
        result = forward_pass(self, state, batch)
        if result.loss.requires_grad or self.trainable_weights:  # Else there is nothing to train, as `fit` warns.
            if not self.optimizer.built:
                build_optimizer(self, state)
            self.optimizer.zero_grad()
            backward(self.optimizer.scale_loss(result.loss), state.unit)
            self.optimizer.step(result.denominator)
        return record(self, state, result)

    def test_step(self, batch: Batch) -> Results:
        """Evaluate one batch: forward, loss, metrics. May be overridden like `train_step`."""
        state = self._torchfit.state
        return record(self, state, forward_pass(self, state, batch))

    def predict_step(self, batch: Batch) -> Nested:
        """Return the outputs for one batch. May be overridden like `train_step`."""
        return self._torchfit.state.call(self.module, parts_of(batch)[0])

    def compute_loss(
        self,
        x: Nested = None,
        y: Nested = None,
        y_pred: Nested = None,
        sample_weight: Nested = None,
        training: bool = True,
    ) -> Tensor:
        """Return the loss to minimize, a scalar: the weighted sum of the losses of all outputs, plus added losses.

        An override may omit the parameter `training`. In evaluation, a model without any loss has a loss of 0.

        Raises:
            ValueError: If there is nothing to minimize, or sample weights come with a loss that the module returns.
        """
        state = self._torchfit.state
        loss: Tensor | None = state.objective.loss(y, y_pred, sample_weight)
        if state.auxiliary.losses or state.auxiliary.regularizers:
            loss = state.auxiliary.add_to(loss)
        if loss is not None:
            return loss
        if state.objective.has_losses:
            way_out = suggest_label_names(list(x)) if isinstance(x, Mapping) else hint_for_pairs(x)
            raise ValueError(
                f"`{state.data_name}` came without targets `y`, but a loss was compiled. Pass them, or data that yield "
                f"(inputs, targets). {way_out}".rstrip()
            )
        loss = state.objective.own_loss(y_pred, sample_weight)
        if loss is not None:
            return loss
        if training:
            raise ValueError(
                "There is no loss to compute: pass `loss=` to `compile`, add losses with `add_loss`, such as "
                '`model.add_loss(lambda outputs: outputs["loss"], on="")` for one of the outputs, or let the module '
                "return one as its output `loss`."
            )
        return torch.zeros((), device=self._torchfit.device)

    def compute_metrics(self, x: Nested, y: Nested, y_pred: Nested, sample_weight: Nested = None) -> Results:
        """Update the compiled and added metrics with one batch, and return all results, which are computed on read."""
        state = self._torchfit.state
        state.objective.update_metrics(y, y_pred, sample_weight)
        if state.auxiliary.values or state.auxiliary.metric_fns:
            state.auxiliary.update_metrics(count_rows(y, y_pred, x))
        return LazyLogs(self.get_metrics_result)

    def compiled_loss(
        self,
        y: Nested,
        y_pred: Nested,
        sample_weight: Nested = None,
        regularization_losses: Iterable[Tensor] | None = None,
    ) -> Tensor:
        """Return the loss of `compile` plus the sum of `regularization_losses`, and update the mean `loss` with it.

        This is for steps written for Keras 2; new ones should call `compute_loss`.
        """
        objective = self._torchfit.state.objective
        loss: Tensor | None = objective.loss(y, y_pred, sample_weight)
        for value in regularization_losses or ():
            loss = value.sum() if loss is None else loss + value.sum()
        if loss is None:
            raise ValueError("There is no loss to compute: pass `loss=` to `compile` and targets `y`.")
        objective.tracker.update(ForwardResult(None, y, sample_weight, y_pred, loss.detach(), NO_LOSSES))
        return loss

    @property
    def compiled_metrics(self) -> "CompiledMetrics":
        """An object that updates the metrics of `compile`, for steps written for Keras 2; see `compute_metrics`."""
        return CompiledMetrics(self._torchfit.state.objective.update_metrics)

    # -- added losses and metrics --------------------------------------------------------------------------

    def add_loss(self, loss: Callable[..., Tensor] | Tensor | float, on: str | None = None) -> None:
        """Add a term to the loss of `compile`.

        Args:
            loss: A function of the output of the submodule `on`, or a function without arguments, such as a weight
                regularizer. It returns a tensor, whose elements are summed. Within a `forward`, pass a tensor instead.
            on: The name of a submodule, as in `named_modules()`; "" is the whole module.

        Raises:
            ValueError: If there is no such submodule.
            TypeError: If `loss` is neither a function nor a tensor.

        >>> import torch, torchfit
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
        >>> model = torchfit.Model(net)
        >>> model.add_loss(lambda: 0.01 * net[0].weight.square().sum())
        >>> model.add_loss(lambda activations: 0.1 * activations.mean(), on="1")
        >>> _ = model(torch.ones(2, 4))
        >>> len(model.losses)
        2
        """
        trainer = self._torchfit
        trainer.state.auxiliary.modules += [module.to(trainer.device) for module in loss_modules(loss)]
        if on is not None:
            function = _checked_function(loss)
            on = submodule_name(self.module, on)
            trainer.register_hook(on, partial(_add_loss_of, function))
        elif isinstance(loss, Tensor) or not callable(loss):
            collector.add_loss(loss)
            return
        else:
            trainer.state.auxiliary.regularizers.append(loss)
            trainer.invalidate_compiled_steps()
        trainer.state.auxiliary.added_terms.append(AddedTerm("add_loss", {"loss": loss, "on": on}))

    def add_metric(
        self, value: Callable[..., TensorLike] | TensorLike, name: str, aggregation: str = "mean", on: str | None = None
    ) -> None:
        """Log a value in addition to the metrics of `compile`.

        Args:
            value: A function of the output of the submodule `on`, or a function without arguments. Within a `forward`,
                pass a tensor instead.
            name: The key in the logs.
            aggregation: "mean" or "sum" over an epoch, as in `torchfit.add_metric`.
            on: The name of a submodule, as in `named_modules()`; "" is the whole module.

        Raises:
            ValueError: If there is no such submodule or aggregation, or `name` is not a string.
            TypeError: If `value` is neither a function nor a tensor.
        """
        trainer = self._torchfit
        collector.check_metric(name, aggregation)
        if on is not None:
            function = _checked_function(value)
            on = submodule_name(self.module, on)
            trainer.register_hook(on, partial(_add_metric_of, function, name, aggregation))
        elif isinstance(value, Tensor) or not callable(value):
            collector.add_metric(value, name, aggregation)
            return
        else:
            trainer.state.auxiliary.metric_fns.append((name, value, aggregation))
            trainer.invalidate_compiled_steps()
        arguments = {"value": value, "name": name, "aggregation": aggregation, "on": on}
        trainer.state.auxiliary.added_terms.append(AddedTerm("add_metric", arguments))

    @property
    def added_terms(self) -> list[AddedTerm]:
        """The calls of `add_loss` and `add_metric` that added functions, in order."""
        return list(self._torchfit.state.auxiliary.added_terms)

    @property
    def loss_modules(self) -> nn.ModuleDict:
        """The losses of `compile` and `add_loss` that are or contain modules, which are trained and saved as well."""
        return self._torchfit.state.loss_modules(self)

    @property
    def losses(self) -> list[Tensor]:
        """The losses added in the last call of the model, and the values of regularizers."""
        return self._torchfit.state.auxiliary.all_losses()

    # -- metrics -------------------------------------------------------------------------------------------

    @property
    def metrics(self) -> list[Metric]:
        """All metrics: the mean of the loss, those of `compile`, those in attributes, and added ones."""
        return self._torchfit.metrics(self)

    @property
    def metrics_names(self) -> list[str]:
        """The names of the results, in the order of the list that `evaluate` returns."""
        return [metric.name for metric in self._torchfit.reported_metrics(self)]

    def reset_metrics(self) -> None:
        """Reset the state of every metric."""
        for metric in self.metrics:
            metric.reset_state()

    def get_metrics_result(self) -> Results:
        """Return the results by name, as tensors on the device."""
        results = {metric.name: metric.result() for metric in self._torchfit.reported_metrics(self)}
        for name, value in results.items():
            if value is None:
                raise TypeError(f"The metric {name} returned None. Does its method `result` end without `return`?")
        return results


def make_trainer(*arguments: Any) -> Trainer:
    """Return the trainer of a model, for one or several processes; the arguments are those of `Trainer`."""
    if current().size == 1:
        return Trainer(*arguments)
    from torchfit._trainer.replicated_trainer import ReplicatedTrainer

    return ReplicatedTrainer(*arguments)


class CompiledMetrics:
    """The metrics of `compile`, updated together."""

    def __init__(self, update: Callable[[Nested, Nested, Nested], None]) -> None:
        self._update = update

    def update_state(self, y: Nested, y_pred: Nested, sample_weight: Nested = None) -> None:
        """Update every metric with one batch."""
        self._update(y, y_pred, sample_weight)


@contextmanager
def _mode_for_call(model: TrainableModule, lock: ModelLock, training: bool) -> Iterator[None]:
    """Put a model into train or evaluation mode for one call."""
    if torch.compiler.is_compiling():  # Inside a step, which has locked the model.
        locked: AbstractContextManager[None] = nullcontext()
    elif training:
        locked = lock.owned("__call__", is_loop=False, is_alone=True)
    else:
        locked = lock.shared("__call__")
    with locked, training_mode(model, training):
        yield


def _add_loss_of(function: Callable[[Nested], object], output: Nested) -> None:
    collector.add_loss(function(output))


def _add_metric_of(function: Callable[[Nested], object], name: str, aggregation: str, output: Nested) -> None:
    collector.add_metric(function(output), name, aggregation)


def _checked_function(function: object) -> Callable[..., object]:
    if not callable(function):
        raise TypeError(f"With `on`, a function of the submodule's output is needed. Received: {describe(function)}.")
    return function
