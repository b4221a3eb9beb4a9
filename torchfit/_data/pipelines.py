"""Turns the data arguments of `fit`, `evaluate` and `predict` into adapters, and adapters into `EpochIterator`s."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Real

from torch import Tensor

from torchfit._data.adapters.base import DataAdapter
from torchfit._data.adapters.dispatch import get_data_adapter
from torchfit._data.batch_converter import batch_of_arrays, is_plain_array
from torchfit._data.batch_source import BatchSource
from torchfit._data.convert import BatchSpec, hint_for_pairs, is_numeric
from torchfit._data.epoch_iterator import EpochIterator, make_order
from torchfit._data.sharding import WHOLE_BATCHES
from torchfit._data.workers import LoaderConfig
from torchfit._types import UserData
from torchfit._utils import validation
from torchfit._utils.errors import describe
from torchfit._utils.tree import Batch


def make_training_adapters(
    x: UserData,
    y: UserData,
    sample_weight: UserData,
    class_weight: object,
    validation_split: float,
    validation_data: UserData,
    batch_spec: BatchSpec,
) -> tuple[DataAdapter, DataAdapter | None]:
    """Return the training data, weighted by class, and the validation data, passed or held out of `x`.

    Raises:
        ValueError: If the data or an argument are invalid.
    """
    adapter, held_out = get_data_adapter(x, y, sample_weight, batch_spec), None
    if validation_data is not None:
        parts = unpack_validation_data(validation_data)
        with _named("validation_data"):
            held_out = get_data_adapter(*parts, batch_spec)
    elif not _is_zero(validation_split):
        adapter, held_out = adapter.split(validation_split)
    return adapter.with_class_weight(class_weight), held_out


@contextmanager
def _named(argument: str) -> Iterator[None]:
    """Name the argument that the data were passed as in errors."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"In `{argument}`: {error}") from error


def _is_zero(value: UserData) -> bool:
    return value is None or (isinstance(value, Real) and float(value) == 0)


def make_training_batches(
    adapter: DataAdapter,
    batch_size: int | None,
    shuffle: bool | str,
    steps_per_epoch: object,
    epochs: object,
    loader_config: LoaderConfig,
) -> EpochIterator:
    """Return the batches to train on; `shuffle` has no effect with `steps_per_epoch`.

    Raises:
        ValueError: If an argument is invalid, or not used with this kind of data.
    """
    epochs = validation.integer("epochs", epochs, min_value=0)
    make_order(shuffle)
    shuffle = shuffle if steps_per_epoch is None else False
    batches = adapter.own_batches(batch_size, shuffle=shuffle, loader_config=loader_config)
    return EpochIterator(batches, steps_per_epoch, epochs=epochs)


class OneBatch(BatchSource):
    """A single batch, which is converted for every pass.

    Args:
        given: The batch, of plain arrays.
        batch_spec: The dtypes and the device.
    """

    steps = 1

    def __init__(self, given: Batch, batch_spec: BatchSpec) -> None:
        self._given, self._batch_spec = given, batch_spec
        self.samples = len(given[0])

    def epoch(self, index: int, start: int = 0) -> Iterator[Batch]:
        """Return an iterator over the batch."""
        return iter((self.peek(),))

    reread = epoch

    def peek(self) -> Batch:
        """Return the batch."""
        return batch_of_arrays(self._given, self._batch_spec)


def make_evaluation_batches(
    x: UserData,
    y: UserData,
    sample_weight: UserData,
    batch_spec: BatchSpec,
    batch_size: int | None,
    steps: object,
    loader_config: LoaderConfig,
) -> BatchSource:
    """Return the batches to evaluate or predict on, in the order of the data.

    Raises:
        ValueError: If the data or an argument are invalid, or an argument is not used with this kind of data.
    """
    given = Batch(x, y, sample_weight)
    if steps is None and batch_spec.share is WHOLE_BATCHES and _fits_in_one_batch(given, batch_size):
        return OneBatch(given, batch_spec)
    adapter = get_data_adapter(x, y, sample_weight, batch_spec)
    batches = adapter.own_batches(batch_size, loader_config=loader_config)
    return EpochIterator(batches, steps, argument="steps")


def _fits_in_one_batch(given: Batch, batch_size: int | None) -> bool:
    """Return whether all parts are plain arrays of numbers, with as many rows each as fit into one batch."""
    if not all(map(_is_plain_array_of_numbers, given)):
        return False
    lengths = {len(part) for part in given}
    return len(lengths) == 1 and 0 < lengths.pop() <= validation.batch_size(batch_size)


def _is_plain_array_of_numbers(value: UserData) -> bool:
    if not is_plain_array(value) or not value.ndim:
        return False
    return not value.requires_grad if isinstance(value, Tensor) else is_numeric(value.dtype)


def make_validation_batches(
    adapter: DataAdapter | None,
    batch_size: int | None,
    validation_batch_size: int | None,
    validation_steps: object,
    loader_config: LoaderConfig | None = None,
) -> EpochIterator | None:
    """Return the batches to validate on, or `None` without validation data; the default batch size is that of training.

    Raises:
        ValueError: If an argument is not used with this kind of data.
    """
    if adapter is None:
        return None
    spec = adapter.spec
    spec.check(validation_batch_size=validation_batch_size)
    validation.batch_size(validation_batch_size, "validation_batch_size")
    size = validation_batch_size
    if size is None and spec.supports("batch_size"):
        size = batch_size
    loader_config = loader_config if spec.supports("workers") else None
    batches = adapter.own_batches(size, loader_config=loader_config)
    return EpochIterator(
        batches, validation_steps, argument="validation_steps", data="validation_data", restart_each_epoch=True
    )


def unpack_validation_data(data: UserData) -> tuple[UserData, UserData, UserData]:
    """Return the parts `(x, y, sample_weight)` of a tuple of one to three; anything but a tuple is `x`.

    Raises:
        ValueError: If `data` is a tuple of another length, or a named tuple.
    """
    if not isinstance(data, (tuple, list)):
        return data, None, None
    if len(data) not in (1, 2, 3) or hasattr(data, "_fields"):
        raise ValueError(
            "`validation_data` must be (x, y) or (x, y, sample_weight), or data that carry their targets, such as a "
            f"DataLoader, but it is {describe(data)}. {hint_for_pairs(data)}".rstrip()
        )
    x, y, sample_weight = (*data, None, None)[:3]
    return x, y, sample_weight


def validation_schedule(validation_freq: object) -> Callable[[int], bool]:
    """Return a function that returns whether to validate after an epoch, counted from 1.

    Raises:
        ValueError: If `validation_freq` is neither a positive integer nor a container of epochs.
    """
    schedule = validation.frequency_or_epochs("validation_freq", validation_freq)
    if isinstance(schedule, int):
        return lambda epoch: epoch % schedule == 0
    return lambda epoch: epoch in schedule
