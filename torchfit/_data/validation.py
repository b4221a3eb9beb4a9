"""What `fit` takes for validation: the data, and when it is due."""

from collections.abc import Callable, Container
from typing import Any

from torchfit._support.errors import describe


def unpack_validation(data: Any) -> tuple[Any, Any, Any]:
    """Return `(x, y, sample_weight)` of a tuple of two or three.

    Raises:
        ValueError: If it is anything else.
    """
    if not isinstance(data, (tuple, list)) or len(data) not in (2, 3):
        raise ValueError(f"`validation_data` must be (x, y) or (x, y, sample_weight), but it is {describe(data)}.")
    x, y, *weights = data
    return x, y, weights[0] if weights else None


def due_epochs(frequency: Any) -> Callable[[int], bool]:
    """Return a function that tells whether an epoch, counted from 1, is validated.

    Raises:
        ValueError: If `validation_freq` is neither a positive integer nor a container of epochs.
    """
    if isinstance(frequency, int) and not isinstance(frequency, bool) and frequency > 0:
        return lambda epoch: epoch % frequency == 0
    if isinstance(frequency, Container) and not isinstance(frequency, str):
        return lambda epoch: epoch in frequency
    raise ValueError(
        "`validation_freq` must be a positive integer or a container of epochs (counted from 1), but it is "
        f"{describe(frequency)}."
    )
