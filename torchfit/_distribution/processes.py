"""Which processes work together: this one alone, or those that torchrun started.

Nothing here imports `torch.distributed`: a process that works alone never needs it.
"""

import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from torchfit._distribution.options import DataParallel
from torchfit._utils import console
from torchfit._utils.errors import describe

T = TypeVar("T")


class Alone:
    """One process that works by itself."""

    rank, size = 0, 1
    options = DataParallel()

    def share(self, make: Callable[[], T]) -> T:
        """Return what `make` returns."""
        return make()


ALONE = Alone()


class _Setting:
    """What the user chose, and the processes that are connected."""

    distribution: DataParallel | None = DataParallel()
    processes: Any = None


def current() -> Any:
    """Return the processes that this one works with; the first call connects them.

    Raises:
        RuntimeError: If the environment says that there are several, and not how to reach them.
    """
    if _Setting.distribution is None:
        return ALONE
    if _Setting.processes is None:
        if not _has_others():
            return ALONE
        from torchfit._distribution.process_group import connect

        _Setting.processes = connect(_Setting.distribution)
        if _Setting.processes.rank:
            console.silence()
    return _Setting.processes


def get_distribution() -> DataParallel | None:
    """Return what the user chose."""
    return _Setting.distribution


def set_distribution(value: DataParallel | None) -> None:
    """Choose how models that are made from now on train; `None`: every process by itself.

    Raises:
        ValueError: If `value` is no distribution.
        RuntimeError: If the processes are connected already.
    """
    if value is not None and not isinstance(value, DataParallel):
        raise ValueError(f"`value` must be a `DataParallel` or None. Received: {describe(value)}.")
    if value is not None and not _has_others() and not _has_address():
        raise RuntimeError(
            "DataParallel needs several processes, but this one was started alone. Start the script with "
            "`torchrun --nproc-per-node 2 script.py`, or call `torchfit.distribution.launch(function, processes=2)`."
        )
    if _Setting.processes is not None and value is not None:
        _Setting.processes.options = value
    _Setting.distribution = value


def _has_others() -> bool:
    """Return whether the launcher of this process, or the script itself, connected it with others."""
    if _world_size_of_environment() > 1:
        return True
    distributed = sys.modules.get("torch.distributed")
    is_connected = distributed is not None and distributed.is_available() and distributed.is_initialized()
    return bool(is_connected and distributed.get_world_size() > 1)  # type: ignore[union-attr]


def _has_address() -> bool:
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def _world_size_of_environment() -> int:
    text = os.environ.get("WORLD_SIZE", "1")
    return int(text) if text.isdecimal() else 1
