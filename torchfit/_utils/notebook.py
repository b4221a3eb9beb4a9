"""Output in notebooks: the progress bar, the table of epochs, and figures."""

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib import import_module
from importlib.util import find_spec
from numbers import Real
from time import perf_counter
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from torchfit._utils.console import in_notebook
from torchfit._utils.progress_format import Finished, format_duration, format_step_time, format_value

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def make_figure(draw: "Callable[[Figure], None]") -> "Figure":
    """Draw on a new figure with `draw(figure)`, and return it.

    In a notebook it is displayed immediately, and only once even if the call is the last expression of a cell;
    elsewhere `matplotlib.pyplot.show()` displays it.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    pyplot = _matplotlib("pyplot")
    figure: Figure = pyplot.figure(layout="constrained")
    draw(figure)
    if in_notebook():
        import_module("IPython.display").display(figure)
        pyplot.close(figure)
        vars(figure)["_ipython_display_"] = lambda: vars(figure).pop("_ipython_display_")
    return figure


def png_html(draw: "Callable[[Figure], None]", text: str) -> str:
    """Return the figure that `draw(figure)` draws as an HTML image, or `text` if matplotlib is not installed."""
    try:
        figure: Figure = _matplotlib("figure").Figure(layout="constrained")
    except ImportError:
        return f"<p>{escape(text)}</p>"
    draw(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{escape(text)}" src="data:image/png;base64,{data}"/>'


def table_html(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Return an HTML table; the first column is left-aligned, the others right-aligned."""
    head = "".join(f"<th{_side(column)}>{escape(cell)}</th>" for column, cell in enumerate(header))
    body = [
        "<tr>" + "".join(f"<td{_side(column)}>{escape(cell)}</td>" for column, cell in enumerate(row)) + "</tr>"
        for row in rows
    ]
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _side(column: int) -> str:
    return f' style="text-align:{"right" if column else "left"}; padding:0.1em 0.7em"'


def _matplotlib(part: str) -> ModuleType:
    try:
        return import_module(f"matplotlib.{part}")
    except ImportError as error:
        raise ImportError("Plots need matplotlib. Type: pip install matplotlib") from error


class Output(Protocol):
    """An output of a cell, as IPython returns it."""

    def update(self, content: object, *, raw: bool) -> None:
        """Replace what is displayed."""


class NotebookBar:
    """A bar in an output of its own, which is emptied on close so that it is not saved with the notebook."""

    def __init__(self) -> None:
        self._output: Output | None = None
        self._label = ""
        self._drawn = (0, 1, "")
        self._widgets: tuple[Any, ...] = ()

    def open(self, label: str) -> None:
        """Write a label in front of the bar, and show an empty bar if there is none yet."""
        self._label = self._text = label
        self._drawn = 0, 1, ""
        if self._output is None:
            self.show(*self._drawn)

    def show(self, completed: int, total: int | None, text: str) -> None:
        """Update the bar, which is full if the total is unknown, and write a text after it."""
        self._drawn = (completed if total else 1, total or 1, text)
        count = f" {completed}/{total or 'Unknown'}" if text else ""
        self._text = f"{self._label}{count}{text}"
        if self._output is None:
            self._open()
        elif not self._widgets:
            self._output.update(_html(*self._drawn[:2], self._text), raw=True)
        if self._widgets:
            bar, label = self._widgets
            bar.max, bar.value, label.value = self._drawn[1], self._drawn[0], self._text

    def close(self) -> None:
        """Remove the bar."""
        output, self._output = self._output, None
        if output is not None:
            output.update({"text/html": "", "text/plain": ""}, raw=True)
        self._close_widgets()

    def abandon(self) -> None:
        """Leave the bar as it is, in red."""
        output, self._output = self._output, None
        if output is not None:
            output.update(_html(*self._drawn[:2], self._text, "accent-color: #d9534f"), raw=True)
        self._close_widgets()

    def _open(self) -> None:
        display = import_module("IPython.display").display
        if find_spec("ipywidgets") is None:
            self._output = display(_html(*self._drawn[:2], self._text), raw=True, display_id=True)
            return
        widgets = import_module("ipywidgets")
        bar, label = widgets.FloatProgress(min=0, max=1, layout={"width": "30%"}), widgets.Label()
        self._widgets = bar, label
        self._output = display(widgets.HBox([bar, label]), display_id=True)

    def _close_widgets(self) -> None:
        for widget in self._widgets:
            widget.close()
        self._widgets = ()


