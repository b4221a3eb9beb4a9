"""Callbacks that stop training: without improvement, at a NaN loss, or after a given time."""

import copy
import math
from datetime import timedelta
from time import perf_counter

from torchfit._types import Array, Logs, Results, StateDict
from torchfit._utils import console, validation
from torchfit._utils.errors import describe
from torchfit.callbacks.base import Callback, Monitor


class EarlyStopping(Callback):
    """Stops training when a monitored value has stopped improving.

    Args:
        monitor: The name in the logs to monitor, such as `"val_loss"`.
        min_delta: The smallest change that counts as an improvement.
        patience: The number of epochs without improvement after which training stops; 0 acts like 1.
        verbose: 1 prints when training stops and which weights are restored.
        mode: `"min"`, `"max"`, or `"auto"`, which uses the mode of the metric.
        baseline: A value to beat: epochs that improve, but not on the baseline, do not reset patience. Once patience is
            exhausted, training stops in the first epoch that does not improve.
        restore_best_weights: Whether to restore the weights of the best epoch when training ends for any reason,
            including an exception, and even if the baseline was never beaten. Costs a copy of the weights to host
            memory at every improvement.
        start_from_epoch: The number of epochs before monitoring starts.

    Attributes:
        wait: The number of epochs since the last improvement.
        best: The best value.
        best_epoch: Index of the best epoch, from 0.
        stopped_epoch: Index of the last epoch, from 0; 0 unless this callback stopped training.
        best_weights: The weights of the best epoch, if they are to be restored.

    Raises:
        ValueError: Before the first epoch if `monitor` cannot occur or its mode is unknown; at the end of an epoch
            if it is missing.

    >>> stopping = EarlyStopping(monitor="val_loss", patience=3)
    """

    written_logs = ()

    wait: int
    best: float | None
    best_epoch: int
    stopped_epoch: int
    best_weights: list[Array] | None

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0,
        patience: int = 0,
        verbose: int = 0,
        mode: str = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
    ) -> None:
        self.monitor = monitor
        self.patience = validation.integer("patience", patience, min_value=0)
        self.verbose = verbose
        self.mode = mode
        self.baseline = baseline
        self.restore_best_weights = restore_best_weights
        self.start_from_epoch = validation.integer("start_from_epoch", start_from_epoch, min_value=0)
        self.min_delta = abs(min_delta)
        self._monitor = Monitor(type(self).__name__, monitor, mode, min_delta)
        self._reset()

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Reset, and raise ValueError if `monitor` cannot occur."""
        self._monitor.check(self.model, self.params)
        self._reset()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Compare the epoch with the best one, and stop once patience is exhausted."""
        if epoch < self.start_from_epoch:
            return
        value = self._monitor.read(self.model, self.params, logs or {})
        if value is None:
            return
        self.wait += 1
        if self._monitor.is_improvement(value, self.best):
            self.best = value
            self._record_best(epoch)
            if self.baseline is None or self._monitor.is_improvement(value, self.baseline):
                self.wait = 0
            return
        if self.restore_best_weights and self.best_weights is None:
            self._record_best(epoch)
        if self.wait >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Print that training was stopped, and restore the best weights."""
        if self.stopped_epoch > 0 and self.verbose > 0:
            console.write_line(f"Epoch {self.stopped_epoch + 1:05d}: early stopping")
        self._restore()

    def get_monitor_value(self, logs: Results | None) -> float | None:
        """Return the monitored value in `logs`, or None."""
        return self._monitor.read(self.model, self.params, logs or {})

    def state_dict(self) -> StateDict:
        """Return patience, best value and best weights."""
        return {
            "wait": self.wait,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "stopped_epoch": self.stopped_epoch,
            "best_weights": self.best_weights,
        }

    def load_state_dict(self, state: StateDict) -> None:
        """Restore patience, best value and best weights."""
        for name in self.state_dict():
            setattr(self, name, state[name])

    def _reset(self) -> None:
        self.wait = 0
        self.best = None
        self.best_epoch = 0
        self.stopped_epoch = 0
        self.best_weights = None
        self._restored = False

    def _record_best(self, epoch: int) -> None:
        self.best_epoch = epoch
        if self.restore_best_weights:
            # The arrays may share memory with the parameters.
            self.best_weights = copy.deepcopy(self.model.get_weights())

    def _restore(self) -> None:
        """Restore the best weights, once."""
        if self.best_weights is None or self._restored:
            return
        self._restored = True
        if self.verbose > 0:
            console.write_line(f"Restoring model weights from the end of the best epoch: {self.best_epoch + 1}.")
        self.model.set_weights(self.best_weights)

    def release_resources(self) -> None:
        """Restore the best weights if training was interrupted."""
        self._restore()


class TerminateOnNaN(Callback):
    """Stops training at the batch after which the loss is NaN or infinite.

    The loss in the logs is the mean over the epoch so far, which stays NaN after a batch with a NaN loss.

    The loss, and with it the other metrics of the step, is read after every step, in one transfer. On the CPU that
    costs a few microseconds; on an accelerator the host waits for each step to finish and cannot prepare the next one
    meanwhile. To check less often, use `on_epoch_end` of a custom callback.

    Args:
        raise_error: Whether to raise a `RuntimeError` instead of stopping.

    Raises:
        RuntimeError: If the loss is NaN or infinite and `raise_error` is set; the message names the batch.
    """

    written_logs = ()
    reads_logs_synchronously = True

    def __init__(self, raise_error: bool = False) -> None:
        self.raise_error = raise_error

    def on_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Check the loss."""
        loss = (logs or {}).get("loss")
        if loss is None or math.isfinite(loss):
            return
        if self.raise_error:
            raise RuntimeError(f"The loss is {loss} at batch {batch}, counted from 0. Training ends.")
        console.write_line(f"Batch {batch}: Invalid loss, terminating training")
        self.model.stop_training = True


class Timer(Callback):
    """Measures the time of training, and stops after a duration.

    Training stops after the batch or the epoch in which the time is up; validation and the end of the epoch still
    follow. With `BackupAndRestore`, the time of the interrupted run is included.

    Args:
        duration: Seconds, a `datetime.timedelta`, or a string `"MM:SS"`, `"HH:MM:SS"` or `"DD:HH:MM:SS"`. With None,
            time is only measured.
        interval: `"batch"` or `"epoch"`: when to check.
        verbose: 1 prints when training is stopped.

    Attributes:
        elapsed: The time spent on training so far, in seconds.
        remaining: The time until training stops, in seconds and at least 0; inf without a duration.

    Raises:
        ValueError: If an argument is invalid.

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
        """The time spent on training so far, in seconds."""
        return self._before + (0.0 if self._started is None else perf_counter() - self._started)

    @property
    def remaining(self) -> float:
        """The time until training stops, in seconds."""
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
        """Return the batch hook, unless time is checked after every batch."""
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


def _seconds(duration: float | timedelta | str) -> float:
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
    """Return the seconds of a string such as "1:12:30:00", or -1 if it cannot be parsed.

    >>> _parse("1:12:30:00"), _parse("02:30"), _parse("soon")
    (131400.0, 150.0, -1.0)
    """
    parts = text.split(":")
    if not 2 <= len(parts) <= 4 or not all(part.isdigit() for part in parts):
        return -1.0
    return float(sum(int(part) * factor for part, factor in zip(reversed(parts), (1, 60, 3600, 86400))))
