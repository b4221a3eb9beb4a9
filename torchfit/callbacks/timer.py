"""Timer: stop training after a duration."""

import math
from datetime import timedelta
from time import perf_counter
from typing import Any

from torchfit._types import Logs, StateDict
from torchfit._utils import console
from torchfit._utils.errors import describe
from torchfit.callbacks.base import Callback


class Timer(Callback):
    """Measure the time of training, and stop after a duration.

    Training stops with the batch or the epoch in which the time is up; validation and the end of the epoch still
    follow. With `BackupAndRestore`, the time of the interrupted run counts as well.

    Args:
        duration: seconds, a `datetime.timedelta`, or a text: `"MM:SS"`, `"HH:MM:SS"` or `"DD:HH:MM:SS"`. None only
            measures.
        interval: `"batch"` or `"epoch"`: when to check.
        verbose: 1 prints when training is stopped.

    Attributes:
        elapsed: the seconds of training so far.
        remaining: the seconds until training stops, 0 at least; inf without a duration.

    Raises:
        ValueError: if an argument is invalid.

    >>> timer = Timer("12:00:00")
    >>> timer.elapsed, timer.remaining
    (0.0, 43200.0)
    """

    written_logs = ()
    reads_logs_synchronously = True

    def __init__(
        self, duration: float | timedelta | str | None = None, interval: str = "batch", verbose: int = 0
    ) -> None:
        if interval not in ("batch", "epoch"):
            raise ValueError(f"interval: expected 'batch' or 'epoch'. Received: {describe(interval)}")
        self.duration = math.inf if duration is None else _seconds(duration)
        self.interval = interval
        self.verbose = verbose
        self._before = 0.0
        self._started: float | None = None

    @property
    def elapsed(self) -> float:
        """The seconds of training so far."""
        return self._before + (0.0 if self._started is None else perf_counter() - self._started)

    @property
    def remaining(self) -> float:
        """The seconds until training stops."""
        return max(0.0, self.duration - self.elapsed)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Start the clock."""
        self._before, self._started = 0.0, perf_counter()

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Stop if the time is up."""
        self._check()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Stop if the time is up."""
        self._check()

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Stop the clock."""
        self.release_resources()

    def state_dict(self) -> StateDict:
        """Return the time so far."""
        return {"elapsed": self.elapsed}

    def load_state_dict(self, state: StateDict) -> None:
        """Continue from a time."""
        self._before, self._started = state["elapsed"], perf_counter()

    def unneeded_hooks(self) -> tuple[str, ...]:
        """Return the hook of batches, unless they are checked."""
        return ("on_train_batch_end",) if self.interval == "epoch" or self.duration == math.inf else ()

    def release_resources(self) -> None:
        """Stop the clock if training was interrupted."""
        self._before, self._started = self.elapsed, None

    def _check(self) -> None:
        if self.elapsed < self.duration or self.model.stop_training:
            return
        self.model.stop_training = True
        if self.verbose > 0:
            console.write_line(f"\nTimer: training stops after {timedelta(seconds=round(self.elapsed))}.")


def _seconds(duration: Any) -> float:
    if isinstance(duration, timedelta):
        seconds = duration.total_seconds()
    elif isinstance(duration, str):
        seconds = _parse(duration)
    else:
        is_number = isinstance(duration, (int, float)) and not isinstance(duration, bool)
        seconds = float(duration) if is_number else -1.0
    if not seconds > 0:
        raise ValueError(
            "duration: expected a positive number of seconds, a timedelta, or a text such as '01:30:00' (HH:MM:SS). "
            f"Received: {describe(duration)}"
        )
    return seconds


def _parse(text: str) -> float:
    """Return the seconds of a text such as "1:12:30:00", -1 if it is not one.

    >>> _parse("1:12:30:00"), _parse("02:30"), _parse("soon")
    (131400.0, 150.0, -1.0)
    """
    parts = text.split(":")
    if not 2 <= len(parts) <= 4 or not all(part.isdigit() for part in parts):
        return -1.0
    return float(sum(int(part) * factor for part, factor in zip(reversed(parts), (1, 60, 3600, 86400))))
