"""Callbacks that set the learning rate by a schedule, reduce it on plateaus, or log it."""

import inspect
import warnings
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

from torchfit._types import Logs, StateDict
from torchfit._utils import console, validation
from torchfit._utils.errors import describe
from torchfit._utils.names import no_unknown
from torchfit.callbacks.base import Callback, Monitor


class CompiledModel(Protocol):
    """A model with an optimizer, as far as learning rates need it."""

    optimizer: Any

    @property
    def module(self) -> nn.Module:
        """The module, whose parameters the optimizer trains."""
        ...

    def build_optimizer(self) -> None:
        """Bind the optimizer to the parameters."""
        ...


def built_optimizer(model: CompiledModel) -> Any:
    """Return the optimizer of a model, after building it if its learning rate is unknown until then."""
    optimizer = model.optimizer
    if optimizer.learning_rate is None and not optimizer.built:  # a torch.optim class
        model.build_optimizer()
        if not optimizer.built:  # a custom `train_step` has not used it yet
            optimizer.build(model.module.named_parameters())
    return optimizer


def require_settable_rate(owner: str, model: CompiledModel) -> None:
    """Check that the learning rate of the optimizer is a number that a callback can change.

    Raises:
        TypeError: If a schedule sets it.
    """
    rate = getattr(model.optimizer, "learning_rate_or_schedule", None)
    if callable(rate):
        raise TypeError(
            f"{owner}: the learning rate of the optimizer is set by a schedule, {describe(rate)}, and cannot be "
            "changed by a callback. Create the optimizer with a number as `learning_rate`, or leave the callback out."
        )


def learning_rates_of(model: CompiledModel) -> list[float]:
    """Return the learning rate of every parameter group, or of each of several optimizers."""
    return [float(part["lr"] if isinstance(part, dict) else part.learning_rate) for part in _parts(model)]


def learning_rate_of(model: CompiledModel) -> float:
    """Return the learning rate of the first parameter group or optimizer whose rate is not 0."""
    first, *others = learning_rates_of(model)
    return float(model.optimizer.learning_rate) if first else next(filter(None, others), 0.0)


def set_learning_rates(model: CompiledModel, rates: Sequence[float]) -> None:
    """Set the learning rate of every parameter group or optimizer, except those with a schedule."""
    parts = _parts(model)
    if len(parts) == 1:
        model.optimizer.learning_rate = rates[0]
        return
    for part, rate in zip(parts, rates):
        if not isinstance(part, dict):
            if not callable(getattr(part, "learning_rate_or_schedule", None)):
                part.learning_rate = rate
        elif isinstance(part["lr"], Tensor):
            part["lr"].fill_(rate)  # a capturable optimizer reads it inside its graph
        else:
            part["lr"] = rate


def learning_rate_names(model: CompiledModel) -> list[str]:
    """Return the names in the logs of the learning rates of parameter groups or optimizers."""
    parts = enumerate(_parts(model))
    names = [str(part.get("name", number) if isinstance(part, dict) else number) for number, part in parts]
    return [f"learning_rate_{name if names.count(name) == 1 else number}" for number, name in enumerate(names)]


def _parts(model: CompiledModel) -> list[Any]:
    """Return the objects that hold a rate: groups of a `torch.optim` optimizer, or one or more torchfit optimizers."""
    optimizer = built_optimizer(model)
    groups = getattr(getattr(optimizer, "optimizer", None), "param_groups", None)
    return list(groups or getattr(optimizer, "optimizers", None) or [optimizer])


