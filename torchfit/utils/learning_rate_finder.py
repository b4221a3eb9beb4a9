"""`lr_find`, which tries many learning rates, from small to large, in one short run."""

import copy
import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from torchfit._types import Results, UserData
from torchfit._utils.errors import describe
from torchfit._utils.names import argument_names, suggest_keywords, way_out
from torchfit._utils.notebook import make_figure, png_html
from torchfit.callbacks import Callback
from torchfit.utils.random_state import preserve_rng_state

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class LRFinderResult:
    """Result of `lr_find`.

    Attributes:
        learning_rates: The learning rates that were tried, from small to large.
        losses: The smoothed loss at each of them.
        suggestion: The learning rate at which the loss fell most steeply, or `None` if it never fell.
    """

    def __init__(self, learning_rates: list[float], losses: list[float]) -> None:
        """Store the learning rates and their losses."""
        self.learning_rates = learning_rates
        self.losses = losses
        self.suggestion = _steepest(learning_rates, losses)

    def plot(self, ax: "Axes | None" = None) -> Any:
        """Draw the loss against the learning rate, with the suggestion marked. Needs matplotlib.

        Args:
            ax: Matplotlib's axes to draw in; by default those of a new figure.

        Returns:
            The figure.
        """
        if ax is None:
            return make_figure(self._draw)
        self._draw_in(ax)
        return ax.figure

    def _draw(self, figure: "Figure") -> None:
        figure.set_size_inches(6, 4)
        self._draw_in(figure.add_subplot())

    def _draw_in(self, axes: "Axes") -> None:
        axes.plot(self.learning_rates, self.losses)
        if self.suggestion is not None:
            loss = self.losses[self.learning_rates.index(self.suggestion)]
            axes.plot([self.suggestion], [loss], "o", label=f"steepest: {self.suggestion:.1e}")
            axes.legend()
        axes.set(xscale="log", xlabel="learning rate", ylabel="loss (smoothed)")
        axes.grid(alpha=0.3)

    def __repr__(self) -> str:
        found = "none" if self.suggestion is None else f"{self.suggestion:.1e}"
        return f"<LRFinderResult: {len(self.learning_rates)} tried, suggestion {found}>"

    def _repr_html_(self) -> str:
        return png_html(self._draw, repr(self))


@suggest_keywords
def lr_find(
    model: Any,
    x: UserData,
    y: UserData = None,
    *,
    start: float = 1e-7,
    end: float = 10.0,
    steps: int = 100,
    smoothing: float = 0.9,
    stop_factor: float = 4.0,
    **fit_arguments: object,
) -> LRFinderResult:
    """Try learning rates from `start` to `end`, one for each batch, and suggest one.

    A copy of the model is trained: weights, optimizer, metrics and random state stay as they are. It costs `steps`
    batches and the memory of a second model.

    Args:
        model: A compiled `Model`.
        x: Inputs, as in `fit`; an iterator loses the batches that were taken.
        y: Targets, as in `fit`.
        start: The first learning rate.
        end: The last one.
        steps: How many to try, each a constant factor larger than the one before.
        smoothing: Weight of the past, from 0 to 1, in the running mean of the losses.
        stop_factor: Stop when the loss exceeds that of the smallest learning rates by this factor.
        **fit_arguments: More arguments of `fit`, such as `batch_size`, `sample_weight` or `class_weight`.

    Returns:
        The learning rates and losses, with `suggestion` and `plot()`.

    Raises:
        ValueError: If an argument is out of its range.
        RuntimeError: If the model was not compiled.

    >>> import torch, torchfit
    >>> model = torchfit.Model(torch.nn.Linear(3, 1))
    >>> model.compile("sgd", "mse")
    >>> found = lr_find(model, np.eye(3), np.ones((3, 1)), steps=20)
    >>> found.suggestion is not None
    True
    """
    known = [*argument_names(lr_find), *argument_names(type(model).fit)]
    for name in fit_arguments:
        if name not in known:
            raise TypeError(f"`lr_find` has no argument `{name}`. {way_out(name, known)}")
    if not 0 < start < end:
        raise ValueError(f"`start` must be positive and less than `end`, but they are {start} and {end}.")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 2:
        raise ValueError(f"`steps` must be an integer of at least 2, but it is {describe(steps)}.")
    if not 0 <= smoothing < 1:
        raise ValueError(f"`smoothing` must lie from 0 to less than 1, but it is {describe(smoothing)}.")
    sweep = Sweep(start, end, steps, smoothing, stop_factor)
    arguments = {"epochs": steps, "verbose": 0, **fit_arguments, "callbacks": [sweep]}
    with preserve_rng_state(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Your input ran out of data")
        copy.deepcopy(model).fit(x, y, **arguments)
    return LRFinderResult(sweep.learning_rates, sweep.losses)


class Sweep(Callback):
    """Raises the learning rate from batch to batch, and records the loss of each batch."""

    def __init__(self, start: float, end: float, steps: int, smoothing: float, stop_factor: float) -> None:
        """Increase the learning rate from `start` to `end` over `steps` batches."""
        self._planned = np.geomspace(start, end, steps).tolist()
        self._smoothing, self._stop_factor = smoothing, stop_factor
        self._mean = 0.0
        self.learning_rates: list[float] = []
        self.losses: list[float] = []

    def on_train_batch_begin(self, batch: int, logs: object = None) -> None:
        """Set the learning rate, and reset the mean of the loss."""
        if not self.model.optimizer.built:
            self.model.build_optimizer()
        self.model.optimizer.learning_rate = self._planned[len(self.losses)]
        self.model.reset_metrics()

    def on_train_batch_end(self, batch: int, logs: Results | None = None) -> None:
        """Record the loss; stop after the last learning rate or when the loss diverges."""
        loss = float((logs or {})["loss"])
        self._mean = self._smoothing * self._mean + (1 - self._smoothing) * loss
        smooth = self._mean / (1 - self._smoothing ** (len(self.losses) + 1))
        beginning = self.losses[: max(1, len(self._planned) // 10)] or [smooth]
        limit = max(beginning) + (self._stop_factor - 1) * max(map(abs, beginning))
        diverged = not math.isfinite(smooth) or smooth > limit
        if math.isfinite(smooth):
            self.learning_rates.append(self._planned[len(self.losses)])
            self.losses.append(smooth)
        self.model.stop_training = diverged or len(self.losses) == len(self._planned)


def _steepest(learning_rates: list[float], losses: list[float]) -> float | None:
    """Return where the loss falls most over the logarithm of the learning rate, before its lowest point.

    Slopes are taken over a tenth of the points. The first tenth is skipped, because a mean of few losses is noisy.
    """
    width = max(1, len(losses) // 20)
    lowest = int(np.argmin(losses)) if losses else 0
    places = range(2 * width, lowest + 1 - width)
    if not places:
        return None
    falls = [losses[place - width] - losses[place + width] for place in places]
    best = int(np.argmax(falls))
    return learning_rates[places[best]] if falls[best] > 0 else None
