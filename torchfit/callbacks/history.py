"""`History`, the record of a training run, and its plot."""

import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

from torchfit._types import Logs, StateDict
from torchfit._utils import notebook
from torchfit._utils.names import did_you_mean
from torchfit.callbacks.base import Callback, mode_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

Curves = Mapping[str, tuple[Sequence[int], Sequence[float]]]
"""A mapping from names to (epochs counted from 1, values)."""

_COLUMNS = 3
_PANEL = (4.4, 3.3)  # inches


def panel_names(names: Sequence[str]) -> list[str]:
    """Return the names that have a panel: those without `val_`, in order, with the loss first.

    >>> panel_names(["loss", "acc", "val_loss", "val_acc", "val_auc"])
    ['loss', 'acc', 'auc']
    """
    return list(dict.fromkeys(name.removeprefix("val_") for name in names))


def draw_curves(figure: "Figure", record: Curves, mode_of: Callable[[str], str | None]) -> None:
    """Draw a panel for each name, training and validation together, and mark the best epoch.

    Args:
        figure: An empty matplotlib figure.
        record: The values to draw.
        mode_of: A function that returns whether "max" or "min" is better for a name, or None if that is unknown.
    """
    names = panel_names(list(record))
    columns = min(_COLUMNS, len(names))
    rows = math.ceil(len(names) / columns)
    figure.set_size_inches(_PANEL[0] * columns, _PANEL[1] * rows)
    engine: Any = figure.get_layout_engine()  # the constrained layout
    engine.set(w_pad=0.1, h_pad=0.1)
    for position, name in enumerate(names, 1):
        axes = figure.add_subplot(rows, columns, position)
        _draw_panel(axes, name, record, mode_of(name))


def _draw_panel(axes: "Axes", name: str, record: Curves, mode: str | None) -> None:
    lines = {label: record[key] for label, key in (("training", name), ("validation", f"val_{name}")) if key in record}
    for label, (epochs, values) in lines.items():
        colour = {"training": "C0", "validation": "C1"}[label]
        axes.plot(epochs, values, label=label, color=colour, marker="." if len(values) <= 20 else None)
    label = list(lines)[-1]
    found = best_epoch(*lines[label], mode)
    if found is not None:
        epoch, value = found
        axes.axvline(epoch, color="0.6", linewidth=0.8, linestyle=":")
        axes.plot([epoch], [value], "*", color="C3", markersize=11, label=f"best {label}: {value:.4g}, epoch {epoch}")
    axes.set(xlabel="epoch", ylabel=name.replace("_", " "))
    locator: Any = axes.xaxis.get_major_locator()
    locator.set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


def best_epoch(epochs: Sequence[int], values: Sequence[float], mode: str | None) -> tuple[int, float] | None:
    """Return the epoch with the best value, and the value, or None without values or a mode.

    >>> best_epoch([1, 2, 3], [0.5, 0.2, 0.3], "min")
    (2, 0.2)
    """
    if mode is None:
        return None
    known = [(value, epoch) for epoch, value in zip(epochs, values) if value == value]  # not NaN
    if not known:
        return None
    best = (min if mode == "min" else max)(value for value, _ in known)
    return next((epoch, float(value)) for value, epoch in known if value == best)


Record: TypeAlias = "dict[str, Any]"
"""A part of a history: `history`, the list `epoch`, and `recorded_at`, the epochs of each value."""


def _no_model() -> None:
    return None


