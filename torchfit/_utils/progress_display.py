"""Displays of a progress bar: on a terminal, in a notebook, or none."""

import os
import shutil
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

from torchfit._utils import console
from torchfit._utils.progress_format import BAR_WIDTH, fit_line


class Display(Protocol):
    """A line that is updated in place."""

    def show(self, completed: int, total: int | None, items: Sequence[str]) -> None:
        """Draw the bar, followed by the items."""

    def close(self) -> None:
        """Remove the bar."""

    def abandon(self) -> None:
        """Remove the bar of a loop that was interrupted, or mark it as such."""


class NullDisplay:
    """Draws nothing: for files, pipes and other verbosities."""

    def show(self, completed: int, total: int | None, items: Sequence[str]) -> None:
        """Draw nothing."""

    def close(self) -> None:
        """Do nothing."""

    abandon = close


class Terminal:
    """One line on a terminal, managed by tqdm, so that it works beside other tqdm bars and `tqdm.write`."""

    def __init__(self, bar_width: int) -> None:
        self._bar: Any = None
        self._bar_width = bar_width

    def show(self, completed: int, total: int | None, items: Sequence[str]) -> None:
        """Draw the line, fitted to the width of the terminal: a line that wraps could not be overwritten."""
        line = fit_line(completed, total, items, shutil.get_terminal_size().columns - 1, self._bar_width)
        if self._bar is None:  # creating it draws it
            self._bar = _quiet_tqdm()(desc=line, bar_format="{desc}", file=sys.stdout, leave=False, disable=False)
        else:
            self._bar.set_description_str(line)

    def close(self) -> None:
        """Remove the line."""
        bar, self._bar = self._bar, None
        if bar is not None:
            bar.close()

    abandon = close


class Notebook:
    """The widget of tqdm. It is removed when the line of the epoch is written."""

    def __init__(self) -> None:
        self._bar: Any = None

    def show(self, completed: int, total: int | None, items: Sequence[str]) -> None:
        """Update the widget."""
        if self._bar is None:
            self._bar = import_module("tqdm.notebook").tqdm(
                total=total, bar_format="{n_fmt}/{total_fmt} {bar}{desc}", leave=False, disable=False
            )
        self._bar.n = completed
        self._bar.set_description_str("".join(items))

    def close(self) -> None:
        """Remove the widget."""
        if self._bar is not None:
            self._bar.total = None  # or it would stay, in red: the last steps were not drawn
        self.abandon()

    def abandon(self) -> None:
        """Leave the widget in red if steps are missing."""
        bar, self._bar = self._bar, None
        if bar is not None:
            bar.close()


def select_display(bar_width: int = BAR_WIDTH) -> Display:
    """Return the best display that this process has."""
    if not console.is_animated() or os.environ.get("TQDM_DISABLE", "") not in ("", "0"):
        return NullDisplay()
    return Notebook() if console.in_notebook() and find_spec("ipywidgets") else Terminal(bar_width)


def _quiet_tqdm() -> Any:
    """Return tqdm without its monitor thread, which is of no use to bars drawn on demand."""
    return type("Bar", (import_module("tqdm.std").tqdm,), {"monitor_interval": 0})
