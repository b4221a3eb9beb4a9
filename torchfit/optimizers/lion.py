"""Lion."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from torchfit._types import Config
from torchfit.optimizers import _arguments
from torchfit.optimizers._foreach import Scalar, Tensors, add_scaled_, ema_
from torchfit.optimizers.base import Optimizer, Slots
from torchfit.optimizers.schedules.base import LearningRate

if TYPE_CHECKING:
    from torchfit.optimizers._arguments import CommonKwargs, Unpack


class Lion(Optimizer):
    """Move every parameter by the learning rate, in the direction of the sign of an interpolated momentum.

    `p -= rate * sign(beta_1 * m + (1 - beta_1) * g)`, then `m = beta_2 * m + (1 - beta_2) * g`. It wants a learning
    rate three to ten times smaller, and a weight decay as many times larger, than Adam.

    Source: Chen et al., "Symbolic Discovery of Optimization Algorithms", 2023.

    Args:
        learning_rate: see `Optimizer`. Default 0.001.
        beta_1: the share of the momentum in the direction, in (0, 1].
        beta_2: how much of the momentum is kept, in [0, 1].
        **common: what every optimizer takes (`weight_decay`, `clipnorm`, …); see `Optimizer`.

    Raises:
        ValueError: an argument is outside its range.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.99,
        **common: Unpack[CommonKwargs],
    ):
        super().__init__(learning_rate, **common)
        rule = "a float in the range (0, 1], since 0 is plain sign descent"
        self.beta_1 = _arguments.check("beta_1", beta_1, rule, lambda beta: 0 < beta <= 1)
        self.beta_2 = _arguments.in_unit_interval("beta_2", beta_2)

    def slot_names(self) -> tuple[str, ...]:
        """The momentum of each parameter."""
        return ("momentum",)

    def update_rule(
        self, parameters: Tensors, gradients: Tensors, slots: Slots, learning_rate: Scalar, step: Scalar
    ) -> None:
        """Move the parameters by the sign of the interpolated momentum."""
        (momentums,) = slots
        directions = list(torch._foreach_lerp(momentums, gradients, 1 - self.beta_1))
        torch._foreach_sign_(directions)
        add_scaled_(parameters, directions, -learning_rate)
        ema_(momentums, gradients, self.beta_2)

    def get_config(self) -> Config:
        """Return the constructor's arguments as plain data."""
        return {**super().get_config(), "beta_1": self.beta_1, "beta_2": self.beta_2}
