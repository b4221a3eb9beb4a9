"""ReduceLROnPlateau: reduce the learning rate when a monitored value has stopped improving."""

import warnings
from typing import Any

import numpy as np

from torchfit._types import Logs, StateDict
from torchfit._utils import console
from torchfit._utils.errors import describe
from torchfit.callbacks._learning_rate import (
    learning_rate_of,
    learning_rates_of,
    require_settable_rate,
    set_learning_rates,
)
from torchfit.callbacks._monitor import Monitor
from torchfit.callbacks.base import Callback


class ReduceLROnPlateau(Callback):
    """Multiply the learning rate by a factor when a monitored value has stopped improving.

    Every parameter group is reduced from its own rate; groups at 0 stay at 0. Writes `learning_rate`, the rate of the
    epoch, into the logs.

    Args:
        monitor: name in the logs.
        factor: below 1; the new rate is `rate * factor`.
        patience: epochs without improvement before the rate is reduced.
        verbose: 1 prints when the rate is reduced.
        mode: `"min"`, `"max"`, or `"auto"`, which uses the mode of the metric.
        min_delta: the smallest change that counts as an improvement.
        cooldown: epochs after a reduction before patience counts again.
        min_lr: the lower bound of the rate.

    Raises:
        ValueError: if `factor` is not below 1; before the first epoch, if `monitor` cannot occur.
        TypeError: before the first epoch, if a schedule of the optimizer sets the rate.

    >>> plateau = ReduceLROnPlateau(monitor="val_loss", factor=0.2, patience=5, min_lr=0.001)
    """

    written_logs = ("learning_rate",)

    best: Any
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
        if kwargs:
            raise TypeError(f"ReduceLROnPlateau: unknown arguments: {', '.join(kwargs)}")
        self.monitor = monitor
        self.factor = factor
        self.patience = patience
        self.verbose = verbose
        self.mode = mode
        self.min_delta = min_delta
        self.cooldown = cooldown
        self.min_lr = min_lr
        self._monitor = Monitor(type(self).__name__, monitor, mode, min_delta)
        self._reset()

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Reset, and raise ValueError if `monitor` cannot occur."""
        require_settable_rate(type(self).__name__, self.model)
        self._monitor.check(self.model, self.params)
        self._reset()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Compare the epoch with the best one, and reduce the rate once patience is used up."""
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
        # Rates live in float32: 0.1 reduced by 0.1 is no larger than a min_lr of 0.01.
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
