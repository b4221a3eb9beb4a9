"""The base class of learning-rate schedules."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TypeAlias

from torchfit._types import Config, TensorLike
from torchfit._utils.errors import describe
from torchfit._utils.names import SuggestsKeywords

Schedule: TypeAlias = Callable[[int], float]
LearningRate: TypeAlias = float | Callable[..., TensorLike]
"""A number, or a schedule: a callable that maps the step (or nothing) to a number."""


class LearningRateSchedule(SuggestsKeywords):
    """A learning rate that is a function of the step. Subclass it, and define `__call__` and `get_config`.

    A schedule has no state: the same step always gives the same rate. Steps are counted from 0, the count of
    gradients that the optimizer was given before (with `gradient_accumulation_steps=n` that is n per update).

    >>> from torchfit.optimizers import SGD
    >>> class Halving(LearningRateSchedule):
    ...     def __init__(self, start):
    ...         self.start = start
    ...     def __call__(self, step):
    ...         return self.start * 0.5**step
    ...     def get_config(self):
    ...         return {"start": self.start}
    >>> SGD(Halving(0.8)).learning_rate
    0.8
    """

    def __call__(self, step: int) -> float:
        """Return the learning rate of this step (a count from 0)."""
        raise NotImplementedError(
            f"{type(self).__name__} must define `__call__(self, step)`, which returns the learning rate."
        )

    def get_config(self) -> Config:
        """Return the constructor's arguments as plain data."""
        raise NotImplementedError(
            f"{type(self).__name__} must define `get_config(self)`, which returns the constructor's arguments, "
            "to be saved."
        )

    @classmethod
    def from_config(cls, config: Config) -> LearningRateSchedule:
        """Build a schedule from what `get_config` returned."""
        return cls(**config)


def as_schedule(rate: Callable[..., TensorLike]) -> Schedule:
    """Return a schedule for any callable: one that takes the step, or none at all (as Keras calls it)."""
    if isinstance(rate, type):
        raise ValueError(
            f"`learning_rate` must be a number, a schedule or a callable. Received: {describe(rate)}. "
            f"Pass an instance, {rate.__name__}(…)."
        )
    try:
        inspect.signature(rate).bind(0)
    except TypeError:
        return lambda step: float(rate())
    except ValueError:  # a builtin without a signature
        return rate
    return rate