class LearningRateScheduler(Callback):
    """Sets the learning rate at the start of every epoch, and writes it into the logs as `learning_rate`.

    With several parameter groups, `schedule` gets and sets the rate of the first group whose rate is not 0; the
    others are scaled by the same factor. Rates of 0 stay 0.

    Args:
        schedule: A function of the epoch (from 0) and the current rate, or of the epoch alone, that returns
            the new rate: a number, or an array or tensor without dimensions.
        verbose: 1 prints the rate.

    Raises:
        ValueError: If `schedule` does not return a number.
        TypeError: Before the first epoch, if the optimizer has a learning-rate schedule.

    >>> halving = LearningRateScheduler(lambda epoch, rate: rate * 0.5 if epoch else rate)
    """

    written_logs = ("learning_rate",)

    def __init__(self, schedule: Callable[..., object], verbose: int = 0) -> None:
        if not callable(schedule):
            raise TypeError(f"schedule: expected a function of (epoch, rate). Received: {describe(schedule)}")
        self.schedule = schedule
        self.verbose = verbose
        self._takes_rate = _takes_two(schedule)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Raise TypeError if the learning rate cannot be set."""
        require_settable_rate(type(self).__name__, self.model)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Set the rate."""
        current = learning_rate_of(self.model)
        rate = _number(self.schedule(epoch, current) if self._takes_rate else self.schedule(epoch))
        self.model.optimizer.learning_rate = rate
        if self.verbose > 0:
            console.write_line(f"\nEpoch {epoch + 1:05d}: LearningRateScheduler setting learning rate to {rate}.")

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Write the rate into the logs."""
        if logs is not None:
            logs["learning_rate"] = learning_rate_of(self.model)


def _takes_two(schedule: Callable[..., object]) -> bool:
    """Return whether a function can be called with the epoch and the rate."""
    try:
        inspect.signature(schedule).bind(0, 0.0)
    except TypeError:
        return False
    except ValueError:  # written in C, without a signature
        return True
    return True


def _number(rate: object) -> float:
    if isinstance(rate, (str, bool)) or getattr(rate, "shape", ()) != () or not hasattr(rate, "__float__"):
        raise ValueError(f"schedule: expected it to return a number. Received: {describe(rate)}")
    return float(rate)


class ReduceLROnPlateau(Callback):
    """Multiplies the learning rate by a factor when a monitored value has stopped improving.

    The rates of all parameter groups are multiplied. Writes `learning_rate`, the rate of the epoch, into the logs.

    Args:
        monitor: The name in the logs to monitor.
        factor: The factor, less than 1: the new rate is `rate * factor`.
        patience: Epochs without improvement before the rate is reduced.
        verbose: 1 prints when the rate is reduced.
        mode: `"min"`, `"max"`, or `"auto"`, which uses the mode of the metric.
        min_delta: The smallest change that counts as an improvement.
        cooldown: The number of epochs after a reduction during which patience is not counted.
        min_lr: The lower bound of the rate.

    Raises:
        ValueError: If `factor` is not below 1; before the first epoch, if `monitor` cannot occur.
        TypeError: Before the first epoch, if the optimizer has a learning-rate schedule.

    >>> plateau = ReduceLROnPlateau(monitor="val_loss", factor=0.2, patience=5, min_lr=0.001)
    """

    written_logs = ("learning_rate",)

    best: float | None
    wait: int
    cooldown_counter: int

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        verbose: int = 0,
        mode: str = "auto",
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
        **kwargs: Any,
    ) -> None:
        if not factor < 1:
            raise ValueError(f"factor: expected a number below 1. Received: {describe(factor)}")
        if "epsilon" in kwargs:
            warnings.warn("epsilon is called min_delta now.", DeprecationWarning, stacklevel=2)
            min_delta = kwargs.pop("epsilon")
        no_unknown("ReduceLROnPlateau", ReduceLROnPlateau.__init__, kwargs)
        self.monitor = monitor
        self.factor = factor
        self.patience = validation.integer("patience", patience, min_value=0)
        self.verbose = verbose
        self.mode = mode
        self.min_delta = min_delta
        self.cooldown = validation.integer("cooldown", cooldown, min_value=0)
        self.min_lr = min_lr
        self._monitor = Monitor(type(self).__name__, monitor, mode, min_delta)
        self._reset()

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Reset, and raise ValueError if `monitor` cannot occur."""
        require_settable_rate(type(self).__name__, self.model)
        self._monitor.check(self.model, self.params)
        self._reset()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Compare the epoch with the best one, and reduce the rate once patience is exhausted."""
        logs = {} if logs is None else logs
        logs["learning_rate"] = learning_rate_of(self.model)
        value = self._monitor.read(self.model, self.params, logs)
        if value is None:
            return
        if self.in_cooldown():
            self.cooldown_counter -= 1
            self.wait = 0
        if self._monitor.is_improvement(value, self.best):
            self.best = value
            self.wait = 0
        elif not self.in_cooldown():
            self.wait += 1
            if self.wait >= self.patience:
                self._reduce(epoch)

    def in_cooldown(self) -> bool:
        """Return whether the last reduction is less than `cooldown` epochs ago."""
        return self.cooldown_counter > 0

    def state_dict(self) -> StateDict:
        """Return the best value, patience and cooldown."""
        return {"best": self.best, "wait": self.wait, "cooldown_counter": self.cooldown_counter}

    def load_state_dict(self, state: StateDict) -> None:
        """Restore the best value, patience and cooldown."""
        self.best, self.wait = state["best"], state["wait"]
        self.cooldown_counter = state["cooldown_counter"]

    def _reset(self) -> None:
        self.best = None
        self.wait = 0
        self.cooldown_counter = 0

    def _reduce(self, epoch: int) -> None:
        rates = learning_rates_of(self.model)
        # Rates are float32: 0.1 * 0.1 must not count as larger than a min_lr of 0.01.
        reducible = [np.float32(rate) > np.float32(self.min_lr) for rate in rates]
        if not any(reducible):
            return
        reduced = [max(rate * self.factor, self.min_lr) for rate in rates]
        set_learning_rates(self.model, [new if can else rate for can, new, rate in zip(reducible, reduced, rates)])
        if self.verbose > 0:
            rate = float(str(np.float32(learning_rate_of(self.model))))
            console.write_line(f"\nEpoch {epoch + 1:05d}: ReduceLROnPlateau reducing learning rate to {rate}.")
        self.cooldown_counter = self.cooldown
        self.wait = 0


class LearningRateMonitor(Callback):
    """Writes the learning rates of the epoch into the logs, for the history and all loggers.

    `learning_rate` is that of the optimizer. With several parameter groups, there is also an entry for each of them,
    such as `learning_rate_0`, or `learning_rate_head` for a group with the key `"name"`.

    >>> import torch, torchfit
    >>> net = torch.nn.Linear(2, 1)
    >>> groups = [{"params": [net.weight], "lr": 0.1}, {"params": [net.bias], "lr": 0.2, "name": "bias"}]
    >>> model = torchfit.Model(net)
    >>> model.compile(torch.optim.SGD(groups), "mse")
    >>> history = model.fit(torch.ones(4, 2), torch.ones(4, 1), verbose=0, callbacks=[LearningRateMonitor()])
    >>> {name: round(value, 6) for name, (value,) in history.history.items() if name != "loss"}
    {'learning_rate': 0.1, 'learning_rate_0': 0.1, 'learning_rate_bias': 0.2}
    """

    written_logs = ("learning_rate",)
    runs_first = ("on_epoch_end",)  # before schedulers set the rates of the next epoch

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Write the rates into the logs."""
        if logs is None:
            return
        logs["learning_rate"] = learning_rate_of(self.model)
        rates = learning_rates_of(self.model)
        if len(rates) > 1:
            logs.update(zip(learning_rate_names(self.model), rates))


