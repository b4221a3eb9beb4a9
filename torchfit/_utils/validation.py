"""Checks of arguments: each returns the value, or raises `ValueError` naming the argument."""

import math
import numbers
from collections.abc import Sequence
from typing import Any

from torchfit._utils.errors import describe


def boolean(name: str, value: Any) -> bool:
    """Accept `True` and `False`."""
    if value not in (True, False):
        raise ValueError(f"`{name}` must be True or False. Received: {describe(value)}.")
    return bool(value)


def number(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    """Accept a number from `low` to `high`, both included."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not low <= float(value) <= high:
        raise ValueError(f"`{name}` must be a number{_bounds(low, high)}. Received: {describe(value)}.")
    return float(value)


def number_between(name: str, value: Any, low: float, high: float = math.inf) -> float:
    """Accept a number between `low` and `high`, both excluded."""
    if number(name, value) <= low or value >= high:
        until = "" if high == math.inf else f" and less than {high:g}"
        raise ValueError(f"`{name}` must be greater than {low:g}{until}. Received: {describe(value)}.")
    return float(value)


def number_or_numbers(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float | list[float]:
    """Accept a number from `low` to `high`, or a sequence of them."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [number(name, item, low, high) for item in value]
    return number(name, value, low, high)


def integer(name: str, value: Any) -> int:
    """Accept an integer."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ValueError(f"`{name}` must be an integer. Received: {describe(value)}.")
    return int(value)


def axes(name: str, value: Any) -> int | tuple[int, ...] | None:
    """Accept an integer, a sequence of them, or `None`."""
    if value is None:
        return None
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(integer(name, axis) for axis in value)
    return integer(name, value)


def save_freq(name: str, value: Any, *words: str) -> Any:
    """Return a word such as "epoch", or a positive number of batches.

    Raises:
        ValueError: for anything else.

    >>> save_freq("save_freq", "epoch"), save_freq("save_freq", 100)
    ('epoch', 100)
    """
    words = words or ("epoch",)
    if isinstance(value, str) and value in words:
        return value
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    expected = ", ".join(map(repr, words))
    raise ValueError(f"{name}: expected {expected} or a positive number of batches. Received: {describe(value)}")


def _bounds(low: float, high: float) -> str:
    if high < math.inf:
        return f" from {low:g} to {high:g}"
    return f", at least {low:g}" if low > -math.inf else ""
