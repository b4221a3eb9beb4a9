"""ProgbarLogger: the progress bar of `fit`, `evaluate` and `predict`."""

from collections.abc import Mapping
from time import perf_counter
from typing import Any

from torchfit._utils import console
from torchfit._utils.errors import describe
from torchfit.callbacks import _line
from torchfit.callbacks._display import Display, Nowhere, choose
from torchfit.callbacks.base import Callback

_SECONDS_BETWEEN_DRAWS = 0.1


def resolve_verbose(verbose: Any) -> int:
    """Turn the argument `verbose` into 0 (silent), 1 (bar) or 2 (one line per epoch).

    `"auto"` is 1 on a terminal or in a notebook, and 2 elsewhere.

    Raises:
        ValueError: for anything else.

    >>> resolve_verbose(True), resolve_verbose(2)
    (1, 2)
    """
    if isinstance(verbose, str) and verbose == "auto":
        return 1 if console.is_animated() else 2
    if not isinstance(verbose, str) and verbose in (0, 1, 2):
        return int(verbose)
    raise ValueError(
        "verbose: expected 'auto', 0 (silent), 1 (progress bar) or 2 (one line per epoch). "
        f"Received: {describe(verbose)}"
    )


class ProgbarLogger(Callback):
    """Show progress: `verbose` 1 draws a bar, 2 writes one line per epoch. `fit` adds one by itself.

    The bar is drawn at most ten times a second, with tqdm, on a terminal or in a notebook. In a file or a
    pipe, and where the environment sets `TQDM_DISABLE=1`, only finished lines are written, without control
    characters. Between draws a step costs one call, which reads the clock and stores a number; `logs` is
    read only when it is shown.

    The times are Keras': seconds since the epoch began, and seconds per step without the first step.
    """

    _is_builtin = True
    _reads_logs_at_once = True

    verbose: int = 1
    epochs: int = 1
    target: int | None = None
    _in_fit = False
    _display: Display = Nowhere()
    _text = ""

    def set_params(self, params: Mapping[str, Any]) -> None:
        """Take up `verbose`, `epochs` and `steps`."""
        super().set_params(params)
        self.verbose = resolve_verbose(params.get("verbose", 1))
        self.epochs = params.get("epochs") or 1
        self.target = params.get("steps")

    def on_train_begin(self, logs: Any = None) -> None:
        """Remember that evaluations are validations from here on, and part of the epoch's line."""
        self._in_fit = True

    def on_train_end(self, logs: Any = None) -> None:
        """Treat evaluations as such again."""
        self._in_fit = False

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Write the header, if there are several epochs, and start the clock."""
        if self.verbose and self.epochs > 1:
            console.write_line(f"Epoch {epoch + 1}/{self.epochs}")
        self._start()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Count the step, and draw when it is time."""
        self._seen = batch + 1
        if perf_counter() >= self._next_draw:
            self._draw(logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Write the epoch's line."""
        self._finish(logs)

    def on_test_begin(self, logs: Any = None) -> None:
        """Start the clock of an evaluation."""
        if not self._in_fit:
            self._start()

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        """Count the step of an evaluation, and draw when it is time."""
        if not self._in_fit:
            self.on_train_batch_end(batch, logs)

    def on_test_end(self, logs: Any = None) -> None:
        """Write the evaluation's line."""
        if not self._in_fit:
            self._finish(logs)

    def on_predict_begin(self, logs: Any = None) -> None:
        """Start the clock of a prediction."""
        self._start()

    def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
        """Count the step of a prediction; its outputs are not shown."""
        self.on_train_batch_end(batch, {})

    def on_predict_end(self, logs: Any = None) -> None:
        """Write the prediction's line."""
        self._finish({})

    def _start(self) -> None:
        self._seen = 0
        self._started = perf_counter()
        self._first = (self._started, 0)  # time and count after the first step
        self._next_draw = self._started  # the first step comes to _draw, to be timed
        self._text = ""
        self._display.close()
        self._display = choose() if self.verbose == 1 else Nowhere()

    def _draw(self, logs: Any) -> None:
        """Draw the bar; reading `logs` waits for the device."""
        now = perf_counter()
        if self._first[1] == 0:
            self._first = (now, self._seen)
            self._next_draw = self._started + _SECONDS_BETWEEN_DRAWS
            if now < self._next_draw:
                return
        if isinstance(self._display, Nowhere):
            self._next_draw = float("inf")
            return
        self._text = _line.running(self._seen, self._goal(), now - self._started, self._step_seconds(now), logs or {})
        self._display.show(self._seen, self._goal(), self._text)
        self._next_draw = perf_counter() + _SECONDS_BETWEEN_DRAWS

    def _finish(self, logs: Any) -> None:
        """Take the bar away and write the line that stays."""
        self._display.close()
        self._text = ""
        if not self.verbose:
            return
        self.target = self._goal() or self._seen  # the first epoch tells the length of the next ones
        now = perf_counter()
        console.write_line(
            _line.finished(
                self._seen,
                self.target,
                now - self._started,
                self._step_seconds(now),
                logs or {},
                with_bar=self.verbose == 1,
            )
        )

    def _goal(self) -> int | None:
        """Return the number of steps, unless more have come than was said."""
        return self.target if self.target is None or self._seen <= self.target else None

    def _step_seconds(self, now: float) -> float:
        """Return the time of a step, without the first one where others are there."""
        since, before = self._first if self._seen > self._first[1] else (self._started, 0)
        return (now - since) / (self._seen - before) if self._seen else 0.0

    def _hears(self, event: str) -> bool:
        return self.verbose != 0

    def _release(self) -> None:
        """Leave the last drawn state on the screen, where a loop broke off."""
        self._in_fit = False
        self._display.close()
        if self._text:
            console.write_line(_line.count(self._seen, self._goal()) + self._text)
            self._text = ""
