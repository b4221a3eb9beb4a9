"""Reads data in worker processes and threads, with reproducible seeds and errors that name the failed item."""

import pickle
import random
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from torchfit._types import UserData
from torchfit._utils import validation
from torchfit._utils.compat import shutdown_workers

Read = Callable[[Any], UserData]


@dataclass(frozen=True)
class LoaderConfig:
    """How batches are read ahead: by `workers` threads, or processes with `use_multiprocessing`."""

    workers: int = 1
    use_multiprocessing: bool = False
    max_queue_size: int = 10

    def __post_init__(self) -> None:
        """Check the arguments.

        Raises:
            ValueError: If one is invalid.
        """
        for name in ("workers", "max_queue_size"):
            object.__setattr__(self, name, validation.integer(name, getattr(self, name), min_value=0))
        use_multiprocessing = validation.boolean("use_multiprocessing", self.use_multiprocessing)
        object.__setattr__(self, "use_multiprocessing", use_multiprocessing)

    @property
    def processes(self) -> int:
        """The number of worker processes to read a Sequence with."""
        return max(self.workers, 1) if self.use_multiprocessing else 0

    @property
    def threads(self) -> int:
        """The number of threads to read a Sequence with; 0 means in the calling thread."""
        return self.workers if self.workers > 1 and not self.use_multiprocessing else 0

    def with_default(self, other: "LoaderConfig") -> "LoaderConfig":
        """Return `other` if all fields of this config have their defaults, else this config."""
        return other if self == LoaderConfig() else self


@dataclass(frozen=True)
class Request:
    """A request for one batch: its index or indices, and the seed of its random augmentations."""

    index: Any
    seed: int


class _RequestDataset(Dataset[UserData]):
    """The Dataset of a worker process, which reads one batch for each request."""

    def __init__(self, read: Read) -> None:
        """Read with `read(index)`."""
        self._read = read

    def __getitem__(self, request: Request) -> UserData:
        """Read a batch. In a worker, its randomness depends on the request and not on the worker."""
        if get_worker_info() is not None:
            seed_everything(request.seed)
        return self._read(request.index)


def seed_everything(seed: int) -> None:
    """Seed the generators of torch, NumPy and Python in this process."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


class RequestSampler:
    """The sampler of a `DataLoader`, which iterates over the requests of the next epoch."""

    def __init__(self) -> None:
        self.pending: Iterable[Request] = ()

    def __iter__(self) -> Iterator[Request]:
        return iter(self.pending)


class WorkerPool:
    """Worker processes of a `DataLoader` that are kept from epoch to epoch, as long as this object exists."""

    def __init__(self, read: Read, processes: int, queue_size: int, pin_memory: bool, persistent: bool = True) -> None:
        """Store the settings; `map` starts the workers, again for every epoch with `persistent=False`."""
        self._requests = RequestSampler()
        self._loader: DataLoader[UserData] = DataLoader(
            _RequestDataset(read),
            batch_size=None,
            sampler=self._requests,
            num_workers=processes,
            prefetch_factor=max(1, queue_size // processes),
            pin_memory=pin_memory,
            persistent_workers=persistent,
            generator=torch.Generator(),
        )

    def map(self, requests: Iterable[Request]) -> Iterator[UserData]:
        """Yield a batch for each request, in order."""
        self._requests.pending = requests
        return iterate_loader(self._loader)


def iterate_loader(
    loader: DataLoader[UserData], fast_forward: Callable[[Iterator[UserData]], None] | None = None
) -> Iterator[UserData]:
    """Yield the batches of a loader that remain after `fast_forward` has consumed some.

    When a worker fails, all are shut down: otherwise the traceback would keep them alive, and collecting them later
    would block for seconds.
    """
    iterator = _start(loader)
    try:
        if fast_forward is not None:
            fast_forward(iterator)
        yield from iterator
    except Exception:
        shutdown_workers(loader, iterator)
        raise


def _start(loader: DataLoader[UserData]) -> Iterator[UserData]:
    """Start the workers of a loader.

    Raises:
        ValueError: If the data cannot be sent to them.
    """
    try:
        return iter(loader)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        message = str(error).lower()
        if "pickle" not in message and "local object" not in message:  # The second is what Python 3.13 says.
            raise
        raise ValueError(
            f"The data cannot be sent to worker processes: {error}. Define the class and everything it holds at the "
            "top of a module, or read without processes (`use_multiprocessing=False`, `workers=1`)."
        ) from error


def read_ahead(read: Read, items: Iterable[object], threads: int, queue_size: int) -> Generator[UserData, None, None]:
    """Yield `read(item)` for each item, in order, reading up to `queue_size` of them ahead in threads.

    >>> list(read_ahead(abs, [-1, 2, -3], threads=2, queue_size=2))
    [1, 2, 3]
    """
    futures: deque[Future[UserData]] = deque()
    with ThreadPoolExecutor(threads, "torchfit-data") as pool:
        try:
            for item in items:
                futures.append(pool.submit(read, item))
                if len(futures) > queue_size:
                    yield futures.popleft().result()
            while futures:
                yield futures.popleft().result()
        finally:
            for future in futures:
                future.cancel()


def reraise_with_location(error: Exception, where: str) -> NoReturn:
    """Reraise an exception of the user's code, the same object, with a note on which data were being read.

    Raises:
        RuntimeError: Instead of a `StopIteration`, which would end the loop silently.
    """
    note = f"Raised while reading {where}."
    if isinstance(error, (StopIteration, StopAsyncIteration)):
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise RuntimeError(f"{text} ({where})") from error
    notes = [*getattr(error, "__notes__", ())]
    if note not in notes:
        with suppress(AttributeError, TypeError):  # exceptions may not allow new attributes
            error.__notes__ = [*notes, note]  # type: ignore[attr-defined]  # shown from Python 3.11 on
    raise error
