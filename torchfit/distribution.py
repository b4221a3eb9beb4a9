"""Training with several processes: the same script under `torchrun`, with the same numbers.

>>> rank(), world_size(), is_primary()
(0, 1, True)
"""

from collections.abc import Callable
from typing import TypeVar

from torchfit._distribution.options import DataParallel
from torchfit._distribution.processes import current, get_distribution, set_distribution
from torchfit._utils.names import suggest_keywords

_Result = TypeVar("_Result")

__all__ = [
    "DataParallel",
    "distribution",
    "initialize",
    "is_primary",
    "launch",
    "rank",
    "set_distribution",
    "world_size",
]


def initialize() -> None:
    """Connect with the other processes that `torchrun` started. The first model does this by itself.

    Raises:
        RuntimeError: If the environment says that there are several processes, and not how to reach them.
    """
    current()


def rank() -> int:
    """Return the number of this process, from 0."""
    return int(current().rank)


def world_size() -> int:
    """Return how many processes train together."""
    return int(current().size)


def is_primary() -> bool:
    """Return whether this is the process that writes files and the progress bar."""
    return rank() == 0


def distribution() -> DataParallel | None:
    """Return how models train: what `set_distribution` chose, `None` if every process trains by itself."""
    return get_distribution()


@suggest_keywords
def launch(function: Callable[[], _Result], processes: int = 2) -> _Result:
    """Call a function in several new processes, which train together, and return what it returns in the primary one.

    For notebooks; a script is better started with `torchrun`. The processes start afresh: what the function needs it
    imports, or gets with `functools.partial`. Functions that a notebook defines need the package cloudpickle.

    Args:
        function: Makes the model and the data, trains, and returns something that can be pickled.
        processes: How many processes to start.

    Raises:
        ValueError: If `function` cannot be sent to another process, or `processes` is no number of processes.
        RuntimeError: If CUDA is in use already, or a process failed: the message says which, and with what.
    """
    from torchfit._distribution.launch import launch

    return launch(function, processes)
