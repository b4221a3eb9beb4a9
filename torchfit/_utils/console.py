"""All output of torchfit: lines on the standard output, or in the `torchfit` logger.

A line never breaks a progress bar: the bars on the screen are cleared, the line is written, and the bars are redrawn
below it.
"""

import logging
import sys
from importlib import import_module

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
    """Write nothing from now on: another process of the same training does."""
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
