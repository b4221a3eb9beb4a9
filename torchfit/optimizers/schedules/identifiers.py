"""Schedules by name, and as plain data."""

from __future__ import annotations

from typing import Any

from torchfit._types import Config
from torchfit._utils.registry import Registry
from torchfit.optimizers.schedules.decay import (
    CosineDecay,
    CosineDecayRestarts,
    ExponentialDecay,
    InverseTimeDecay,
    PiecewiseConstantDecay,
    PolynomialDecay,
)

_FAMILY = Registry(
    "learning rate schedule",
    "torchfit.optimizers.schedules",
    {
        cls.__name__: cls
        for cls in (
            CosineDecay,
            CosineDecayRestarts,
            ExponentialDecay,
            InverseTimeDecay,
            PiecewiseConstantDecay,
            PolynomialDecay,
        )
    },
)


def serialize(learning_rate_schedule: object) -> Config:
    """Return a schedule (or a named function) as plain data.

    >>> serialize(ExponentialDecay(0.1, 100, 0.5))["class_name"]
    'ExponentialDecay'
    """
    return _FAMILY.serialize(learning_rate_schedule)


def deserialize(config: object, custom_objects: Config | None = None) -> Any:
    """Build the schedule that `serialize` described.

    Args:
        config: what `serialize` returned, by torchfit or by Keras.
        custom_objects: your own schedule classes and functions, by name.

    Raises:
        ValueError: no schedule has this name.

    >>> deserialize(serialize(ExponentialDecay(0.1, 100, 0.5)))(100)
    0.05
    """
    return _FAMILY.deserialize(config, custom_objects)
