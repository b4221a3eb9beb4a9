"""A progress bar for custom training loops."""

from collections.abc import Collection, Iterable
from time import perf_counter

from torch import Tensor

from torchfit._types import TensorLike
from torchfit._utils.names import suggest_constructor_keywords
from torchfit._utils.progress_display import Display, Lines, select_display
from torchfit._utils.progress_format import Finished, running_items

Values = Iterable[tuple[str, TensorLike]]


@suggest_constructor_keywords
class Progbar:
    """A progress bar, drawn on a terminal or in a notebook. In a file it writes the finished line only.

    Args:
        target: The number of steps, None if unknown.
        width: The width of the bar in characters.
        verbose: 1 draws a bar, 2 writes the finished line only, 0 nothing.
        interval: The minimum number of seconds between two draws.
        stateful_metrics: Names of values that are shown as they are; others are averaged over the steps.
        unit_name: What a step is called.

    >>> bar = Progbar(target=3, width=10)
    >>> for step, loss in enumerate([3.0, 2.0, 1.0], 1):
    ...     bar.update(step, [("loss", loss)])
    3/3 [==========] - 0s ... - loss: 2.0000
    """

    def __init__(
        self,
        target: int | None,
        width: int = 20,
        verbose: int = 1,
        interval: float = 0.05,
        stateful_metrics: Collection[str] | None = None,
        unit_name: str = "step",
    ) -> None:
        self.target = target
        self.width = width
        self.verbose = verbose
        self.interval = interval
        self.stateful_metrics = set(stateful_metrics or ())
        self.unit_name = unit_name
        self.seen_so_far = 0
        self._sums: dict[str, tuple[TensorLike, int]] = {}
        self._started = perf_counter()
        self._next_draw = self._started
        self._is_finished = False
        self._display: Display = select_display(width) if verbose == 1 else Lines(bar_width=0)

    def update(self, current: int, values: Values | None = None, finalize: bool | None = None) -> None:
        """Show that `current` steps are completed.

        Args:
            current: The number of completed steps.
            values: Pairs of a name and its value in the steps since the last call, a number, an array or tensor
                without dimensions, or a text.
            finalize: Whether this is the last call, which replaces the bar by a line; by default, if `target` steps
                are completed.
        """
        steps = max(current - self.seen_so_far, 1)
        self.seen_so_far = current
        for name, value in values or ():
            self._add(name, value, steps)
        now = perf_counter()
        is_last = self.target is not None and current >= self.target if finalize is None else finalize
        if is_last and not self._is_finished:
            self._finish(now)
        elif not is_last and now >= self._next_draw:
            total = self.target if self.target is None or current <= self.target else None
            elapsed = now - self._started
            items = running_items(current, total, elapsed, elapsed / max(current, 1), self._means(), self.unit_name)
            self._display.show(current, total, items)
            self._next_draw = now + self.interval

    def add(self, n: int, values: Values | None = None) -> None:
        """Show that `n` more steps are completed; `values` as in `update`."""
        self.update(self.seen_so_far + n, values)

    def _add(self, name: str, value: TensorLike, steps: int) -> None:
        if isinstance(value, str) or name in self.stateful_metrics:
            self._sums[name] = (value, 1)
            return
        total, count = self._sums.get(name, (0.0, 0))
        value = value.detach() if isinstance(value, Tensor) else value  # It stays on its device until the bar is drawn.
        self._sums[name] = (total + value * steps, count + steps)

    def _means(self) -> dict[str, TensorLike]:
        sums = self._sums.items()
        return {name: total if isinstance(total, str) else float(total) / count for name, (total, count) in sums}

    def _finish(self, now: float) -> None:
        self._is_finished = True
        if not self.verbose:
            return
        done, elapsed = self.seen_so_far, now - self._started
        total = done if self.target is None else max(self.target, done)
        means = self._means()
        self._display.finish(Finished(done, total, elapsed, elapsed / max(done, 1), means, self.unit_name))
