"""Checks of arguments: each returns the value, or raises `ValueError` naming the argument."""

from typing import Any

from torchfit._utils.errors import describe


def integer(name: str, value: Any, min_value: int) -> int:
    """Accept an integer of at least `min_value`.

    >>> integer("epochs", 3, min_value=0)
    3
    """
    if not _is_integer(value) or value < min_value:
        raise ValueError(f"`{name}` must be an integer of at least {min_value}. Received: {describe(value)}.")
    return int(value)


def batch_size(value: Any, name: str = "batch_size") -> int:
    """Accept a positive integer; `None` is 32."""
    if value is None:
        return 32
    if not _is_integer(value) or value < 1:
        raise ValueError(f"`{name}` must be a positive integer. Received: {describe(value)}.")
    return int(value)


def steps(name: str, value: Any) -> int | None:
    """Accept a positive number of steps; `None` and -1 mean "until the data end" and give `None`."""
    if value is None or (isinstance(value, int) and value == -1):
        return None
    if not _is_integer(value) or value < 1:
        raise ValueError(
            f"`{name}` must be a positive integer, -1 or None (until the data end). Received: {describe(value)}."
        )
    return int(value)


def _is_integer(value: Any) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool)
