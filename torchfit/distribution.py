"""Training with several processes: run the same script with `torchrun`, and get the same results.

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
    """Connect to the other processes that `torchrun` started. Creating the first model does this automatically.

    Raises:
        RuntimeError: If the environment variables announce several processes but not how to reach them.
    """
    current()


def rank() -> int:
    """Return the rank of this process, counted from 0."""
    return int(current().rank)


def world_size() -> int:
    """Return the number of processes that train together."""
    return int(current().size)


def is_primary() -> bool:
    """Return whether this is the process (rank 0) that writes files and the progress bar."""
    return rank() == 0


def distribution() -> DataParallel | None:
    """Return the distribution set by `set_distribution`, or `None` if every process trains by itself."""
    return get_distribution()


@suggest_keywords
def launch(function: Callable[[], _Result], processes: int = 2) -> _Result:
    """Call a function in several new processes, which train together, and return what it returns in the primary one.

    This is meant for notebooks; start scripts with `torchrun`. The new processes share no state with this one: the
    function must import what it needs, or get it through `functools.partial`. Functions defined in a notebook need the
    package cloudpickle.

    Args:
        function: A function without arguments that builds the model and the data, trains, and returns something that
            can be pickled.
        processes: The number of processes to start.

    Returns:
        What `function` returned in the primary process.

    Raises:
        ValueError: If `function` cannot be sent to another process, or `processes` is not a positive integer.
        RuntimeError: If CUDA is in use already, or a process failed; the message says which one and shows its error.
    """
    from torchfit._distribution.launch import launch

    return launch(function, processes)
