"""Checks of arguments, each returning the value in one form."""

from typing import Any

from torchfit._utils.errors import describe


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
