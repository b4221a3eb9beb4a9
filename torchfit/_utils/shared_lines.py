"""Lets what others print appear on lines of its own while a bar is on the screen."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TextIO


@contextmanager
def lines_of_their_own(*streams: TextIO) -> Iterator[None]:
    """Wipe the line of a bar before anything else is written to terminals, and start a new line before the next bar.

    A text is that of a bar if it begins with a carriage return, as what tqdm writes does.
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
    """What is on the last line of the terminal: a bar of some width, or an unfinished line of somebody else."""

    def __init__(self) -> None:
        self._width = 0
        self._unfinished: TextIO | None = None

    @contextmanager
    def guarded(self, stream: TextIO) -> Iterator[None]:
        original, had_its_own = stream.write, "write" in vars(stream)

        def write(text: str) -> int:
            if not text.replace("\x1b[A", "").strip("\n"):  # The end of a line, or a bar that goes to its place.
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
            if had_its_own:
                stream.write = original  # type: ignore[method-assign]
            else:
                del stream.write

    def end_line(self) -> None:
        """Finish a line that somebody else began."""
        stream, self._unfinished = self._unfinished, None
        if stream is not None:
            stream.write("\n")
