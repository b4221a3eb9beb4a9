"""The data of `fit`, `evaluate` and `predict`: sources and batches for what their arguments ask for."""

from typing import Any

from torchfit._data.arguments import Loading, check_integer
from torchfit._data.convert import Conversion
from torchfit._data.order import order_for
from torchfit._data.pace import Paced
from torchfit._data.source import Source, as_source
from torchfit._data.validation import unpack_validation

__all__ = ["Paced", "training_batches", "training_sources", "whole_pass"]


def training_sources(
    x: Any,
    y: Any,
    sample_weight: Any,
    class_weight: Any,
    validation_split: Any,
    validation_data: Any,
    conversion: Conversion,
) -> tuple[Source, Source | None]:
    """Return what to train on, weighted by class, and what to validate on: data of its own, or held out of `x`.

    Raises:
        ValueError: If the data, or what is asked of them, are not what they must be.
    """
    source, held_out = as_source(x, y, sample_weight, conversion), None
    if validation_data is not None:
        held_out = as_source(*unpack_validation(validation_data), conversion)
    elif validation_split:
        source, held_out = source.split(validation_split)
    return source.weighted(class_weight), held_out


def training_batches(
    source: Source, batch_size: int | None, shuffle: bool | str, steps_per_epoch: Any, epochs: Any, loading: Loading
) -> Paced:
    """Return the batches of a training; `shuffle` has no effect with `steps_per_epoch`.

    Raises:
        ValueError: If an argument is not what it must be, or not used with this form of data.
    """
    epochs = check_integer("epochs", epochs, at_least=0)
    order_for(shuffle)
    batches = source.batches(batch_size, shuffle=shuffle if steps_per_epoch is None else False, loading=loading)
    return Paced(batches, steps_per_epoch, epochs=epochs, device=source.conversion.device)


def whole_pass(source: Source, batch_size: int | None, steps: Any, loading: Loading) -> Paced:
    """Return the batches of an evaluation or prediction, in the order of the data.

    Raises:
        ValueError: If an argument is not what it must be, or not used with this form of data.
    """
    batches = source.batches(batch_size, loading=loading)
    return Paced(batches, steps, argument="steps", device=source.conversion.device)
