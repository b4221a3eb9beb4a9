"""What `fit` takes for validation: the data, and when it is due."""

from collections.abc import Callable, Container
from typing import Any

from torchfit._data.arguments import Loading, check_batch_size
from torchfit._data.pace import Paced
from torchfit._data.source import Source
from torchfit._utils.errors import describe


def unpack_validation(data: Any) -> tuple[Any, Any, Any]:
    """Return `(x, y, sample_weight)` of a tuple of one to three; everything else is `x`, with what it carries.

    Raises:
        ValueError: If it is a tuple of another length, or a named one.
    """
    if not isinstance(data, (tuple, list)):
        return data, None, None
    if len(data) not in (1, 2, 3) or hasattr(data, "_fields"):
        raise ValueError(
            "`validation_data` must be (x, y) or (x, y, sample_weight), or data that carry their targets, such as a "
            f"DataLoader, but it is {describe(data)}."
        )
    x, y, sample_weight = (*data, None, None)[:3]
    return x, y, sample_weight


def validation_batches(
    source: Source | None,
    batch_size: int | None,
    validation_batch_size: int | None,
    validation_steps: Any,
    loading: Loading | None = None,
) -> Paced | None:
    """Return the batches of a validation, if there is one; data without a size of their own get that of the training.

    Raises:
        ValueError: If an argument is not used with this form of data.
    """
    if source is None:
        return None
    form = source.form
    form.check(validation_batch_size=validation_batch_size)
    size = validation_batch_size or (batch_size if form.takes("batch_size") else None)
    check_batch_size(validation_batch_size, "validation_batch_size")
    loading = loading if form.takes("workers") else None
    batches = source.batches(size, loading=loading)
    return Paced(batches, validation_steps, argument="validation_steps", data="validation_data", restarts=True)


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
