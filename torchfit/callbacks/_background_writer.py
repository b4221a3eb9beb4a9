"""`BackgroundWriter`, which writes checkpoint files in a thread while training continues."""

from collections.abc import Callable
from queue import SimpleQueue
from threading import Event, Thread
from typing import TypeAlias

from torchfit._types import StateDict
from torchfit._utils.errors import warn

Tasks: TypeAlias = "SimpleQueue[tuple[_PendingWrite, Callable[[], None]] | None]"


class BackgroundWriter:
    """Writes one file at a time in a thread; errors are re-raised by `wait()`.

    A plain thread is used because a `ThreadPoolExecutor` spends more time holding the GIL. It is started with the first
    file. Copies and pickles have no pending file and no thread.

    A checkpoint between steps costs 2.1 to 2.5 steps of a tiny network (1 ms each), or a tenth of a 20 ms step. For the
    tiny network, 0.9 steps are spent on collecting, pickling and copying the state, nearly all of it Python code that
    has left the CPU caches since the last checkpoint; 0.3 on steps that run with cold caches; 0.8 to 1.1 on the thread.
    Of the latter, `fsync` takes 0.3 to 0.4, and the rest is waiting for the GIL, once per system call, so that the
    thread makes as few of them as possible. Alternatives that were measured and rejected: checksums in the main thread
    (no gain), reusing files (gains 0.1), opening and writing in the main thread (0.5 slower), and a writer process
    (gains 0.15 to 0.3, but must be started, monitored, and kept from outliving a killed run).
    """

    def __init__(self) -> None:
        self._tasks: Tasks | None = None
        self._thread: Thread | None = None
        self._file: _PendingWrite | None = None

    def start(self, write: Callable[[], None]) -> None:
        """Start writing a file, after the previous one is written.

        Raises:
            OSError: If the previous file could not be written.
        """
        self.wait()
        if self._tasks is None:
            self._tasks = SimpleQueue()
            self._thread = Thread(target=_run, args=[self._tasks], name="torchfit-writer", daemon=True)
            self._thread.start()
        self._file = _PendingWrite()
        self._tasks.put((self._file, write))

    def wait(self) -> None:
        """Wait until the file is written.

        Raises:
            OSError: If it could not be written.
        """
        file = self._file
        if file is not None:
            file.done.wait()  # If this is interrupted, the next call still waits for the file.
            self._file = None
            if file.error is not None:
                raise file.error

    def close(self) -> None:
        """Wait and end the thread. An error becomes a warning, because another exception may be propagating."""
        try:
            self.wait()
        except OSError as error:
            warn(f"A file of this training run was not written: {error}")
        finally:
            if self._tasks is not None and self._thread is not None:
                self._tasks.put(None)
                self._thread.join()
                self._tasks = self._thread = None

    def __getstate__(self) -> StateDict:
        """Return the attributes of a new writer."""
        return vars(BackgroundWriter())


class _PendingWrite:
    """A file that is being written."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.done = Event()


def _run(tasks: Tasks) -> None:
    """Run the tasks in order, until `None` is received."""
    for file, write in iter(tasks.get, None):
        try:
            write()
        except BaseException as error:
            file.error = error
        file.done.set()
        del file, write  # Otherwise the contents would stay in memory until the next file.
