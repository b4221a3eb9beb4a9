"""A terminal that nobody looks at, so that progress bars draw as they do for a person."""

import contextlib
import os
import pty
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def unseen_terminal() -> Iterator[None]:
    """Send standard output and error to a pseudo-terminal whose other end is read and thrown away."""
    outer, inner = pty.openpty()
    reader = threading.Thread(target=_drain, args=(outer,), daemon=True)
    reader.start()
    # Leaving the first of the three closes the inner end, which ends the reader.
    with (
        open(inner, "w", encoding="utf-8") as screen,
        contextlib.redirect_stdout(screen),
        contextlib.redirect_stderr(screen),
    ):
        yield
    reader.join()
    os.close(outer)


def _drain(descriptor: int) -> None:
    with contextlib.suppress(OSError):  # the other end was closed
        while os.read(descriptor, 65536):
            continue
