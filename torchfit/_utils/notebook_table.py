"""The table of a training in a notebook: a row for each epoch, readable without JavaScript."""

import math
from collections.abc import Mapping
from html import escape
from importlib import import_module
from numbers import Real
from time import perf_counter
from typing import NamedTuple

from torchfit._utils.notebook_progress import Output
from torchfit._utils.progress_format import Finished, format_duration, format_step_time, format_value

_SECONDS_BETWEEN_DRAWS = 0.2
_MAX_ROWS_WHILE_RUNNING = 12  # so that the bar below stays in sight
_MAX_ROWS = 60
_FIRST_ROWS = 5
_MAX_SECONDS_WITH_TENTHS = 10
_CELL = ' style="text-align:right; padding:0.1em 0.7em"'


class Row(NamedTuple):
    """The results of an epoch: its number, counted from 1, and what is shown of its times."""

    epoch: int
    logs: Mapping[str, object]
    times: tuple[str, str]


class NotebookTable:
    """A table in one output, which is updated when an epoch is finished."""

    def __init__(self) -> None:
        self._output: Output | None = None
        self._rows: list[Row] = []
        self._next_draw = 0.0

    def open(self) -> None:
        """Take the place of the table in the output of the cell, above what is displayed later."""
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
    """Return a table as HTML and as text: values of training beside those of validation, the best epoch marked.

    Of a longer training there are the first rows, that of the best epoch, and the last `max_rows`.
    """
    names = sorted_names(rows)
    best = best_epoch(rows)
    header = ["epoch", *names, "time", "rate"]
    lines = [[_marked(row.epoch, best), *(_shown(row.logs.get(name)) for name in names), *row.times] for row in rows]
    if len(rows) > max_rows + _FIRST_ROWS:
        kept = [line for line in lines[_FIRST_ROWS:-max_rows] if line[0] == _marked(best, best)]
        gap = ["…"] + [""] * (len(header) - 1)
        lines = [*lines[:_FIRST_ROWS], gap, *([*kept, gap] if kept else []), *lines[-max_rows:]]
    head = "".join(f"<th{_CELL}>{escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td{_CELL}>{escape(cell)}</td>" for cell in line) + "</tr>" for line in lines)
    widths = [max(map(len, column)) for column in zip(header, *lines)]
    text = "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in [header, *lines])
    return {
        "text/html": f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>",
        "text/plain": text,
    }


def sorted_names(rows: list[Row]) -> list[str]:
    """Return the names of all values, each of the validation after that of the training.

    >>> sorted_names([Row(1, {"loss": 1.0, "mae": 1.0, "val_loss": 2.0}, ("", ""))])
    ['loss', 'val_loss', 'mae']
    """
    names = list(dict.fromkeys(name for row in rows for name in row.logs))
    partners = {f"val_{name}" for name in names}
    return [other for name in names if name not in partners for other in (name, f"val_{name}") if other in names]


def best_epoch(rows: list[Row]) -> int:
    """Return the epoch with the lowest loss of validation, 0 if there is none, or there are no two of them."""
    losses = {row.epoch: row.logs["val_loss"] for row in rows if "val_loss" in row.logs}
    finite = {epoch: loss for epoch, loss in losses.items() if isinstance(loss, Real) and math.isfinite(loss)}
    return min(finite, key=finite.__getitem__) if len(finite) > 1 else 0


def _marked(epoch: int, best: int) -> str:
    return f"★ {epoch}" if epoch == best else str(epoch)


def _elapsed(seconds: float) -> str:
    return f"{seconds:.1f}s" if seconds < _MAX_SECONDS_WITH_TENTHS else format_duration(seconds)


def _shown(value: object) -> str:
    return "" if value is None else format_value(value)
