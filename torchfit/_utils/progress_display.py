"""Displays of progress bars and results: as lines in a file, on a terminal or in a notebook."""

import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from importlib import import_module
from typing import Any, Protocol

from torchfit._utils import console
from torchfit._utils.console import lines_of_their_own
from torchfit._utils.notebook import NotebookBar, NotebookTable
from torchfit._utils.progress_format import BAR_WIDTH, Finished, fit_line, format_finished, wrap_items


class Display(Protocol):
    """Shows the progress of a loop, and writes its results at the end.

    Attributes:
        is_animated: Whether there is a bar that moves.
    """

    is_animated: bool

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Announce epoch `epoch`, counted from 0."""

    def show(self, completed: int, total: int | None, items: Sequence[str]) -> None:
        """Draw the bar, followed by the items."""

    def finish(self, finished: Finished, epoch: int | None = None) -> None:
        """Replace the bar by the results of a loop; `epoch` is the number of the epoch, if it is one."""

    def close(self) -> None:
        """Remove the bar."""

    def abandon(self) -> None:
        """Remove the bar of a loop that was interrupted, or mark it as such."""


class Lines:
    """Writes one line per epoch, without animation: for files, pipes and `verbose=2`.

    Args:
        bar_width: The width of the finished bar in characters; 0 for no bar.
    """

    is_animated = False

    def __init__(self, bar_width: int = BAR_WIDTH) -> None:
        self._bar_width = bar_width

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Write the header."""
        console.write_line(f"Epoch {epoch + 1}/{epochs}")

    def show(self, completed: int, total: int | None, items: Sequence[str]) -> None:
        """Draw nothing."""

    def finish(self, finished: Finished, epoch: int | None = None) -> None:
        """Write the line."""
        console.write_line("".join(format_finished(finished, self._bar_width)))

    def close(self) -> None:
        """Do nothing."""

    abandon = close


class Terminal(Lines):
    """One line on a terminal, managed by tqdm, so that it works beside other tqdm bars and `tqdm.write`."""

    is_animated = True

    def __init__(self, bar_width: int = BAR_WIDTH) -> None:
        super().__init__(bar_width)
        self._bar: Any = None
        self._guard = ExitStack()

    def show(self, completed: int, total: int | None, items: Sequence[str]) -> None:
        """Draw the line, fitted to the width of the terminal: a line that wraps could not be overwritten."""
        line = fit_line(completed, total, items, _columns() - 1, self._bar_width)
        if self._bar is None:  # its creation draws it
            self._guard.enter_context(lines_of_their_own(sys.stdout, sys.stderr))
            self._bar = _quiet_tqdm()(desc=line, bar_format="{desc}", file=sys.stdout, leave=False, disable=False)
        else:
            self._bar.set_description_str(line)

    def finish(self, finished: Finished, epoch: int | None = None) -> None:
        """Write the line, wrapped between its items if the terminal is too narrow."""
        self.close()
        console.write_line(wrap_items(finished, _columns(), self._bar_width))

    def close(self) -> None:
        """Remove the line."""
        bar, self._bar = self._bar, None
        if bar is not None:
            bar.close()
        self._guard.close()

    abandon = close


class Notebook:
    """Notebook output that is updated in place: a table with a row for each epoch, and a bar below it."""

    is_animated = True

    def __init__(self) -> None:
        self._table = NotebookTable()
        self._bar = NotebookBar()

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Show the bar of the epoch, below the table."""
        self._table.open()
        self._bar.open(f"Epoch {epoch + 1}/{epochs}")

    def show(self, completed: int, total: int | None, items: Sequence[str]) -> None:
        """Move the bar."""
        self._bar.show(completed, total, "".join(items))

    def finish(self, finished: Finished, epoch: int | None = None) -> None:
        """Add the row of an epoch to the table, or write the line of an evaluation."""
        if epoch is None:
            self._bar.close()
            console.write_line("".join(format_finished(finished)))
        else:
            self._table.open()
            self._table.add(epoch, finished)

    def close(self) -> None:
        """Remove the bar."""
        self._table.close()
        self._bar.close()

    def abandon(self) -> None:
        """Leave the bar in red."""
        self._table.close()
        self._bar.abandon()


def select_display(bar_width: int = BAR_WIDTH) -> Display:
    """Return the display for this process: a notebook, a terminal or plain lines."""
    if not console.is_animated() or os.environ.get("TQDM_DISABLE", "") not in ("", "0"):
        return Lines(bar_width)
    return Notebook() if console.in_notebook() else Terminal(bar_width)


def _columns() -> int:
    return shutil.get_terminal_size().columns


def _quiet_tqdm() -> Any:
    """Return tqdm without its monitor thread, which is of no use to bars drawn on demand."""
    return type("Bar", (import_module("tqdm.std").tqdm,), {"monitor_interval": 0})
