"""Callbacks that set, reduce or log the learning rate, or unfreeze layers with learning rates of their own."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from torch import Tensor, nn
from torch.optim import Optimizer

from torchfit._types import Logs, StateDict
from torchfit._utils import console, validation
from torchfit._utils.errors import describe
from torchfit._utils.modules import has_running_stats, matching_parameters, set_trainable, stays_in_eval
from torchfit._utils.names import no_unknown
from torchfit.callbacks.base import Callback, Monitor

Stage: TypeAlias = "str | Iterable[str] | Mapping[str, float | None]"


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
        TypeError: If a schedule sets it, or there is none.
    """
    require_rate(owner, model.optimizer)
    rate = getattr(model.optimizer, "learning_rate_or_schedule", None)
    if callable(rate):
        raise TypeError(
            f"{owner}: the learning rate of the optimizer is set by a schedule, {describe(rate)}, and cannot be "
            "changed by a callback. Create the optimizer with a number as `learning_rate`, or leave the callback out."
        )


def require_rate(owner: str, optimizer: object) -> None:
    """Check that an optimizer has a learning rate, unless it is a class of torch, which is not known to have one yet.

    Raises:
        TypeError: If the options of an optimizer of torch are others.
    """
    wrapped = getattr(optimizer, "optimizer", None)
    if wrapped is not None and getattr(optimizer, "learning_rate", None) is None:
        options = ", ".join(f"`{name}`" for name in wrapped.param_groups[0] if name != "params")
        raise TypeError(
            f"{owner}: {type(wrapped).__name__} has no learning rate: its parameter groups have no option `lr`, but "
            f"{options}. Leave the callback out, or set options in a callback of your own: "
            "self.model.optimizer.param_groups[0][name] = value."
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
    require_rate("callbacks", optimizer)
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
        self._takes_rate = validation.accepts(schedule, 2)

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

    Raises:
        TypeError: Before the first epoch, if the optimizer has no learning rate.
    """

    written_logs = ("learning_rate",)
    runs_first = ("on_epoch_end",)  # before schedulers set the rates of the next epoch

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Raise TypeError if the optimizer has no learning rate."""
        require_rate(type(self).__name__, self.model.optimizer)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Write the rates into the logs."""
        if logs is None:
            return
        logs["learning_rate"] = learning_rate_of(self.model)
        rates = learning_rates_of(self.model)
        if len(rates) > 1:
            logs.update(zip(learning_rate_names(self.model), rates))


class FineTuning(Callback):
    """Unfreezes parts of a model at given epochs, each with its own learning rate: first the head, then the rest.

    Parts that are listed for a later epoch are frozen until then, including the statistics of normalization layers.
    Parts that are not listed are left unchanged. All parameter groups are created at the start, so that schedulers
    scale the rates of frozen parts as well, and an interrupted run can be resumed.

    Args:
        schedule: A mapping from epochs, counted from 0, to the parts that are trained from that epoch on: a name, a
            list of names, or a mapping from names to learning rates, which require an optimizer of `torch.optim`. A
            name is that of a submodule or parameter, or a pattern, as in `utils.freeze`.
        verbose: 1 prints what is unfrozen.

    Raises:
        ValueError: If the schedule is invalid; before the first epoch, if a name matches nothing, or two epochs list
            the same parameter.
        TypeError: Before the first epoch, if rates are given for an optimizer of torchfit.

    >>> import torch, torchfit
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    >>> model = torchfit.Model(net)
    >>> model.compile(torch.optim.SGD(net.parameters(), lr=0.1), "mse")
    >>> tuning = FineTuning({1: {"0": 0.01}}, verbose=1)
    >>> history = model.fit(torch.ones(4, 2), torch.ones(4, 1), epochs=2, verbose=0, callbacks=[tuning])
    Epoch 2: FineTuning unfreezes 0 (2 parameters, learning rate 0.01).
    """

    written_logs = ()
    runs_first = ("on_train_begin", "on_epoch_begin")  # before schedulers are created for the groups

    def __init__(self, schedule: Mapping[int, Stage], verbose: int = 0) -> None:
        self.schedule = schedule
        self.verbose = verbose
        if not isinstance(schedule, Mapping) or not schedule:
            raise ValueError(f"schedule: expected a mapping of epochs to names. Received: {describe(schedule)}")
        self._stages = {_checked_epoch(epoch): _as_rates(stage) for epoch, stage in sorted(schedule.items())}

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Create the parameter groups, and freeze the parts that are not trained from the start."""
        members = self._members()
        for stage in self._stages.values():
            set_trainable(self.model, stage, trained=True)
        optimizer = self.model.optimizer
        self.model.build_optimizer()
        rates = {name: rate for stage in self._stages.values() for name, rate in stage.items() if rate is not None}
        if rates:
            require_rate(type(self).__name__, optimizer)
            self._create_groups(getattr(optimizer, "optimizer", None), rates, members)
        self._apply(0)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Unfreeze the parts that are trained from this epoch on."""
        self._apply(epoch)
        for pattern, rate in self._stages.get(epoch, {}).items() if self.verbose > 0 else ():
            count = len(self._parameters([pattern]))
            has_rate = rate is not None or self.model.optimizer.learning_rate is not None
            at = f", learning rate {learning_rate_of(self.model) if rate is None else rate:g}" if has_rate else ""
            console.write_line(f"Epoch {epoch + 1}: FineTuning unfreezes {pattern} ({count} parameters{at}).")

    def _parameters(self, patterns: Iterable[str]) -> list[tuple[str, Tensor]]:
        chosen = matching_parameters(self.model.module, patterns)
        return [(name, parameter) for name, parameter in self.model.module.named_parameters() if name in chosen]

    def _members(self) -> dict[str, list[tuple[str, Tensor]]]:
        """Return the parameters that belong to each listed name.

        Raises:
            ValueError: If a parameter belongs to two names.
        """
        members: dict[str, list[tuple[str, Tensor]]] = {}
        owners: dict[str, str] = {}
        for pattern in (pattern for stage in self._stages.values() for pattern in stage):
            members[pattern] = self._parameters([pattern])
            for name, _ in members[pattern]:
                if owners.setdefault(name, pattern) != pattern:
                    raise ValueError(f"FineTuning: {name!r} is listed twice: by {owners[name]!r} and by {pattern!r}.")
        return members

    def _apply(self, epoch: int) -> None:
        """Freeze the parts listed for later epochs, and unfreeze the other listed parts."""
        module = self.model.module
        for start, stage in self._stages.items():
            listed = set(map(id, (parameter for _, parameter in self._parameters(stage))))
            set_trainable(self.model, stage, trained=start <= epoch)
            for layer in filter(has_running_stats, module.modules()):
                if listed & set(map(id, layer.parameters(recurse=False))):
                    layer.training = module.training and not stays_in_eval(layer)

    def _create_groups(
        self,
        optimizer: object,
        rates: Mapping[str, float],
        members: Mapping[str, list[tuple[str, Tensor]]],
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                "FineTuning: parts of a model have learning rates of their own with optimizers of torch.optim only. "
                f"Received: {describe(self.model.optimizer)}. Leave the rates out, or compile with one of torch.optim."
            )
        for pattern, rate in rates.items():
            _move_to_group(optimizer, members[pattern], rate, pattern)


def _move_to_group(optimizer: Optimizer, named: list[tuple[str, Tensor]], rate: float, pattern: str) -> None:
    """Move parameters to a new group, with the settings of the group of the first one but another learning rate."""
    groups: list[dict[str, Any]] = optimizer.param_groups
    moved = {id(parameter) for _, parameter in named}
    has_names = any("param_names" in group for group in groups)
    home = next((group for group in groups if moved & set(map(id, group["params"]))), {})
    settings = {key: value for key, value in home.items() if key not in ("params", "param_names", "name", "initial_lr")}
    for group in groups:
        kept = [place for place, parameter in enumerate(group["params"]) if id(parameter) not in moved]
        for key in ("params", "param_names"):
            if key in group:
                group[key] = [group[key][place] for place in kept]
    groups[:] = [group for group in groups if group["params"]]
    params = named if has_names else [parameter for _, parameter in named]
    optimizer.add_param_group({**settings, "params": params, "lr": rate, "name": pattern})


def _checked_epoch(epoch: object) -> int:
    if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 0:
        raise ValueError(f"schedule: expected epochs, from 0. Received: {describe(epoch)}")
    return epoch


def _as_rates(stage: str | Iterable[str] | Mapping[str, float | None]) -> dict[str, float | None]:
    """Return the parts listed for an epoch, as names with their learning rates.

    >>> _as_rates("head"), _as_rates(["a", "b"]), _as_rates({"a": 0.1})
    ({'head': None}, {'a': None, 'b': None}, {'a': 0.1})
    """
    if isinstance(stage, str):
        return {stage: None}
    rates = dict(stage) if isinstance(stage, Mapping) else dict.fromkeys(stage)
    for name, rate in rates.items():
        if not isinstance(name, str) or isinstance(rate, bool) or not (rate is None or float(rate) >= 0):
            received = f"{describe(name)}: {describe(rate)}"
            raise ValueError(f"schedule: expected names and learning rates. Received: {received}")
    return rates