class TorchLRScheduler(Callback):
    """Steps a scheduler of `torch.optim.lr_scheduler` after every epoch, or after every batch.

    Args:
        scheduler: A scheduler of the `torch.optim` optimizer that the model was compiled with; or a callable that
            creates one for an optimizer, which works with every optimizer of the model:
            `lambda optimizer: StepLR(optimizer, 10)`. With torchfit's own optimizers only the learning rate is set,
            not the momentum that `OneCycleLR` and `CyclicLR` would cycle. Schedulers of timm are passed the number of
            completed epochs or batches.
        interval: `"epoch"` or `"batch"`: when to step. Epoch steps come after validation.
        monitor: The name in the logs whose value is passed to schedulers that need one (torch's
            `ReduceLROnPlateau`). With `interval="batch"` it is read at every step, which synchronizes with the device.

    Writes `learning_rate`, the rate of the epoch, into the logs.

    Raises:
        ValueError: If `interval` is invalid; before the first epoch, if `monitor` cannot occur, or if the scheduler
            belongs to another optimizer than that of the model.
        TypeError: If `scheduler` is neither a scheduler nor callable; before the first epoch, if the optimizer has a
            learning-rate schedule.

    >>> from torch.optim.lr_scheduler import StepLR
    >>> halving = TorchLRScheduler(lambda optimizer: StepLR(optimizer, step_size=10, gamma=0.5))
    """

    written_logs = ("learning_rate",)
    reads_logs_synchronously = True

    def __init__(self, scheduler: Any, interval: str = "epoch", monitor: str = "val_loss") -> None:
        if interval not in ("epoch", "batch"):
            raise ValueError(f"interval: expected 'epoch' or 'batch'. Received: {describe(interval)}")
        is_created = hasattr(scheduler, "step") and not isinstance(scheduler, type)
        if not is_created and not callable(scheduler):
            raise TypeError(
                "scheduler: expected a scheduler of torch.optim.lr_scheduler, or a callable that creates one for an "
                f"optimizer. Received: {describe(scheduler)}"
            )
        self.interval = interval
        self.monitor = monitor
        self._create: Callable[[Any], Any] | None = None if is_created else scheduler
        self.scheduler: Any = scheduler if is_created else None
        self._last_batch = -1
        self._num_batches = 0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Create the scheduler for the optimizer of the model, unless one was given."""
        require_settable_rate(type(self).__name__, self.model)
        own = getattr(built_optimizer(self.model), "optimizer", None)
        if self._create is not None:
            self.scheduler = self._create(own or _placeholder_optimizer(learning_rate_of(self.model)))
        elif self.scheduler.optimizer is not own:
            raise ValueError(
                "scheduler: it belongs to another optimizer than the one that the model was compiled with. "
                "Pass a callable instead, such as lambda optimizer: StepLR(optimizer, 10)."
            )
        self._check_groups()
        self._uses_placeholder = self.scheduler.optimizer is not own
        if self._uses_placeholder:
            self.scheduler.optimizer.step()  # changes nothing; without it schedulers warn
        self._copy_rate()
        self._num_batches = 0
        self._monitor = Monitor(type(self).__name__, self.monitor, "min")
        self._call = self._choose_call()
        if self._needs_value:
            self._monitor.check(self.model, self.params)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Restart the count of batches."""
        self._last_batch = -1

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Step once for each batch since the last call, if `interval` is "batch"."""
        if self.interval == "batch":
            for _ in range(batch - self._last_batch):
                self._num_batches += 1
                self._step(self._num_batches, logs)
            self._last_batch = batch

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Write the rate of the epoch into the logs, and step, if `interval` is "epoch"."""
        logs = {} if logs is None else logs
        logs["learning_rate"] = learning_rate_of(self.model)
        if self.interval == "epoch":
            self._step(epoch + 1, logs)

    def state_dict(self) -> StateDict:
        """Return the scheduler's state and the learning rates of its optimizer."""
        rates = [group["lr"] for group in self.scheduler.optimizer.param_groups]
        return {
            "scheduler": self.scheduler.state_dict(),
            "rates": rates,
            "last_batch": self._last_batch,
            "num_batches": self._num_batches,
        }

    def load_state_dict(self, state: StateDict) -> None:
        """Continue the schedule."""
        self.scheduler.load_state_dict(state["scheduler"])
        for group, rate in zip(self.scheduler.optimizer.param_groups, state["rates"]):
            group["lr"] = rate
        self._last_batch, self._num_batches = state["last_batch"], state.get("num_batches", 0)
        self._copy_rate()

    def __getstate__(self) -> StateDict:
        """Omit a scheduler that `on_train_begin` created from copies and pickles."""
        return {**super().__getstate__(), "scheduler": self.scheduler if self._create is None else None, "_call": None}

    def _check_groups(self) -> None:
        groups, rates = self.scheduler.optimizer.param_groups, getattr(self.scheduler, "base_lrs", None)
        if rates is not None and len(rates) != len(groups):
            raise ValueError(
                f"scheduler: it was created for {len(rates)} parameter groups, but the optimizer has {len(groups)} "
                "now. Pass a callable instead, such as lambda optimizer: StepLR(optimizer, 10)."
            )

    def _choose_call(self) -> Callable[[int, float | None], object]:
        """Return a function that steps the scheduler, given the number of completed epochs or batches and the value."""
        step = self.scheduler.step
        parameters = inspect.signature(step).parameters
        self._needs_value = "metrics" in parameters
        if self._needs_value:
            return lambda count, value: step(value)
        epoch = parameters.get("epoch")
        if epoch is None or epoch.default is not inspect.Parameter.empty:
            return lambda count, value: step()
        # A scheduler of timm: it counts either epochs, in `step`, or updates, in `step_update`.
        self._needs_value = isinstance(getattr(self.scheduler, "lr_scheduler", None), lr_scheduler.ReduceLROnPlateau)
        counts_epochs = getattr(self.scheduler, "t_in_epochs", self.interval == "epoch")
        if counts_epochs != (self.interval == "epoch"):
            interval = "epoch" if counts_epochs else "batch"
            raise ValueError(
                f"TorchLRScheduler: {describe(self.scheduler)} counts {'epochs' if counts_epochs else 'updates'}. "
                f"Pass interval={interval!r}."
            )
        call = step if self.interval == "epoch" else self.scheduler.step_update
        return lambda count, value: call(count) if value is None else call(count, metric=value)

    def _step(self, count: int, logs: Logs | None) -> None:
        value = self._monitor.read(self.model, self.params, logs or {}) if self._needs_value else None
        if value is not None or not self._needs_value:
            self._call(count, value)
        self._copy_rate()

    def _copy_rate(self) -> None:
        """Copy the rate from the placeholder to the optimizer of the model."""
        if self._uses_placeholder:
            self.model.optimizer.learning_rate = float(self.scheduler.optimizer.param_groups[0]["lr"])

    def unneeded_hooks(self) -> Collection[str]:
        """Return the hook of batches, if `interval` is "epoch"."""
        return ("on_train_batch_end",) if self.interval == "epoch" else ()


def _placeholder_optimizer(learning_rate: float) -> torch.optim.Optimizer:
    """Return a torch optimizer that only holds a learning rate, for a scheduler to set."""
    # OneCycleLR and CyclicLR need a momentum to cycle.
    return torch.optim.SGD([torch.zeros(0, requires_grad=True)], lr=learning_rate, momentum=0.9)
