"""Schedules that decay the learning rate, and look-up of schedules by name."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from torchfit._types import Config
from torchfit._utils.errors import describe
from torchfit._utils.registry import Registry
from torchfit.optimizers.schedules.base import LearningRateSchedule


def positive_steps(argument: str, value: float) -> float:
    """Return a count of steps, or raise if it is not above 0."""
    if isinstance(value, (str, bool)) or not value > 0:
        raise ValueError(f"`{argument}` must be > 0. Received: {argument}={describe(value)}")
    return value


class ExponentialDecay(LearningRateSchedule):
    """`initial_learning_rate * decay_rate ** (step / decay_steps)`.

    Args:
        initial_learning_rate: The rate of step 0.
        decay_steps: After how many steps the rate is `decay_rate` times what it was; > 0.
        decay_rate: The factor.
        staircase: Fall only at multiples of `decay_steps`.
        name: What the schedule is called.

    >>> ExponentialDecay(0.1, decay_steps=10, decay_rate=0.5)(20)
    0.025
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: float,
        decay_rate: float,
        staircase: bool = False,
        name: str = "ExponentialDecay",
    ):
        self.initial_learning_rate = initial_learning_rate
        self.decay_steps = positive_steps("decay_steps", decay_steps)
        self.decay_rate = decay_rate
        self.staircase = staircase
        self.name = name

    def __call__(self, step: int) -> float:
        """Return the learning rate of this step (a count from 0)."""
        periods = step / self.decay_steps
        return float(self.initial_learning_rate * self.decay_rate ** _whole(periods, self.staircase))

    def get_config(self) -> Config:
        """Return the constructor's arguments as plain data."""
        return {
            "initial_learning_rate": self.initial_learning_rate,
            "decay_steps": self.decay_steps,
            "decay_rate": self.decay_rate,
            "staircase": self.staircase,
            "name": self.name,
        }


class InverseTimeDecay(LearningRateSchedule):
    """`initial_learning_rate / (1 + decay_rate * step / decay_steps)`.

    Args:
        initial_learning_rate: The rate of step 0.
        decay_steps: The unit in which steps are counted; > 0.
        decay_rate: How fast the rate falls.
        staircase: Fall only at multiples of `decay_steps`.
        name: What the schedule is called.

    >>> InverseTimeDecay(0.1, decay_steps=10, decay_rate=0.5)(20)
    0.05
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: float,
        decay_rate: float,
        staircase: bool = False,
        name: str = "InverseTimeDecay",
    ):
        self.initial_learning_rate = initial_learning_rate
        self.decay_steps = positive_steps("decay_steps", decay_steps)
        self.decay_rate = decay_rate
        self.staircase = staircase
        self.name = name

    def __call__(self, step: int) -> float:
        """Return the learning rate of this step (a count from 0)."""
        periods = _whole(step / self.decay_steps, self.staircase)
        return float(self.initial_learning_rate / (1 + self.decay_rate * periods))

    def get_config(self) -> Config:
        """Return the constructor's arguments as plain data."""
        return {
            "initial_learning_rate": self.initial_learning_rate,
            "decay_steps": self.decay_steps,
            "decay_rate": self.decay_rate,
            "staircase": self.staircase,
            "name": self.name,
        }


class PolynomialDecay(LearningRateSchedule):
    """`(initial - end) * (1 - step / decay_steps) ** power + end`, and `end` from `decay_steps` on.

    Args:
        initial_learning_rate: The rate of step 0.
        decay_steps: When `end_learning_rate` is reached; > 0.
        end_learning_rate: The last rate.
        power: 1 falls along a line.
        cycle: Instead of staying at the end, stretch `decay_steps` to its next multiple beyond the step.
        name: What the schedule is called.

    >>> PolynomialDecay(0.1, decay_steps=10, end_learning_rate=0.0)(5)
    0.05
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: float,
        end_learning_rate: float = 0.0001,
        power: float = 1.0,
        cycle: bool = False,
        name: str = "PolynomialDecay",
    ):
        self.initial_learning_rate = initial_learning_rate
        self.decay_steps = positive_steps("decay_steps", decay_steps)
        self.end_learning_rate = end_learning_rate
        self.power = power
        self.cycle = cycle
        self.name = name

    def __call__(self, step: int) -> float:
        """Return the learning rate of this step (a count from 0)."""
        cycles = max(1, math.ceil(step / self.decay_steps)) if self.cycle else 1
        left = 1 - min(1.0, step / (self.decay_steps * cycles))
        span = self.initial_learning_rate - self.end_learning_rate
        return float(span * left**self.power + self.end_learning_rate)

    def get_config(self) -> Config:
        """Return the constructor's arguments as plain data."""
        return {
            "initial_learning_rate": self.initial_learning_rate,
            "decay_steps": self.decay_steps,
            "end_learning_rate": self.end_learning_rate,
            "power": self.power,
            "cycle": self.cycle,
            "name": self.name,
        }


class PiecewiseConstantDecay(LearningRateSchedule):
    """One rate up to and including each boundary, the next one after it.

    Args:
        boundaries: Steps, rising.
        values: One rate more than there are boundaries.
        name: What the schedule is called.

    >>> rate = PiecewiseConstantDecay([100, 200], [0.1, 0.05, 0.01])
    >>> rate(100), rate(101), rate(1000)
    (0.1, 0.05, 0.01)
    """

    def __init__(self, boundaries: Sequence[float], values: Sequence[float], name: str = "PiecewiseConstant"):
        if len(boundaries) != len(values) - 1:
            raise ValueError(
                "`boundaries` must have one entry less than `values`. Received: "
                f"{len(boundaries)} boundaries and {len(values)} values."
            )
        if list(boundaries) != sorted(boundaries):
            raise ValueError(f"`boundaries` must rise. Received: boundaries={list(boundaries)}")
        self.boundaries = list(boundaries)
        self.values = list(values)
        self.name = name

    def __call__(self, step: int) -> float:
        """Return the learning rate of this step (a count from 0)."""
        return float(self.values[bisect_left(self.boundaries, step)])

    def get_config(self) -> Config:
        """Return the constructor's arguments as plain data."""
        return {"boundaries": list(self.boundaries), "values": list(self.values), "name": self.name}


