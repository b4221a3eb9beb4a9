"""Checks of arguments. Each returns the value, or raises a `ValueError` that names the argument."""

import inspect
import math
import numbers
import operator
import sys
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any, SupportsIndex, TypeGuard

from torchfit._utils.errors import describe

_DATA_BY_NAME = (
    " Data are passed there by name: `validation_data=(x, y)` or `sample_weight=`; `predict` takes inputs alone."
)


def boolean(name: str, value: object) -> bool:
    """Accept `True`, `False`, 1, 0 and NumPy bools."""
    if not (is_bool(value) or (is_integer(value) and value in (0, 1))):
        raise ValueError(f"`{name}` must be True or False. Received: {describe(value)}.")
    return bool(value)


def optional_boolean(name: str, value: object) -> bool | None:
    """Accept the same values as `boolean`, and `None`."""
    return None if value is None else boolean(name, value)


def names(name: str, value: object) -> list[str] | None:
    """Accept a list or tuple of strings, a single string (a list of one), or `None`."""
    if value is None:
        return None
    strings = [value] if isinstance(value, str) else value
    if not isinstance(strings, (list, tuple)) or not all(isinstance(entry, str) for entry in strings):
        raise ValueError(f"`{name}` must be a list of strings. Received: {describe(value)}.")
    return list(strings)


def number(name: str, value: object, low: float = -math.inf, high: float = math.inf) -> float:
    """Accept a number from `low` to `high`, inclusive."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not low <= float(value) <= high:
        raise ValueError(f"`{name}` must be a number{_bounds(low, high)}. Received: {describe(value)}.")
    return float(value)


def optional_number(name: str, value: object) -> None:
    """Accept any number, including NaN, and `None`."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, numbers.Real)):
        raise ValueError(f"`{name}` must be a number or None. Received: {describe(value)}.")


def number_between(name: str, value: object, low: float, high: float = math.inf) -> float:
    """Accept a number between `low` and `high`, exclusive."""
    checked = number(name, value)
    if checked <= low or checked >= high:
        until = "" if high == math.inf else f" and less than {high:g}"
        raise ValueError(f"`{name}` must be greater than {low:g}{until}. Received: {describe(value)}.")
    return checked


def number_or_numbers(name: str, value: object, low: float = -math.inf, high: float = math.inf) -> float | list[float]:
    """Accept a number from `low` to `high`, or a sequence of them."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [number(name, item, low, high) for item in value]
    return number(name, value, low, high)


def integer(name: str, value: object, min_value: float = -math.inf) -> int:
    """Accept an integer of Python, NumPy or torch, of at least `min_value`.

    >>> integer("epochs", 3, min_value=0)
    3
    """
    if not is_integer(value) or value < min_value:
        at_least = f" of at least {min_value}" if min_value > -math.inf else ""
        raise ValueError(f"`{name}` must be an integer{at_least}. Received: {describe(value)}.")
    return _native(name, value)


def axes(name: str, value: object) -> int | tuple[int, ...] | None:
    """Accept an integer, a sequence of them, or `None`."""
    if value is None:
        return None
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(integer(name, axis) for axis in value)
    return integer(name, value)


def batch_size(value: object, name: str = "batch_size") -> int:
    """Accept a positive integer; `None` means 32."""
    if value is None:
        return 32
    if not is_integer(value) or value < 1:
        is_data = not isinstance(value, (str, type)) and (hasattr(value, "__len__") or hasattr(value, "__iter__"))
        raise ValueError(
            f"`{name}` must be a positive integer. Received: {describe(value)}.{_DATA_BY_NAME if is_data else ''}"
        )
    return _native(name, value)


def steps(name: str, value: object) -> int | None:
    """Accept a positive number of steps; return `None` for `None` and -1, which mean "until the data end"."""
    if value is None or (is_integer(value) and value == -1):
        return None
    if not is_integer(value) or value < 1:
        raise ValueError(
            f"`{name}` must be a positive integer, -1 or None (until the data end). Received: {describe(value)}."
        )
    return _native(name, value)


def fraction(name: str, value: object) -> float:
    """Accept a number between 0 and 1, exclusive."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 < float(value) < 1:
        raise ValueError(f"`{name}` must be a number between 0 and 1. Received: {describe(value)}.")
    return float(value)


