"""`ProgbarLogger`, the progress bar of `fit`, `evaluate` and `predict`."""

import operator
from collections.abc import Collection
from contextlib import suppress
from time import perf_counter
from typing import Any

from torchfit._types import Logs, Params
from torchfit._utils import console
from torchfit._utils.errors import describe
from torchfit._utils.progress_display import Display, Lines, select_display
from torchfit._utils.progress_format import Finished, format_count, running_items
from torchfit.callbacks.base import HOOKS, Callback

_SECONDS_BETWEEN_DRAWS = 0.1


def resolve_verbose(verbose: Any) -> int:
    """Return the argument `verbose` as 0 (silent), 1 (bar) or 2 (one line per epoch).

    `"auto"` is 1 on a terminal or in a notebook, and 2 elsewhere.

    Raises:
        ValueError: For anything else.

    >>> resolve_verbose(True), resolve_verbose(2)
    (1, 2)
    """
    if isinstance(verbose, str) and verbose == "auto":
        return 1 if console.is_animated() else 2
    with suppress(TypeError):
        if (number := operator.index(verbose)) in (0, 1, 2):
            return number
    raise ValueError(
        "verbose: expected 'auto', 0 (silent), 1 (progress bar) or 2 (one line per epoch). "
        f"Received: {describe(verbose)}"
    )


class ProgbarLogger(Callback):
    """Shows progress: with `verbose=1` a bar, with `verbose=2` one line per epoch. `fit` adds one.

    The bar is drawn with tqdm at most ten times a second, on a terminal or in a notebook. In files and pipes, and if
    the environment variable `TQDM_DISABLE` is 1, only finished lines are written, without control characters.
    Between draws a step costs one call, which reads the clock and stores a number; `logs` is read only for drawing.
    The line of an epoch is written after the hooks of other callbacks, and shows what they add to the logs.

    Times are defined as in Keras: seconds since the start of the epoch, and seconds per step without the first step.
    """

    is_writer = True
    written_logs = ()
    reads_logs_synchronously = True
    runs_last = ("on_epoch_end", "on_test_end")  # the line shows what other callbacks add to the logs

    verbose: int = 1
    epochs: int = 1
    target: int | None = None
    _in_fit = False
    _not_copied = ("training_state", "_display")
    _display: Display = Lines()
    _text = ""
    _completed = 0
    _next_draw = float("inf")

    def set_params(self, params: Params) -> None:
        """Receive `verbose`, `epochs` and `steps`."""
        super().set_params(params)
        self.verbose = resolve_verbose(params.get("verbose", 1))
        self.epochs = params.get("epochs") or 1
        self.target = params.get("steps")

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """From now on, treat evaluations as validations, whose results are part of the line of the epoch."""
        self._in_fit = True
        self._display = self._new_display()

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Show evaluations on lines of their own again."""
        self._in_fit = False
        self._display.close()

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Print the number of the epoch, if there are several, and start the clock."""
        if not self._in_fit:
            self._display = self._new_display()
        if self.verbose and self.epochs > 1:
            self._display.begin_epoch(epoch, self.epochs)
        self._start()

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Count the step, and draw if it is time."""
        self._completed = batch + 1
        if perf_counter() >= self._next_draw:
            self._draw(logs)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Print the line of the epoch."""
        self._finish(logs, epoch)

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Start the clock of an evaluation."""
        if not self._in_fit:
            self._display = self._new_display()
            self._start()

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Count the step of an evaluation, and draw if it is time."""
        if not self._in_fit:
            self.on_train_batch_end(batch, logs)

    def on_test_end(self, logs: Logs | None = None) -> None:
        """Print the line of the evaluation."""
        if not self._in_fit:
            self._finish(logs)

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        """Start the clock of a prediction."""
        self._display = self._new_display()
        self._start()

    def on_predict_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Count the step of a prediction; its outputs are not shown."""
        self.on_train_batch_end(batch, {})

    def on_predict_end(self, logs: Logs | None = None) -> None:
        """Print the line of the prediction."""
        self._finish({})

    def _start(self) -> None:
        self._completed = 0
        self._started = perf_counter()
        self._after_first_step = (self._started, 0)  # time and count after the first step
        self._next_draw = self._started  # so that the first step reaches _draw, which times it
        self._text = ""

    def _new_display(self) -> Display:
        self._display.close()
        return select_display() if self.verbose == 1 else Lines(bar_width=0)

    def _draw(self, logs: Logs | None) -> None:
        """Draw the bar. Reading `logs` waits for the device."""
        now = perf_counter()
        if self._after_first_step[1] == 0:
            self._after_first_step = (now, self._completed)
            self._next_draw = self._started + _SECONDS_BETWEEN_DRAWS
            if now < self._next_draw:
                return
        if not self._display.is_animated:
            self._next_draw = float("inf")
            return
        total = self._total_steps()
        items = running_items(self._completed, total, now - self._started, self._step_seconds(now), logs or {})
        self._text = "".join(items)
        self._display.show(self._completed, total, items)
        self._next_draw = perf_counter() + _SECONDS_BETWEEN_DRAWS

    def _finish(self, logs: Logs | None, epoch: int | None = None) -> None:
        """Replace the bar by the final line."""
        self._text = ""
        if not self.verbose:
            return
        self.target = self._total_steps() or self._completed  # the expected length of later epochs
        now = perf_counter()
        elapsed, step = now - self._started, self._step_seconds(now)
        self._display.finish(Finished(self._completed, self.target, elapsed, step, logs or {}), epoch)

    def _total_steps(self) -> int | None:
        """Return the number of steps, or None if unknown or exceeded."""
        return self.target if self.target is None or self._completed <= self.target else None

    def _step_seconds(self, now: float) -> float:
        """Return the mean time of a step in seconds, without the first one if there are others."""
        since, before = self._after_first_step if self._completed > self._after_first_step[1] else (self._started, 0)
        return (now - since) / (self._completed - before) if self._completed else 0.0

    def unneeded_hooks(self) -> Collection[str]:
        """Return all hooks if `verbose` is 0."""
        return () if self.verbose else HOOKS

    def release_resources(self) -> None:
        """If the loop was interrupted, remove the bar and print its last state."""
        self._in_fit = False
        self._display.abandon()
        if self._text:
            console.write_line(format_count(self._completed, self._total_steps()) + self._text)
            self._text = ""
