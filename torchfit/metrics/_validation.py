"""Checks of constructor arguments that several metrics share."""

from typing import TypeVar

from torchfit._types import TensorLike
from torchfit._utils.errors import describe

Choice = TypeVar("Choice")


def choice(argument: str, value: Choice, allowed: tuple[Choice, ...]) -> Choice:
    """Return `value` if it is allowed; names without regard to case."""
    for choice in allowed:
        if value == choice or (isinstance(value, str) and value.lower() == str(choice).lower()):
            return choice
    raise ValueError(f"`{argument}` must be one of {allowed}. Received: {describe(value)}.")


def integer(argument: str, value: object, min_value: int) -> int:
    """Return an integer of at least `min_value`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < min_value:
        raise ValueError(f"`{argument}` must be an integer of at least {min_value}. Received: {describe(value)}.")
    return value


def optional_integer(argument: str, value: object, min_value: int) -> int | None:
    """Return `None` or an integer of at least `min_value`."""
    return None if value is None else integer(argument, value, min_value)


def unit_interval(argument: str, value: object) -> float:
    """Return a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"`{argument}` must be a number from 0 to 1. Received: {describe(value)}.")
    return value


def unit_intervals(argument: str, value: TensorLike) -> list[float]:
    """Return one or several numbers from 0 to 1 as a list."""
    values = list(value) if isinstance(value, (list, tuple)) or hasattr(value, "__len__") else [value]
    try:
        return [float(unit_interval(argument, item.item() if hasattr(item, "item") else item)) for item in values]
    except ValueError:
        raise ValueError(
            f"`{argument}` must be a number, or a list of numbers, from 0 to 1. Received: {describe(value)}."
        ) from None
