"""Where a moving bar is drawn: on a terminal, in a notebook, or nowhere. One face, `show` and `close`."""

import os
import shutil
import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

from torchfit._utils import console
from torchfit.callbacks import _line


class Display(Protocol):
    """A place for one line that changes."""

    def show(self, seen: int, target: int | None, text: str) -> None:
        """Draw the state, with `text` behind the bar."""

    def close(self) -> None:
        """Take the bar away."""


class Nowhere:
    """Draws nothing: files, pipes, other verbosities."""

    def show(self, seen: int, target: int | None, text: str) -> None:
        """Draw nothing."""

    def close(self) -> None:
        """Do nothing."""


class Terminal:
    """One line on a terminal, kept by tqdm, so that other tqdm bars and `tqdm.write` go along with it."""

    def __init__(self) -> None:
        self._bar: Any = None

    def show(self, seen: int, target: int | None, text: str) -> None:
        """Draw the line, cut to the terminal's width: a line that wraps could not be overwritten."""
        line = _line.count(seen, target) + _line.bar(seen, target) + text
        line = line[: shutil.get_terminal_size().columns - 1]
        if self._bar is None:  # making it draws it
            self._bar = _quiet_tqdm()(desc=line, bar_format="{desc}", file=sys.stdout, leave=False, disable=False)
        else:
            self._bar.set_description_str(line)

    def close(self) -> None:
        """Take the line away."""
        bar, self._bar = self._bar, None
        if bar is not None:
            bar.close()


class Notebook(Terminal):
    """tqdm's widget, with the guide's words on its sides. It goes when the epoch's line is written."""

    def show(self, seen: int, target: int | None, text: str) -> None:
        """Move the widget."""
        if self._bar is None:
            self._bar = import_module("tqdm.notebook").tqdm(
                total=target, bar_format="{n_fmt}/{total_fmt} {bar}{desc}", leave=False, disable=False
            )
        self._bar.n = seen
        self._bar.set_description_str(text)


def choose() -> Display:
    """Return the best place that this process has."""
    if not console.is_animated() or os.environ.get("TQDM_DISABLE", "") not in ("", "0"):
        return Nowhere()
    return Notebook() if console.in_notebook() and find_spec("ipywidgets") else Terminal()


def _quiet_tqdm() -> Any:
    """Return tqdm without its monitor thread, which has nothing to do for bars drawn on demand."""
    return type("Bar", (import_module("tqdm.std").tqdm,), {"monitor_interval": 0})
