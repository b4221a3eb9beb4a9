"""Which arguments a form of data takes: one table per form, one message for all."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torchfit._utils.errors import describe

# What counts as "not given" besides `None`.
_DEFAULTS: dict[str, tuple[Any, ...]] = {"validation_split": (0, 0.0), "workers": (0, 1)}


@dataclass(frozen=True)
class Form:
    """A form of data: its name in messages, and the arguments that it does not take, each with the way out."""

    name: str
    refused: Mapping[str, str]

    def check(self, **arguments: Any) -> None:
        """Refuse arguments that were given although this form has no use for them.

        Raises:
            ValueError: With the name of the argument and the way out.
        """
        for argument, value in arguments.items():
            if self.takes(argument) or value is None or _is_default(argument, value):
                continue
            raise ValueError(
                f"`{argument}` is not used with {self.name}: {self.way_out(argument)}. Received: {describe(value)}."
            )

    def takes(self, argument: str) -> bool:
        """Tell whether this form has a use for an argument."""
        return self._key(argument) not in self.refused

    def way_out(self, argument: str) -> str:
        """Say what to do instead of passing an argument."""
        return self.refused[self._key(argument)]

    def _key(self, argument: str) -> str:
        return "batch_size" if argument == "validation_batch_size" else argument


def _is_default(argument: str, value: Any) -> bool:
    return isinstance(value, (bool, int, float)) and value in _DEFAULTS.get(argument, ())


@dataclass(frozen=True)
class Loading:
    """How batches are read ahead: `workers` threads, or processes with `use_multiprocessing`."""

    workers: int = 1
    use_multiprocessing: bool = False
    max_queue_size: int = 10

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: If one is not what it must be.
        """
        check_integer("workers", self.workers, at_least=0)
        check_integer("max_queue_size", self.max_queue_size, at_least=1)
        if not isinstance(self.use_multiprocessing, (bool, int)):
            raise ValueError(
                f"`use_multiprocessing` must be True or False, but it is {describe(self.use_multiprocessing)}."
            )

    @property
    def processes(self) -> int:
        """The number of worker processes that a Sequence is read with."""
        return max(self.workers, 1) if self.use_multiprocessing else 0

    @property
    def threads(self) -> int:
        """The number of threads that a Sequence is read with, 0 for none besides the caller's."""
        return self.workers if self.workers > 1 and not self.use_multiprocessing else 0

    def or_else(self, other: "Loading") -> "Loading":
        """Return `other` where nothing was asked for."""
        return other if self == Loading() else self


def check_integer(argument: str, value: Any, at_least: int) -> int:
    """Return an argument that must be an integer.

    Raises:
        ValueError: If it is none, or too small.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < at_least:
        raise ValueError(f"`{argument}` must be an integer of at least {at_least}, but it is {describe(value)}.")
    return int(value)


def check_batch_size(batch_size: Any, argument: str = "batch_size") -> int:
    """Return the batch size, 32 where none is given.

    Raises:
        ValueError: If it is not a positive integer.
    """
    if batch_size is None:
        return 32
    if isinstance(batch_size, bool) or not hasattr(batch_size, "__index__") or batch_size < 1:
        raise ValueError(f"`{argument}` must be a positive integer, but it is {describe(batch_size)}.")
    return int(batch_size)


def check_steps(argument: str, steps: Any) -> int | None:
    """Return a number of steps, `None` for "until the data end", which -1 asks for as well.

    Raises:
        ValueError: If it is neither a positive integer, -1 nor `None`.
    """
    if steps is None or (isinstance(steps, int) and steps == -1):
        return None
    if isinstance(steps, bool) or not hasattr(steps, "__index__") or steps < 1:
        raise ValueError(
            f"`{argument}` must be a positive integer, -1 or None (until the data end), but it is {describe(steps)}."
        )
    return int(steps)
