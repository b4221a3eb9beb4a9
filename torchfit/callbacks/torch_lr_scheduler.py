"""TorchLRScheduler: the schedulers of torch.optim.lr_scheduler as a callback."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch

from torchfit._utils.errors import describe
from torchfit.callbacks._monitor import Watch
from torchfit.callbacks._rate import optimizer_of, rate_of
from torchfit.callbacks.base import Callback


class TorchLRScheduler(Callback):
    """Step a scheduler of `torch.optim.lr_scheduler` after every epoch, or after every batch.

    Args:
        scheduler: a scheduler, made on the `torch.optim` optimizer that the model was compiled with; or a
            callable that makes one on an optimizer, which works with every optimizer of the model:
            `lambda optimizer: StepLR(optimizer, 10)`. On torchfit's own optimizers it drives the learning
            rate alone: the momentum that `OneCycleLR` and `CyclicLR` would cycle stays as it is.
        interval: `"epoch"` or `"batch"`: when to step. Epoch steps come after validation.
        monitor: name in the logs, handed to a scheduler that steps on a value (torch's `ReduceLROnPlateau`).
            With `interval="batch"` it is read at every step, which waits for the device.

    Writes `learning_rate`, the rate of the epoch that ended, into its logs.

    Raises:
        ValueError: for another `interval`; before the first epoch, if `monitor` cannot occur, or if the
            scheduler was made on another optimizer than the model's.
        TypeError: for something that is neither a scheduler nor callable.

    >>> from torch.optim.lr_scheduler import StepLR
    >>> halving = TorchLRScheduler(lambda optimizer: StepLR(optimizer, step_size=10, gamma=0.5))
    """

    _is_builtin = True
    _reads_logs_at_once = True
    _written_logs = ("learning_rate",)

    def __init__(self, scheduler: Any, interval: str = "epoch", monitor: str = "val_loss") -> None:
        if interval not in ("epoch", "batch"):
            raise ValueError(f"interval: expected 'epoch' or 'batch'. Received: {describe(interval)}")
        is_made = hasattr(scheduler, "step") and not isinstance(scheduler, type)
        if not is_made and not callable(scheduler):
            raise TypeError(
                "scheduler: expected a scheduler of torch.optim.lr_scheduler, or a callable that makes one on an "
                f"optimizer. Received: {describe(scheduler)}"
            )
        self.interval = interval
        self.monitor = monitor
        self._make: Callable[[Any], Any] | None = None if is_made else scheduler
        self.scheduler: Any = scheduler if is_made else None
        self._last_batch = -1

    def on_train_begin(self, logs: Any = None) -> None:
        """Make the scheduler on the model's optimizer, unless it is there already."""
        own = getattr(optimizer_of(self.model), "optimizer", None)
        if self._make is not None:
            self.scheduler = self._make(own or _stand_in(rate_of(self.model)))
        elif self.scheduler.optimizer is not own:
            raise ValueError(
                "scheduler: it was made on another optimizer than the one that the model was compiled with. "
                "Pass a callable instead, such as lambda optimizer: StepLR(optimizer, 10)."
            )
        self._drives_stand_in = self.scheduler.optimizer is not own
        if self._drives_stand_in:
            self.scheduler.optimizer.step()  # changes nothing; schedulers warn if it never came
        self._hand_over()
        self._watch = Watch(type(self).__name__, self.monitor, "min")
        self._wants_value = "metrics" in inspect.signature(self.scheduler.step).parameters
        if self._wants_value:
            self._watch.check(self.model, self.params)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Count the epoch's batches from the beginning."""
        self._last_batch = -1

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Step once for each batch since the last call, if batches are the interval."""
        if self.interval == "batch":
            for _ in range(batch - self._last_batch):
                self._step(logs)
            self._last_batch = batch

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Write the epoch's rate into the logs, and step, if epochs are the interval."""
        logs = {} if logs is None else logs
        logs["learning_rate"] = rate_of(self.model)
        if self.interval == "epoch":
            self._step(logs)

    def state_dict(self) -> dict[str, Any]:
        """Return the scheduler's state and the learning rates of its optimizer."""
        rates = [group["lr"] for group in self.scheduler.optimizer.param_groups]
        return {"scheduler": self.scheduler.state_dict(), "rates": rates, "last_batch": self._last_batch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the schedule."""
        self.scheduler.load_state_dict(state["scheduler"])
        for group, rate in zip(self.scheduler.optimizer.param_groups, state["rates"]):
            group["lr"] = rate
        self._last_batch = state["last_batch"]
        self._hand_over()

    def _step(self, logs: Any) -> None:
        if not self._wants_value:
            self.scheduler.step()
        else:
            value = self._watch.read(self.model, self.params, logs)
            if value is not None:
                self.scheduler.step(value)
        self._hand_over()

    def _hand_over(self) -> None:
        """Give the stand-in's rate to the model's optimizer; a shared optimizer has it already."""
        if self._drives_stand_in:
            self.model.optimizer.learning_rate = float(self.scheduler.optimizer.param_groups[0]["lr"])

    def _hears(self, event: str) -> bool:
        return event != "on_train_batch_end" or self.interval == "batch"


def _stand_in(learning_rate: float) -> torch.optim.Optimizer:
    """Return a torch optimizer that only holds a rate, for schedulers to write on."""
    # OneCycleLR and CyclicLR ask for a momentum to cycle.
    return torch.optim.SGD([torch.zeros(0, requires_grad=True)], lr=learning_rate, momentum=0.9)