def _whole(periods: float, staircase: bool) -> float:
    return math.floor(periods) if staircase else periods


def _cosine(fraction: float) -> float:
    """Fall from 1 to 0 as the fraction goes from 0 to 1."""
    return 0.5 * (1 + math.cos(math.pi * fraction))


class CosineDecay(LearningRateSchedule):
    """A line up for `warmup_steps`, then half a cosine down to `alpha` times the peak, after `decay_steps` more.

    Source: Loshchilov & Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2016.

    Args:
        initial_learning_rate: The rate of step 0.
        decay_steps: How long the rate falls; > 0.
        alpha: The last rate, as a share of the peak.
        name: What the schedule is called.
        warmup_target: The peak, at the end of the warm-up. Default `None`: no warm-up, the peak is the initial rate.
        warmup_steps: How long the warm-up takes.

    >>> CosineDecay(0.1, decay_steps=10)(5)
    0.05
    >>> CosineDecay(0.0, decay_steps=10, warmup_target=0.1, warmup_steps=4)(2)
    0.05
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: float,
        alpha: float = 0.0,
        name: str = "CosineDecay",
        warmup_target: float | None = None,
        warmup_steps: int = 0,
    ):
        self.initial_learning_rate = initial_learning_rate
        self.decay_steps = positive_steps("decay_steps", decay_steps)
        self.alpha = alpha
        self.name = name
        self.warmup_target = warmup_target
        self.warmup_steps = warmup_steps

    def __call__(self, step: int) -> float:
        """Return the learning rate of this step (a count from 0)."""
        start = self.initial_learning_rate
        if self.warmup_target is None:
            return float(start * self._decayed(step))
        if step < self.warmup_steps:
            return float(start + (self.warmup_target - start) * step / self.warmup_steps)
        return float(self.warmup_target * self._decayed(step - self.warmup_steps))

    def _decayed(self, step: float) -> float:
        return (1 - self.alpha) * _cosine(min(1.0, step / self.decay_steps)) + self.alpha

    def get_config(self) -> Config:
        """Return the constructor's arguments as plain data."""
        return {
            "initial_learning_rate": self.initial_learning_rate,
            "decay_steps": self.decay_steps,
            "alpha": self.alpha,
            "name": self.name,
            "warmup_target": self.warmup_target,
            "warmup_steps": self.warmup_steps,
        }


class CosineDecayRestarts(LearningRateSchedule):
    """Half a cosine down, again and again: each period `t_mul` times as long, each peak `m_mul` times as high.

    Source: Loshchilov & Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2016.

    Args:
        initial_learning_rate: The first peak.
        first_decay_steps: How long the first period is; > 0.
        t_mul: The factor from one period's length to the next; >= 1.
        m_mul: The factor from one period's peak to the next.
        alpha: The lowest rate, as a share of the initial one.
        name: What the schedule is called.

    >>> rate = CosineDecayRestarts(0.1, first_decay_steps=10, m_mul=0.5)
    >>> rate(0), rate(5), rate(10)
    (0.1, 0.05, 0.05)
    """

    def __init__(
        self,
        initial_learning_rate: float,
        first_decay_steps: float,
        t_mul: float = 2.0,
        m_mul: float = 1.0,
        alpha: float = 0.0,
        name: str = "SGDRDecay",
    ):
        self.initial_learning_rate = initial_learning_rate
        self.first_decay_steps = positive_steps("first_decay_steps", first_decay_steps)
        self.t_mul = positive_steps("t_mul", t_mul)
        self.m_mul = m_mul
        self.alpha = alpha
        self.name = name

    def __call__(self, step: int) -> float:
        """Return the learning rate of this step (a count from 0)."""
        restarts, fraction = self._position(step / self.first_decay_steps)
        decayed = (1 - self.alpha) * self.m_mul**restarts * _cosine(fraction) + self.alpha
        return float(self.initial_learning_rate * decayed)

    def _position(self, periods: float) -> tuple[int, float]:
        """Return how many periods are over, and which fraction of the present one."""
        if self.t_mul == 1:
            return math.floor(periods), periods % 1
        restarts = math.floor(math.log(1 + periods * (self.t_mul - 1), self.t_mul) + 1e-9)
        begun = (self.t_mul**restarts - 1) / (self.t_mul - 1)
        return restarts, (periods - begun) / self.t_mul**restarts

    def get_config(self) -> Config:
        """Return the constructor's arguments as plain data."""
        return {
            "initial_learning_rate": self.initial_learning_rate,
            "first_decay_steps": self.first_decay_steps,
            "t_mul": self.t_mul,
            "m_mul": self.m_mul,
            "alpha": self.alpha,
            "name": self.name,
        }


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
        config: What `serialize` returned, by torchfit or by Keras.
        custom_objects: Your own schedule classes and functions, by name.

    Raises:
        ValueError: No schedule has this name.

    >>> deserialize(serialize(ExponentialDecay(0.1, 100, 0.5)))(100)
    0.05
    """
    return _FAMILY.deserialize(config, custom_objects)
