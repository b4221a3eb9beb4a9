"""Reading in worker processes and threads: seeds, and exceptions that say which item failed."""

import pickle
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

Read = Callable[[Any], Any]


@dataclass(frozen=True)
class Request:
    """Asks for one batch: what to read, and the seed that random augmentations of this batch follow."""

    what: Any
    seed: int


class Reader(Dataset[Any]):
    """What a worker process holds: reads one batch for each request."""

    def __init__(self, read: Read) -> None:
        """Read with `read(what)`."""
        self._read = read

    def __getitem__(self, request: Request) -> Any:
        """Read a batch. In a worker its randomness depends on the request alone, not on which worker it is."""
        if get_worker_info() is not None:
            seed_everything(request.seed)
        return self._read(request.what)


def seed_everything(seed: int) -> None:
    """Seed the generators of torch, NumPy and Python in this process."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


class Requests:
    """The requests of the coming epoch, as the sampler of a `DataLoader`, which asks anew at the start of each."""

    def __init__(self) -> None:
        self.coming: Iterable[Request] = ()

    def __iter__(self) -> Iterator[Request]:
        return iter(self.coming)


class Pool:
    """Worker processes of a `DataLoader` that live as long as this object, from epoch to epoch."""

    def __init__(self, read: Read, processes: int, queue_size: int, pin_memory: bool, keep: bool = True) -> None:
        """Start no worker yet. `keep=False` starts them anew for every epoch, with the data as they then are."""
        self._requests = Requests()
        self._loader: DataLoader[Any] = DataLoader(
            Reader(read),
            batch_size=None,
            sampler=self._requests,
            num_workers=processes,
            prefetch_factor=max(1, queue_size // processes),
            pin_memory=pin_memory,
            persistent_workers=keep,
            generator=torch.Generator(),
        )

    def map(self, requests: Iterable[Request]) -> Iterator[Any]:
        """Give a batch for each request, in their order."""
        self._requests.coming = requests
        return read_from(self._loader)


def read_from(loader: DataLoader[Any], enter: Callable[[Iterator[Any]], None] | None = None) -> Iterator[Any]:
    """Give the batches of a loader, behind those that `enter` takes out beforehand.

    Workers are let go when one fails: held by the traceback, they would keep the collector waiting for seconds.
    """
    iterator = _started(loader)
    try:
        if enter is not None:
            enter(iterator)
        yield from iterator
    except Exception:
        _let_go(loader, iterator)
        raise


def _started(loader: DataLoader[Any]) -> Iterator[Any]:
    """Start the workers of a loader.

    Raises:
        ValueError: If the data cannot be sent to them.
    """
    try:
        return iter(loader)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        if "pickle" not in str(error).lower():
            raise
        raise ValueError(
            f"The data cannot be sent to worker processes: {error}. Define the class and everything it holds at the "
            "top of a module, or read without processes (`use_multiprocessing=False`, `workers=1`)."
        ) from error


def _let_go(loader: DataLoader[Any], iterator: Any) -> None:
    """End the workers of an iterator, for which torch has no public way; without it, they end later."""
    shut_down = getattr(iterator, "_shutdown_workers", None)
    if shut_down is not None:
        shut_down()
    if getattr(loader, "_iterator", None) is iterator:
        loader._iterator = None


def read_ahead(read: Read, items: Iterable[Any], threads: int, queue_size: int) -> Iterator[Any]:
    """Give `read(item)` for each item, in their order, reading up to `queue_size` of them ahead in threads.

    >>> list(read_ahead(abs, [-1, 2, -3], threads=2, queue_size=2))
    [1, 2, 3]
    """
    waiting: deque[Future[Any]] = deque()
    with ThreadPoolExecutor(threads, "torchfit-data") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(read, item))
                if len(waiting) > queue_size:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def located(error: Exception, where: str) -> NoReturn:
    """Raise an exception of the same type whose message says where it came from, caused by the first one."""
    text = f"{error} ({where})" if str(error) else where
    raise _again(error, text) from error


def _again(error: Exception, text: str) -> Exception:
    """Return an exception of the same type, or a `RuntimeError` where its class takes more than a message."""
    kind = type(error)
    if isinstance(error, (StopIteration, StopAsyncIteration)):
        return RuntimeError(f"{kind.__name__}: {text}")
    try:
        again = kind(text)
    except Exception:
        return RuntimeError(f"{kind.__name__}: {text}")
    return again if text in str(again) else RuntimeError(f"{kind.__name__}: {text}")
