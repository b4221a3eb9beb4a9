"""Checks of constructor arguments: each returns the value, or raises `ValueError` naming the argument."""

import math
import numbers
from collections.abc import Sequence
from typing import Any

from torchfit._utils.errors import describe


def checked_flag(name: str, value: Any) -> bool:
    """Accept `True` and `False`."""
    if value not in (True, False):
        raise ValueError(f"`{name}` must be True or False. Received: {describe(value)}.")
    return bool(value)


def checked_number(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    """Accept a number from `low` to `high`, both included."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not low <= float(value) <= high:
        raise ValueError(f"`{name}` must be a number{_bounds(low, high)}. Received: {describe(value)}.")
    return float(value)


def checked_inner_number(name: str, value: Any, low: float, high: float = math.inf) -> float:
    """Accept a number between `low` and `high`, both excluded."""
    if checked_number(name, value) <= low or value >= high:
        until = "" if high == math.inf else f" and less than {high:g}"
        raise ValueError(f"`{name}` must be greater than {low:g}{until}. Received: {describe(value)}.")
    return float(value)


def checked_integer(name: str, value: Any) -> int:
    """Accept a whole number."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ValueError(f"`{name}` must be an integer. Received: {describe(value)}.")
    return int(value)


def checked_axes(name: str, value: Any) -> int | tuple[int, ...] | None:
    """Accept a whole number, several of them, or `None`."""
    if value is None:
        return None
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(checked_integer(name, axis) for axis in value)
    return checked_integer(name, value)


def checked_alpha(name: str, value: Any) -> float | list[float]:
    """Accept a number at least 0, or a sequence of them."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [checked_number(name, one, 0) for one in value]
    return checked_number(name, value, 0)


def _bounds(low: float, high: float) -> str:
    if high < math.inf:
        return f" from {low:g} to {high:g}"
    return f", at least {low:g}" if low > -math.inf else ""
