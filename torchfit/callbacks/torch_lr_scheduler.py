"""TorchLRScheduler: use a scheduler of torch.optim.lr_scheduler as a callback."""

import inspect
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from torchfit._types import Logs, StateDict
from torchfit._utils.errors import describe
from torchfit.callbacks._monitor import Monitor
from torchfit.callbacks.base import Callback
from torchfit.callbacks.learning_rate import built_optimizer, learning_rate_of, require_settable_rate


class TorchLRScheduler(Callback):
    """Step a scheduler of `torch.optim.lr_scheduler` after every epoch, or after every batch.

    Args:
        scheduler: a scheduler of the `torch.optim` optimizer that the model was compiled with; or a callable that
            creates one for an optimizer, which works with every optimizer of the model:
            `lambda optimizer: StepLR(optimizer, 10)`. On torchfit's own optimizers it sets only the learning rate:
            the momentum that `OneCycleLR` and `CyclicLR` would cycle is left alone. Schedulers of timm get the number
            of completed epochs, or of batches.
        interval: `"epoch"` or `"batch"`: when to step. Epoch steps come after validation.
        monitor: name in the logs whose value is passed to schedulers that need one (torch's `ReduceLROnPlateau`).
            With `interval="batch"` it is read at every step, which waits for the device.

    Writes `learning_rate`, the rate of the epoch, into the logs.

    Raises:
        ValueError: for an invalid `interval`; before the first epoch, if `monitor` cannot occur, or if the scheduler
            belongs to another optimizer than that of the model.
        TypeError: for something that is neither a scheduler nor callable; before the first epoch, if a schedule of
            the optimizer sets the rate.

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
        """Leave a scheduler that `on_train_begin` creates out of copies and pickles."""
        return {**super().__getstate__(), "scheduler": self.scheduler if self._create is None else None, "_call": None}

    def _check_groups(self) -> None:
        groups, rates = self.scheduler.optimizer.param_groups, getattr(self.scheduler, "base_lrs", None)
        if rates is not None and len(rates) != len(groups):
            raise ValueError(
                f"scheduler: it was created for {len(rates)} parameter groups, but the optimizer has {len(groups)} "
                "now. Pass a callable instead, such as lambda optimizer: StepLR(optimizer, 10)."
            )

    def _choose_call(self) -> Callable[[int, Any], Any]:
        """Return how to step the scheduler, from the number of completed epochs or batches and the monitored value."""
        step = self.scheduler.step
        parameters = inspect.signature(step).parameters
        self._needs_value = "metrics" in parameters
        if self._needs_value:
            return lambda count, value: step(value)
        epoch = parameters.get("epoch")
        if epoch is None or epoch.default is not inspect.Parameter.empty:
            return lambda count, value: step()
        # A scheduler of timm: it counts either epochs, in `step`, or updates, in `step_update`.
        self._needs_value = isinstance(getattr(self.scheduler, "lr_scheduler", None), ReduceLROnPlateau)
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
    """Return a torch optimizer that only holds a rate, for a scheduler to set."""
    # OneCycleLR and CyclicLR need a momentum to cycle.
    return torch.optim.SGD([torch.zeros(0, requires_grad=True)], lr=learning_rate, momentum=0.9)
