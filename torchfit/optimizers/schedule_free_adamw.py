"""Schedule-free AdamW."""

from __future__ import annotations

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
    minimum,
    one_minus_power,
    sqrt,
)
from torchfit.optimizers.base import Optimizer, Slots
from torchfit.optimizers.schedules.base import LearningRate

if TYPE_CHECKING:
    from torchfit.optimizers._arguments import CommonKwargs, Unpack


class ScheduleFreeAdamW(Optimizer):
    """AdamW whose iterates are averaged instead of their learning rate being scheduled.

    The parameters are `y = (1 - beta_1) * z + beta_1 * x`: z makes Adam's steps (without momentum), x is the mean of
    all z. `v = beta_2 * v + (1 - beta_2) * g²`, `z -= rate * g / (√(v / (1 - beta_2**step)) + epsilon)`,
    `x += (z - x) / step`. As in Keras, the model is used at y, in training and in evaluation.

    Source: Defazio et al., "The Road Less Scheduled", 2024.

    Args:
        learning_rate: see `Optimizer`. Default 0.0025.
        beta_1: the share of the mean x in the parameters, in (0, 1].
        beta_2: how much of the mean square is kept, in [0, 1).
        epsilon: keeps the quotient finite.
        warmup_steps: over how many updates the learning rate rises along a line; >= 0.
        **common: what every optimizer takes (`weight_decay`, `clipnorm`, …); see `Optimizer`.

    Raises:
        ValueError: an argument is outside its range.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.0025,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        warmup_steps: int = 0,
        **common: Unpack[CommonKwargs],
    ):
        super().__init__(learning_rate, **common)
        rule = "a float in the range (0, 1]"
        self.beta_1 = _arguments.check("beta_1", beta_1, rule, lambda beta: 0 < beta <= 1)
        self.beta_2 = _arguments.decay_rate("beta_2", beta_2)
        self.epsilon = _arguments.non_negative("epsilon", epsilon)
        self.warmup_steps = _arguments.integer("warmup_steps", warmup_steps, 0)

    def slot_names(self) -> tuple[str, ...]:
        """The iterate z (called momentum in Keras) and the mean square."""
        return ("momentum", "velocity")

    def init_slot(self, slot: str, parameter: Tensor, name: str) -> Tensor:
        """Begin z at the parameters, and the mean square at 0."""
        return parameter.clone() if slot == "momentum" else torch.zeros_like(parameter)

    def update_rule(
        self, parameters: Tensors, gradients: Tensors, slots: Slots, learning_rate: Scalar, step: Scalar
    ) -> None:
        """Move z by Adam's step, the mean x towards z, and the parameters between the two."""
        iterates, velocities = slots
        if self.warmup_steps:
            learning_rate = learning_rate * minimum(step / self.warmup_steps, 1.0)
        ema_of_squares_(velocities, gradients, self.beta_2)
        correction = sqrt(one_minus_power(self.beta_2, step))
        roots = list(torch._foreach_sqrt(velocities))
        torch._foreach_add_(roots, maximum(self.epsilon * correction, self._epsilon_floor))
        rate, share = -learning_rate * correction, 1 / step
        # With x = (y - (1 - beta_1) * z) / beta_1 put into the formulas, y moves by itself, and x is not needed.
        ema_(parameters, iterates, 1 - share)
        add_quotient_(parameters, gradients, roots, rate * (self.beta_1 * share + 1 - self.beta_1))
        add_quotient_(iterates, gradients, roots, rate)

    def get_config(self) -> Config:
        """Return the constructor's arguments as plain data."""
        return {
            **super().get_config(),
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
            "warmup_steps": self.warmup_steps,
        }