class History(Callback):
    """Records the logs of every epoch. `fit` adds one after all other callbacks, and returns it.

    Attributes:
        history: A mapping from names to lists of floats, with one value per epoch whose logs have the name.
        epoch: The epochs' indices, from 0 (or from `initial_epoch`).
        timing: name -> list, one per epoch, of the seconds spent on `data` (waiting for batches), `step`,
            `callbacks`, `validation` and `compile`, of their `total`, of the `peak_memory` in bytes, and of the
            seconds of compilers in other processes (`background_compile`, with `jit_compile="auto"`).

    >>> history = History()
    >>> history.on_train_begin()
    >>> history.on_epoch_end(0, {"loss": 0.5})
    >>> history.on_epoch_end(1, {"loss": 0.25})
    >>> history.history, history.epoch
    ({'loss': [0.5, 0.25]}, [0, 1])
    """

    written_logs = ()

    # Set by BackupAndRestore, which stores early epochs in separate files, while a state is taken or loaded.
    stored_lengths: Mapping[str, int] = MappingProxyType({})
    stored_records: Sequence[Record] = ()

    _get_model: Callable[[], object] = staticmethod(_no_model)
    _modes: Mapping[str, str | None] = MappingProxyType({})
    _not_copied = ("training_state", "_get_model")

    def __init__(self) -> None:
        self.history: dict[str, list[Any]] = {}
        self.epoch: list[int] = []
        self._recorded_at: dict[str, list[int]] = {}
        self.timing: dict[str, list[float]] = {}

    @property
    def model(self) -> Any:
        """The model, or `None` if it no longer exists. The reference is weak: the model refers to its history."""
        return self._get_model()

    @model.setter
    def model(self, model: object) -> None:
        self._get_model = _no_model if model is None else weakref.ref(model)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Start a new list of epochs. An object used twice keeps appending values, as in Keras."""
        self.epoch = []

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Append the epoch's values."""
        self.epoch.append(epoch)
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(value)
            self._recorded_at.setdefault(name, []).append(epoch)
        if self.model is not None:
            self.model.history = self

    def to_frame(self) -> "DataFrame":
        """Return the values as a pandas `DataFrame`: a row for each epoch, a column for each name.

        Epochs count from 1, as in the plot and the progress bar. Values that an epoch does not have, such as those of
        validation with `validation_freq`, are NaN.

        >>> history = History()
        >>> history.on_epoch_end(0, {"loss": 0.5})
        >>> history.on_epoch_end(1, {"loss": 0.25, "val_loss": 0.75})
        >>> history.to_frame()
               loss  val_loss
        epoch
        1      0.50       NaN
        2      0.25      0.75
        """
        pandas = import_module("pandas")
        columns = {name: dict(zip(*record)) for name, record in self._record().items()}
        epochs = sorted({epoch for column in columns.values() for epoch in column})
        rows = {name: [column.get(epoch, float("nan")) for epoch in epochs] for name, column in columns.items()}
        frame: DataFrame = pandas.DataFrame(rows, index=pandas.Index(epochs, name="epoch"))
        return frame

    def plot(self, *names: str) -> "Figure":
        """Plot each value over the epochs, training and validation together, and mark the best epoch.

        Needs matplotlib (`pip install matplotlib`), which is imported here. Epochs count from 1. The best epoch
        is the one with the best validation value, or training value if there is no validation.

        Args:
            *names: The values to plot, such as `"loss"`, without `val_`; all by default.

        Returns:
            The matplotlib figure: `history.plot().savefig("curves.png")`.

        Raises:
            ImportError: If matplotlib is not installed.
            ValueError: If there is nothing to plot, or a name was not recorded.
        """
        record = self._record()
        known = panel_names(list(record))
        if not known:
            raise ValueError("There is nothing to plot yet: no epoch was recorded.")
        for name in names:
            if name not in known:
                raise ValueError(f"{name!r} was not recorded. {did_you_mean(name, known)}")
        if names:
            record = {key: values for key, values in record.items() if key.removeprefix("val_") in names}
        return notebook.make_figure(lambda figure: self._draw(figure, record))

    def _draw(self, figure: "Figure", record: Curves) -> None:
        draw_curves(figure, record, self._mode_of)

    def _mode_of(self, name: str) -> str | None:
        return self._modes.get(name) if self.model is None and name in self._modes else mode_of(self.model, name)

    def __getstate__(self) -> StateDict:
        """Omit the model from copies and pickles, but keep which values are better."""
        return {**super().__getstate__(), "_modes": {name: self._mode_of(name) for name in self.history}}

    def _record(self) -> dict[str, tuple[list[int], list[float]]]:
        """Return epochs, counted from 1, and numbers for each name."""
        found = {}
        for name, values in self.history.items():
            epochs: Sequence[int] = self._recorded_at.get(name, [])
            epochs = epochs if len(epochs) == len(values) else range(len(values))
            if all(isinstance(value, (int, float)) for value in values):
                found[name] = [epoch + 1 for epoch in epochs], values
        return found

    def _repr_html_(self) -> str:
        """Show the curves, and a table of the last and the best values, in notebooks."""
        record = self._record()
        if not record:
            return "<p>History without epochs</p>"
        image = notebook.png_html(lambda figure: self._draw(figure, record), "Training curves")
        rows = []
        for name, (epochs, values) in record.items():
            best = best_epoch(epochs, values, self._mode_of(name))
            shown = ("–", "–") if best is None else (f"{best[1]:.4g}", str(best[0]))
            rows.append((name, f"{values[-1]:.4g}", *shown))
        return image + notebook.table_html(("", "last", "best", "in epoch"), rows)

    def state_dict(self) -> StateDict:
        """Return the record so far, without the epochs stored elsewhere (`stored_lengths`)."""
        return self.record(self.stored_lengths)

    def load_state_dict(self, state: StateDict) -> None:
        """Restore a record, after the epochs stored elsewhere (`stored_records`)."""
        self.history, self.epoch, self._recorded_at = {}, [], {}
        for record in [*self.stored_records, state]:
            self.epoch += record["epoch"]
            for lists, part in ((self.history, "history"), (self._recorded_at, "recorded_at")):
                for name, values in record.get(part, {}).items():
                    lists.setdefault(name, []).extend(values)

    def record(self, start: Mapping[str, int]) -> Record:
        """Return the values from the start positions on, which are given by name."""
        return {
            "history": {name: values[start.get(name, 0) :] for name, values in self.history.items()},
            "epoch": self.epoch[start.get("", 0) :],
            "recorded_at": {name: epochs[start.get(name, 0) :] for name, epochs in self._recorded_at.items()},
        }

    def lengths(self) -> dict[str, int]:
        """Return the number of values by name, and the number of epochs under the key `""`."""
        return {"": len(self.epoch), **{name: len(values) for name, values in self.history.items()}}
