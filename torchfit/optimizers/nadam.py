"""Nadam."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from torchfit._types import Config
from torchfit.optimizers import _arguments
from torchfit.optimizers._foreach import (
    Scalar,
    Tensors,
    add_quotient_,
    ema_,
    ema_of_squares_,
    maximum,
    one_minus_power,
    sqrt,
)
from torchfit.optimizers.base import Optimizer, Slots
from torchfit.optimizers.schedules.base import LearningRate

if TYPE_CHECKING:
    from torchfit.optimizers._arguments import CommonKwargs, Unpack

_WARMING = 0.96  # how fast the momentum approaches beta_1, from the paper
_SERIES = [(k, 0.5**k / k * _WARMING**k / (1 - _WARMING**k)) for k in range(1, 25)]


class Nadam(Optimizer):
    """Adam with Nesterov's momentum.

    With `u(t) = beta_1 * (1 - 0.96**t / 2)` and U the product of all u up to the step t:
    `m` and `v` as in `Adam`, `m̂ = u(t + 1) * m / (1 - U * u(t + 1)) + (1 - u(t)) * g / (1 - U)`, then
    `p -= rate * m̂ / (√(v / (1 - beta_2**t)) + epsilon)`.

    Source: Dozat, "Incorporating Nesterov Momentum into Adam", 2016.

    Args:
        learning_rate: see `Optimizer`. Default 0.001.
        beta_1: how much of the mean gradient is kept, in [0, 1).
        beta_2: how much of the mean square is kept, in [0, 1).
        epsilon: keeps the quotient finite.
        **common: what every optimizer takes (`weight_decay`, `clipnorm`, …); see `Optimizer`.

    Raises:
        ValueError: an argument is outside its range.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        **common: Unpack[CommonKwargs],
    ):
        super().__init__(learning_rate, **common)
        self.beta_1 = _arguments.decay_rate("beta_1", beta_1)
        self.beta_2 = _arguments.decay_rate("beta_2", beta_2)
        self.epsilon = _arguments.non_negative("epsilon", epsilon)

    def slot_names(self) -> tuple[str, ...]:
        """The mean gradient and the mean square."""
        return ("momentum", "velocity")

    def update_rule(
        self, parameters: Tensors, gradients: Tensors, slots: Slots, learning_rate: Scalar, step: Scalar
    ) -> None:
        """Move the parameters by the mean gradient, looked ahead, over its root mean square."""
        momentums, velocities = slots
        ema_(momentums, gradients, self.beta_1)
        ema_of_squares_(velocities, gradients, self.beta_2)
        correction = sqrt(one_minus_power(self.beta_2, step))
        roots = list(torch._foreach_sqrt(velocities))
        torch._foreach_add_(roots, maximum(self.epsilon * correction, self._epsilon_floor))
        product, rate = self._momentum_product(step), learning_rate * correction
        ahead = self._momentum(step + 1)
        add_quotient_(parameters, momentums, roots, -rate * ahead / (1 - product * ahead))
        add_quotient_(parameters, gradients, roots, -rate * (1 - self._momentum(step)) / (1 - product))

    def _momentum(self, step: Scalar) -> Scalar:
        """The momentum u(step), which rises to beta_1."""
        momentum: Scalar = self.beta_1 * (1 - 0.5 * _WARMING**step)
        return momentum

    def _momentum_product(self, step: Scalar) -> Scalar:
        """The product of u(1) … u(step), without a state that multiplies them.

        The logarithm of each factor 1 - 0.96**t / 2 is a power series in 0.96**t, and each of its terms sums up over t
        as a geometric series. 24 terms are exact to 1e-9.
        """
        warmed = sum(share * one_minus_power(_WARMING**order, step) for order, share in _SERIES)
        if isinstance(warmed, Tensor):
            product: Tensor = self.beta_1**step * torch.exp(-warmed)
            return product
        return float(self.beta_1**step * math.exp(-warmed))

    def get_config(self) -> Config:
        """Return the constructor's arguments as plain data."""
        own = {"beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}
        return {**super().get_config(), **own}
