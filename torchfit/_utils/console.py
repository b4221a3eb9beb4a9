"""Writes all output of torchfit, to the standard output or to the `torchfit` logger.

A line never breaks a progress bar: the bars on the screen are cleared, the line is written, and the bars are redrawn
below it.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import TextIO

logger = logging.getLogger("torchfit")
_interactive = True
_silent = False


def enable_interactive_logging() -> None:
    """Print messages and progress bars on the standard output. This is the default."""
    global _interactive
    _interactive = True


def disable_interactive_logging() -> None:
    """Send messages to the logger named `torchfit` (level INFO) and draw no animated progress bars."""
    global _interactive
    _interactive = False


def is_interactive_logging_enabled() -> bool:
    """Return whether messages are printed (True) or logged (False)."""
    return _interactive


def silence() -> None:
    """Write nothing from now on, because another process of the same run does."""
    global _silent
    _silent = True


def write_line(text: str) -> None:
    """Print a line, keeping progress bars intact, or log it without blank lines."""
    if _silent:
        return
    if not _interactive:
        logger.info("%s", text.strip("\n"))
        return
    import_module("tqdm").tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()


def is_animated() -> bool:
    """Return whether printed text can be overwritten: on a terminal or in a notebook, not in a file."""
    if not _interactive or sys.stdout is None or getattr(sys.stdout, "closed", False):
        return False
    return bool(sys.stdout.isatty()) or in_notebook()


def in_notebook() -> bool:
    """Return whether the code runs in a notebook's kernel, without importing IPython."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
    return shell is not None and "IPKernelApp" in getattr(shell, "config", {})


@contextmanager
def lines_of_their_own(*streams: TextIO) -> Iterator[None]:
    """Clear the line of a bar before anything else is written to a terminal, and start a new line before the next bar.

    A text belongs to a bar if it begins with a carriage return, as tqdm's output does.
    """
    screen = _Screen()
    with ExitStack() as stack:
        for stream in dict.fromkeys(streams):
            if hasattr(stream, "__dict__") and stream.isatty():
                stack.enter_context(screen.guarded(stream))
        try:
            yield
        finally:
            screen.end_line()


class _Screen:
    """What is on the last line of the terminal: a bar, or an unfinished line of other output."""

    def __init__(self) -> None:
        self._width = 0
        self._unfinished: TextIO | None = None

    @contextmanager
    def guarded(self, stream: TextIO) -> Iterator[None]:
        original, is_overridden = stream.write, "write" in vars(stream)

        def write(text: str) -> int:
            if not text.replace("\x1b[A", "").strip("\n"):  # The end of a line, or a bar that moves to its position.
                self._unfinished = None if text else self._unfinished
            elif text.startswith("\r"):
                self.end_line()
                self._width = len(text.rstrip()) - 1
            else:
                if self._width > 0:
                    original("\r" + " " * self._width + "\r")
                self._width = 0
                self._unfinished = None if text.endswith("\n") else stream
            return original(text)

        stream.write = write  # type: ignore[method-assign]
        try:
            yield
        finally:
            if is_overridden:
                stream.write = original  # type: ignore[method-assign]
            else:
                del stream.write

    def end_line(self) -> None:
        """Finish an unfinished line of other output."""
        stream, self._unfinished = self._unfinished, None
        if stream is not None:
            stream.write("\n")
