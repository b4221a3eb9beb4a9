"""Adamax."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from torchfit._types import Config
from torchfit.optimizers import _arguments
from torchfit.optimizers._foreach import Scalar, Tensors, add_quotient_, ema_, one_minus_power
from torchfit.optimizers.base import Optimizer, Slots
from torchfit.optimizers.schedules.base import LearningRate

if TYPE_CHECKING:
    from torchfit.optimizers._arguments import CommonKwargs, Unpack


class Adamax(Optimizer):
    """Adam with the largest gradient so far, slowly forgotten, in place of the root mean square.

    `m = beta_1 * m + (1 - beta_1) * g`, `u = max(beta_2 * u, |g|)`, then
    `p -= rate / (1 - beta_1**step) * m / (u + epsilon)`.

    Source: Kingma & Ba, "Adam: A Method for Stochastic Optimization", 2014, section 7.1.

    Args:
        learning_rate: see `Optimizer`. Default 0.001.
        beta_1: how much of the mean gradient is kept, in [0, 1).
        beta_2: how much of the largest gradient is kept, in [0, 1).
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
        """The mean gradient and the largest one."""
        return ("momentum", "norm")

    def update_rule(
        self, parameters: Tensors, gradients: Tensors, slots: Slots, learning_rate: Scalar, step: Scalar
    ) -> None:
        """Move the parameters by the mean gradient over the largest one."""
        momentums, norms = slots
        ema_(momentums, gradients, self.beta_1)
        torch._foreach_mul_(norms, self.beta_2)
        torch._foreach_maximum_(norms, torch._foreach_abs(gradients))
        denominators = list(torch._foreach_add(norms, max(self.epsilon, self._epsilon_floor)))
        add_quotient_(parameters, momentums, denominators, -learning_rate / one_minus_power(self.beta_1, step))

    def get_config(self) -> Config:
        """Return the constructor's arguments as plain data."""
        own = {"beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}
        return {**super().get_config(), **own}
