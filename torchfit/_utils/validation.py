"""Checks of arguments: each returns the value, or raises `ValueError` naming the argument."""

import operator
import sys
from collections.abc import Container, Iterable
from numbers import Real
from typing import Any

from torchfit._utils.errors import describe


def integer(name: str, value: Any, min_value: int) -> int:
    """Accept an integer of at least `min_value`, also one of NumPy or torch.

    >>> integer("epochs", 3, min_value=0)
    3
    """
    if not is_integer(value) or value < min_value:
        raise ValueError(f"`{name}` must be an integer of at least {min_value}. Received: {describe(value)}.")
    return _native(name, value)


def batch_size(value: Any, name: str = "batch_size") -> int:
    """Accept a positive integer; `None` is 32."""
    if value is None:
        return 32
    if not is_integer(value) or value < 1:
        raise ValueError(f"`{name}` must be a positive integer. Received: {describe(value)}.")
    return _native(name, value)


def steps(name: str, value: Any) -> int | None:
    """Accept a positive number of steps; `None` and -1 mean "until the data end" and give `None`."""
    if value is None or (is_integer(value) and value == -1):
        return None
    if not is_integer(value) or value < 1:
        raise ValueError(
            f"`{name}` must be a positive integer, -1 or None (until the data end). Received: {describe(value)}."
        )
    return _native(name, value)


def fraction(name: str, value: Any) -> float:
    """Accept a number between 0 and 1, both excluded, also one of NumPy."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) < 1:
        raise ValueError(f"`{name}` must be a number between 0 and 1. Received: {describe(value)}.")
    return float(value)


def epochs_or_frequency(name: str, value: Any) -> int | Container[int]:
    """Accept a positive integer, or a container of integers."""
    if is_integer(value) and value > 0:
        return _native(name, value)
    is_collection = isinstance(value, Container) and not isinstance(value, (str, bytes, bytearray, type))
    if is_collection and _holds_integers(value):
        return value  # type: ignore[no-any-return]
    raise ValueError(
        f"`{name}` must be a positive integer or a container of epochs (counted from 1). Received: {describe(value)}."
    )


def is_integer(value: Any) -> bool:
    """Return whether `value` is a single integer and no bool.

    >>> is_integer(3), is_integer(True), is_integer(int), is_integer([3])
    (True, False, False, False)
    """
    is_array = getattr(value, "shape", ()) != ()
    if is_array or isinstance(value, (bool, type)) or str(getattr(value, "dtype", "")).endswith("bool"):
        return False
    try:
        operator.index(value)
    except TypeError:
        return False
    return True


def _native(name: str, value: Any) -> int:
    number = operator.index(value)
    if number > sys.maxsize:
        raise ValueError(f"`{name}` must be at most {sys.maxsize}. Received: {describe(number)}.")
    return number


def _holds_integers(value: Any) -> bool:
    if isinstance(value, range) or not isinstance(value, Iterable):
        return True
    return getattr(value, "ndim", 1) == 1 and all(map(is_integer, value))
