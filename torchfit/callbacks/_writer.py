"""Files that are written while training goes on."""

import warnings
from collections.abc import Callable
from threading import Thread


class Writer:
    """Writes one file at a time in a thread; what went wrong is raised where it is waited for."""

    def __init__(self) -> None:
        self._thread: Thread | None = None
        self._error: BaseException | None = None

    def start(self, write: Callable[[], None]) -> None:
        """Begin to write, after what is being written.

        Raises:
            OSError: The last file could not be written.
        """
        self.wait()
        thread = Thread(target=self._run, args=(write,), name="torchfit-writer")
        thread.start()
        self._thread = thread

    def wait(self) -> None:
        """Wait until the file is there.

        Raises:
            OSError: It could not be written.
        """
        self._join()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def release(self) -> None:
        """Wait, where an exception is under way already: an error becomes a warning beside it."""
        self._join()
        error, self._error = self._error, None
        if error is not None:
            warnings.warn(f"A file of the training that ends here is not there: {error}", stacklevel=2)

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self, write: Callable[[], None]) -> None:
        try:
            write()
        except BaseException as error:
            self._error = error
