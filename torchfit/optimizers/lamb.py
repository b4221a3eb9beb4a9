"""Lamb."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from torchfit._types import Config
from torchfit.optimizers import _arguments
from torchfit.optimizers._foreach import (
    Scalar,
    Tensors,
    add_scaled_,
    ema_,
    ema_of_squares_,
    maximum,
    norms,
    one_minus_power,
    sqrt,
)
from torchfit.optimizers.base import Optimizer, Slots
from torchfit.optimizers.schedules.base import LearningRate

if TYPE_CHECKING:
    from torchfit.optimizers._arguments import CommonKwargs, Unpack


class Lamb(Optimizer):
    """Adam whose step is scaled, tensor by tensor, to the norm of the parameters: for large batches.

    With Adam's corrected `d = m / (1 - beta_1**step) / (√(v / (1 - beta_2**step)) + epsilon)`:
    `p -= rate * ‖p‖ / ‖d‖ * d`, where the ratio is 1 if one of the norms is 0.

    Source: You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes", 2019. Weight decay
    is decoupled, as in Keras, and no part of d.

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
        """Move the parameters along Adam's direction, as far as their norms say."""
        momentums, velocities = slots
        ema_(momentums, gradients, self.beta_1)
        ema_of_squares_(velocities, gradients, self.beta_2)
        correction = sqrt(one_minus_power(self.beta_2, step))
        roots = list(torch._foreach_sqrt(velocities))
        torch._foreach_add_(roots, maximum(self.epsilon * correction, self._epsilon_floor))
        directions = list(torch._foreach_div(momentums, roots))
        torch._foreach_mul_(directions, correction / one_minus_power(self.beta_1, step))
        ratios = [_trust(norm, length) for norm, length in zip(norms(parameters), norms(directions))]
        torch._foreach_mul_(directions, ratios)
        add_scaled_(parameters, directions, -learning_rate)

    def get_config(self) -> Config:
        """Return the constructor's arguments as plain data."""
        own = {"beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}
        return {**super().get_config(), **own}


def _trust(norm: Tensor, length: Tensor) -> Tensor:
    """The ratio of the parameters' norm to the direction's, and 1 where it says nothing."""
    return torch.where((norm > 0) & (length > 0), norm / length, 1.0)