def frequency_or_epochs(name: str, value: object) -> int | Container[int]:
    """Accept a positive integer, or a container of integers."""
    if is_integer(value) and value > 0:
        return _native(name, value)
    is_text_or_class = isinstance(value, (str, bytes, bytearray, type))
    if isinstance(value, Container) and not is_text_or_class and _holds_integers(value):
        return value
    raise ValueError(
        f"`{name}` must be a positive integer or a container of epochs (counted from 1). Received: {describe(value)}."
    )


def save_freq(name: str, value: object, *words: str) -> str | int:
    """Return a word such as "epoch", or a positive number of batches.

    Raises:
        ValueError: For anything else.

    >>> save_freq("save_freq", "epoch"), save_freq("save_freq", 100)
    ('epoch', 100)
    """
    words = words or ("epoch",)
    if isinstance(value, str) and value in words:
        return value
    if is_integer(value) and value > 0:
        return _native(name, value)
    expected = ", ".join(map(repr, words))
    raise ValueError(f"{name}: expected {expected} or a positive number of batches. Received: {describe(value)}")


def takes_targets_and_predictions(argument: str, function: Callable[..., object]) -> None:
    """Check that a function can be called as `(y_true, y_pred)`.

    Raises:
        ValueError: If it takes fewer or more arguments.

    >>> takes_targets_and_predictions("loss", lambda y_pred: 0)
    Traceback (most recent call last):
    ValueError: `loss` must be a function (y_true, y_pred), but <lambda> takes (y_pred).
    """
    function = getattr(function, "forward", function)
    if not accepts(function, 2):
        name = getattr(function, "__name__", type(function).__name__)
        parameters = ", ".join(inspect.signature(function).parameters)
        raise ValueError(f"`{argument}` must be a function (y_true, y_pred), but {name} takes ({parameters}).")


def accepts(function: Callable[..., object], count: int) -> bool:
    """Return whether a function can be called with `count` positional arguments; `True` if that is unknown.

    >>> accepts(lambda y_true, y_pred: 0, 2), accepts(lambda outputs: 0, 2), accepts(max, 2)
    (True, False, True)
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # Functions written in C may have no signature.
        return True
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True


def named_parameters(function: Callable[..., object]) -> list[inspect.Parameter]:
    """Return the parameters of a function, without `*args` and `**kwargs`."""
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [each for each in inspect.signature(function).parameters.values() if each.kind not in variadic]


def is_required(parameter: inspect.Parameter) -> bool:
    """Return whether a parameter has no default."""
    return parameter.default is inspect.Parameter.empty


def is_integer(value: Any) -> TypeGuard[int]:
    """Return whether `value` is a single integer, and not a bool.

    >>> is_integer(3), is_integer(True), is_integer(int), is_integer([3])
    (True, False, False, False)
    """
    if type(value) is int:  # The common case, decided quickly.
        return True
    if getattr(value, "shape", ()) != () or isinstance(value, type) or is_bool(value):
        return False
    try:
        operator.index(value)
    except TypeError:
        return False
    return True


def is_bool(value: object) -> bool:
    """Return whether `value` is a bool of Python, NumPy or torch."""
    if isinstance(value, (bool, int)):
        return isinstance(value, bool)
    return str(getattr(value, "dtype", "")).endswith("bool") and getattr(value, "shape", None) == ()


def _native(name: str, value: SupportsIndex) -> int:
    number = operator.index(value)
    if abs(number) > sys.maxsize:
        raise ValueError(f"`{name}` must be at most {sys.maxsize}. Received: {describe(number)}.")
    return number


def _holds_integers(value: object) -> bool:
    if isinstance(value, range) or not isinstance(value, Iterable):
        return True
    return getattr(value, "ndim", 1) == 1 and all(map(is_integer, value))


def _bounds(low: float, high: float) -> str:
    if high < math.inf:
        return f" from {low:g} to {high:g}"
    return f", at least {low:g}" if low > -math.inf else ""
