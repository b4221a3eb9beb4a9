"""LearningRateScheduler: set the learning rate of every epoch."""

import inspect
from collections.abc import Callable

from torchfit._types import Logs
from torchfit._utils import console
from torchfit._utils.errors import describe
from torchfit.callbacks._learning_rate import learning_rate_of, require_settable_rate
from torchfit.callbacks.base import Callback


class LearningRateScheduler(Callback):
    """Set the learning rate at the start of every epoch, and write it into the logs as `learning_rate`.

    With several parameter groups, `schedule` sees and sets the rate of the first group whose rate is not 0; the
    others are scaled by the same factor. Groups at 0 stay at 0.

    Args:
        schedule: a function of the epoch (from 0) and the current rate, or of the epoch alone, that returns
            the new rate: a number, or an array or tensor without dimensions.
        verbose: 1 prints the rate.

    Raises:
        ValueError: if `schedule` does not return a number.
        TypeError: before the first epoch, if a schedule of the optimizer sets the rate.

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
