"""Learning rates that fall along a cosine."""

from __future__ import annotations

import math

from torchfit._types import Config
from torchfit.optimizers.schedules.base import LearningRateSchedule
from torchfit.optimizers.schedules.decay import positive_steps


def _cosine(fraction: float) -> float:
    """Fall from 1 to 0 as the fraction goes from 0 to 1."""
    return 0.5 * (1 + math.cos(math.pi * fraction))


class CosineDecay(LearningRateSchedule):
    """A line up for `warmup_steps`, then half a cosine down to `alpha` times the peak, after `decay_steps` more.

    Source: Loshchilov & Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2016.

    Args:
        initial_learning_rate: the rate of step 0.
        decay_steps: how long the rate falls; > 0.
        alpha: the last rate, as a share of the peak.
        name: what the schedule is called.
        warmup_target: the peak, at the end of the warm-up. Default `None`: no warm-up, the peak is the initial rate.
        warmup_steps: how long the warm-up takes.

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
        initial_learning_rate: the first peak.
        first_decay_steps: how long the first period is; > 0.
        t_mul: the factor from one period's length to the next; >= 1.
        m_mul: the factor from one period's peak to the next.
        alpha: the lowest rate, as a share of the initial one.
        name: what the schedule is called.

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
