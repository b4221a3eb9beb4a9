"""Plot the values that a history recorded, over the epochs."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Record = Mapping[str, tuple[Sequence[int], Sequence[float]]]
"""name -> (epochs from 1, values)"""

_COLUMNS = 3
_PANEL = (4.4, 3.3)  # inches


def panel_names(names: Sequence[str]) -> list[str]:
    """Return the names that get a panel each: those without `val_`, in order, the loss first.

    >>> panel_names(["loss", "acc", "val_loss", "val_acc", "val_auc"])
    ['loss', 'acc', 'auc']
    """
    return list(dict.fromkeys(name.removeprefix("val_") for name in names))


def draw_curves(figure: "Figure", record: Record, mode_of: Callable[[str], str | None]) -> None:
    """Draw a panel for each name, training and validation together, and mark the best epoch.

    Args:
        figure: an empty figure of matplotlib.
        record: the values to draw.
        mode_of: returns whether the best value of a name is its "max" or its "min", None if that is unknown.
    """
    names = panel_names(list(record))
    columns = min(_COLUMNS, len(names))
    rows = math.ceil(len(names) / columns)
    figure.set_size_inches(_PANEL[0] * columns, _PANEL[1] * rows)
    engine: Any = figure.get_layout_engine()  # the constrained one
    engine.set(w_pad=0.1, h_pad=0.1)
    for position, name in enumerate(names, 1):
        axes = figure.add_subplot(rows, columns, position)
        _draw_panel(axes, name, record, mode_of(name))


def _draw_panel(axes: "Axes", name: str, record: Record, mode: str | None) -> None:
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
    """Return the epoch with the best value, and the value; None without values or without a mode.

    >>> best_epoch([1, 2, 3], [0.5, 0.2, 0.3], "min")
    (2, 0.2)
    """
    if mode is None:
        return None
    known = [(value, epoch) for epoch, value in zip(epochs, values) if value == value]  # NaN is not itself
    if not known:
        return None
    best = (min if mode == "min" else max)(value for value, _ in known)
    return next((epoch, float(value)) for value, epoch in known if value == best)