def _html(value: int, total: int, text: str, style: str = "") -> dict[str, str]:
    bar = f'<progress value="{value}" max="{total}" style="width: 30%; {style}"></progress>'
    return {"text/html": f"<div>{bar} {escape(text)}</div>", "text/plain": text}


_SECONDS_BETWEEN_DRAWS = 0.2
_MAX_ROWS_WHILE_RUNNING = 12  # so that the bar below stays visible
_MAX_ROWS = 60
_FIRST_ROWS = 5
_MAX_SECONDS_WITH_TENTHS = 10
_CELL = ' style="text-align:right; padding:0.1em 0.7em"'


class Row(NamedTuple):
    """The results of an epoch: its number, counted from 1, its values and its formatted times."""

    epoch: int
    logs: Mapping[str, object]
    times: tuple[str, str]


class NotebookTable:
    """A table in an output of its own, which is updated after every epoch."""

    def __init__(self) -> None:
        self._output: Output | None = None
        self._rows: list[Row] = []
        self._next_draw = 0.0

    def open(self) -> None:
        """Reserve the place of the table in the output of the cell, above later outputs."""
        if self._output is None:
            empty = {"text/html": "", "text/plain": ""}
            display = import_module("IPython.display").display
            self._output = display(empty, raw=True, display_id=True)

    def add(self, epoch: int, finished: Finished) -> None:
        """Add the row of an epoch, counted from 0."""
        times = _elapsed(finished.elapsed), format_step_time(finished.step, finished.unit)
        self._rows.append(Row(epoch + 1, dict(finished.logs), times))
        if perf_counter() >= self._next_draw:
            self._draw(_MAX_ROWS_WHILE_RUNNING)
            self._next_draw = perf_counter() + _SECONDS_BETWEEN_DRAWS

    def close(self) -> None:
        """Show the whole table."""
        if self._rows:
            self._draw(_MAX_ROWS)

    def _draw(self, max_rows: int) -> None:
        assert self._output is not None
        self._output.update(table_bundle(self._rows, max_rows), raw=True)


def table_bundle(rows: list[Row], max_rows: int = _MAX_ROWS) -> dict[str, str]:
    """Return a table as HTML and as text, with validation next to training values and the best epoch marked.

    Of a long run, only the first rows, that of the best epoch and the last `max_rows` are shown.
    """
    names = sorted_names(rows)
    best = best_epoch(rows)
    header = ["epoch", *names, "time", "rate"]
    lines = [[_marked(row.epoch, best), *(_shown(row.logs.get(name)) for name in names), *row.times] for row in rows]
    if len(rows) > max_rows + _FIRST_ROWS:
        best_rows = [line for line in lines[_FIRST_ROWS:-max_rows] if line[0] == _marked(best, best)]
        ellipsis_row = ["…"] + [""] * (len(header) - 1)
        lines = [
            *lines[:_FIRST_ROWS],
            ellipsis_row,
            *([*best_rows, ellipsis_row] if best_rows else []),
            *lines[-max_rows:],
        ]
    head = "".join(f"<th{_CELL}>{escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td{_CELL}>{escape(cell)}</td>" for cell in line) + "</tr>" for line in lines)
    widths = [max(map(len, column)) for column in zip(header, *lines)]
    text = "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in [header, *lines])
    return {
        "text/html": f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>",
        "text/plain": text,
    }


def sorted_names(rows: list[Row]) -> list[str]:
    """Return the names of all values, each validation value after that of training.

    >>> sorted_names([Row(1, {"loss": 1.0, "mae": 1.0, "val_loss": 2.0}, ("", ""))])
    ['loss', 'val_loss', 'mae']
    """
    names = list(dict.fromkeys(name for row in rows for name in row.logs))
    validation_names = {f"val_{name}" for name in names}
    return [
        other for name in names if name not in validation_names for other in (name, f"val_{name}") if other in names
    ]


def best_epoch(rows: list[Row]) -> int:
    """Return the epoch with the lowest validation loss, or 0 if fewer than two epochs have one."""
    losses = {row.epoch: row.logs["val_loss"] for row in rows if "val_loss" in row.logs}
    finite = {epoch: loss for epoch, loss in losses.items() if isinstance(loss, Real) and math.isfinite(loss)}
    return min(finite, key=finite.__getitem__) if len(finite) > 1 else 0


def _marked(epoch: int, best: int) -> str:
    return f"★ {epoch}" if epoch == best else str(epoch)


def _elapsed(seconds: float) -> str:
    return f"{seconds:.1f}s" if seconds < _MAX_SECONDS_WITH_TENTHS else format_duration(seconds)


def _shown(value: object) -> str:
    return "" if value is None else format_value(value)
