"""Displays of a progress bar: on a terminal, in a notebook, or none."""

import os
import shutil
import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

from torchfit._utils import console
from torchfit.callbacks import _progress_format


class Display(Protocol):
    """A line that is updated in place."""

    def show(self, completed: int, total: int | None, text: str) -> None:
        """Draw the bar, followed by `text`."""

    def close(self) -> None:
        """Remove the bar."""


class NullDisplay:
    """Draws nothing: for files, pipes and other verbosities."""

    def show(self, completed: int, total: int | None, text: str) -> None:
        """Draw nothing."""

    def close(self) -> None:
        """Do nothing."""


class Terminal:
    """One line on a terminal, managed by tqdm, so that it works beside other tqdm bars and `tqdm.write`."""

    def __init__(self) -> None:
        self._bar: Any = None

    def show(self, completed: int, total: int | None, text: str) -> None:
        """Draw the line, cut to the terminal's width: a line that wraps could not be overwritten."""
        line = _progress_format.format_count(completed, total) + _progress_format.format_bar(completed, total) + text
        line = line[: shutil.get_terminal_size().columns - 1]
        if self._bar is None:  # creating it draws it
            self._bar = _quiet_tqdm()(desc=line, bar_format="{desc}", file=sys.stdout, leave=False, disable=False)
        else:
            self._bar.set_description_str(line)

    def close(self) -> None:
        """Remove the line."""
        bar, self._bar = self._bar, None
        if bar is not None:
            bar.close()


class Notebook(Terminal):
    """The widget of tqdm. It is removed when the line of the epoch is written."""

    def show(self, completed: int, total: int | None, text: str) -> None:
        """Update the widget."""
        if self._bar is None:
            self._bar = import_module("tqdm.notebook").tqdm(
                total=total, bar_format="{n_fmt}/{total_fmt} {bar}{desc}", leave=False, disable=False
            )
        self._bar.n = completed
        self._bar.set_description_str(text)


def select_display() -> Display:
    """Return the best display that this process has."""
    if not console.is_animated() or os.environ.get("TQDM_DISABLE", "") not in ("", "0"):
        return NullDisplay()
    return Notebook() if console.in_notebook() and find_spec("ipywidgets") else Terminal()


def _quiet_tqdm() -> Any:
    """Return tqdm without its monitor thread, which is of no use to bars drawn on demand."""
    return type("Bar", (import_module("tqdm.std").tqdm,), {"monitor_interval": 0})
