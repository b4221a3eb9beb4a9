"""Files that are written while training goes on."""

import warnings
from collections.abc import Callable
from concurrent import futures


class Writer:
    """Writes one file at a time in a thread; what went wrong is raised where it is waited for."""

    def __init__(self) -> None:
        self._threads: futures.Executor | None = None
        self._file: futures.Future[None] | None = None

    def start(self, write: Callable[[], None]) -> None:
        """Begin to write, after what is being written.

        Raises:
            OSError: The last file could not be written.
        """
        self.wait()
        if self._threads is None:
            self._threads = futures.ThreadPoolExecutor(1, "torchfit-writer")
        self._file = self._threads.submit(write)

    def wait(self) -> None:
        """Wait until the file is there.

        Raises:
            OSError: It could not be written.
        """
        file = self._file
        if file is not None:
            file.exception()  # Waits. If that is interrupted, the file is still to be waited for.
            self._file = None
            file.result()

    def release(self) -> None:
        """Wait, where an exception is under way already: an error becomes a warning beside it."""
        try:
            self.wait()
        except OSError as error:
            warnings.warn(f"A file of the training that ends here is not there: {error}", stacklevel=2)
        finally:
            if self._threads is not None:
                self._threads.shutdown()
                self._threads = None
