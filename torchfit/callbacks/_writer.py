"""Files that are written while training goes on."""

import warnings
from collections.abc import Callable
from queue import SimpleQueue
from threading import Lock, Thread
from typing import TypeAlias

Tasks: TypeAlias = "SimpleQueue[tuple[_File, Callable[[], None]] | None]"


class Writer:
    """Writes one file at a time in a thread; what went wrong is raised where it is waited for.

    Whenever the thread is at work in Python, training waits: it has less to do than one of a pool.
    """

    def __init__(self) -> None:
        self._tasks: Tasks = SimpleQueue()
        self._thread: Thread | None = None
        self._file: _File | None = None

    def start(self, write: Callable[[], None]) -> None:
        """Begin to write, after what is being written.

        Raises:
            OSError: The last file could not be written.
        """
        self.wait()
        if self._thread is None:
            self._thread = Thread(target=_carry_out, args=[self._tasks], name="torchfit-writer", daemon=True)
            self._thread.start()
        self._file = _File()
        self._tasks.put((self._file, write))

    def wait(self) -> None:
        """Wait until the file is there.

        Raises:
            OSError: It could not be written.
        """
        file = self._file
        if file is not None:
            with file.is_being_written:  # If that is interrupted, the file is still to be waited for.
                self._file = None
            if file.error is not None:
                raise file.error

    def release(self) -> None:
        """Wait, where an exception is under way already: an error becomes a warning beside it."""
        try:
            self.wait()
        except OSError as error:
            warnings.warn(f"A file of the training that ends here is not there: {error}", stacklevel=2)
        finally:
            if self._thread is not None:
                self._tasks.put(None)
                self._thread.join()
                self._thread = None


class _File:
    """A file on its way to the disk."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.is_being_written = Lock()
        self.is_being_written.acquire()


def _carry_out(tasks: Tasks) -> None:
    """Do what is to be done, one after the other, until there is None."""
    for file, write in iter(tasks.get, None):
        try:
            write()
        except BaseException as error:
            file.error = error
        file.is_being_written.release()
        del file, write  # The contents of a file are let go of before the next one comes.
