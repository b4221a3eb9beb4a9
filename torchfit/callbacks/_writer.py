"""Files that are written while training goes on."""

import warnings
from collections.abc import Callable
from queue import SimpleQueue
from threading import Lock, Thread


class Writer:
    """Writes one file at a time in a thread; what went wrong is raised where it is waited for.

    All that the thread does in Python holds the training up, so it does less than a pool of threads would do.
    """

    def __init__(self) -> None:
        self._files: SimpleQueue[_File | None] = SimpleQueue()
        self._thread: Thread | None = None
        self._file: _File | None = None

    def start(self, write: Callable[[], None]) -> None:
        """Begin to write, after what is being written.

        Raises:
            OSError: The last file could not be written.
        """
        self.wait()
        if self._thread is None:
            self._thread = Thread(target=_work, args=(self._files,), name="torchfit-writer", daemon=True)
            self._thread.start()
        file = _File(write)
        self._files.put(file)
        self._file = file

    def wait(self) -> None:
        """Wait until the file is there.

        Raises:
            OSError: It could not be written.
        """
        file = self._file
        if file is not None:
            with file.under_way:  # If waiting is interrupted, the file is still to be waited for.
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
                self._files.put(None)
                self._thread.join()
                self._thread = None


class _File:
    """One that is to be written; `under_way` is held until it is."""

    __slots__ = ("error", "under_way", "write")

    def __init__(self, write: Callable[[], None]) -> None:
        self.write: Callable[[], None] | None = write
        self.error: BaseException | None = None
        self.under_way = Lock()
        self.under_way.acquire()

    def run(self) -> None:
        """Write it, and let go of its contents."""
        assert self.write is not None
        try:
            self.write()
        except BaseException as error:  # It is raised where the file is waited for.
            self.error = error
        self.write = None
        self.under_way.release()


def _work(files: "SimpleQueue[_File | None]") -> None:
    while file := files.get():
        file.run()
