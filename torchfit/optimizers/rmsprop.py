"""RMSprop."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from torchfit._types import Config
from torchfit.optimizers import _arguments
from torchfit.optimizers._foreach import Scalar, Tensors, add_div_sqrt_, ema_, ema_of_squares_
from torchfit.optimizers.base import Optimizer, Slots
from torchfit.optimizers.schedules.base import LearningRate

if TYPE_CHECKING:
    from torchfit.optimizers._arguments import CommonKwargs, Unpack


class RMSprop(Optimizer):
    """Divide the gradient by the root of a running mean of its square.

    `v = rho * v + (1 - rho) * g²`, then `p -= rate * g / √(v + epsilon)`; `centered` subtracts the squared running
    mean of g from v in the root; with `momentum` the increments go through `m = momentum * m + increment`.

    Source: Hinton, "Neural Networks for Machine Learning", lecture 6e.

    Args:
        learning_rate: see `Optimizer`. Default 0.001.
        rho: how much of the running means is kept, in [0, 1).
        momentum: how much of the last increment is kept, in [0, 1].
        epsilon: keeps the root away from 0; inside the root.
        centered: divide by an estimate of the deviation instead of the magnitude.
        **common: what every optimizer takes (`weight_decay`, `clipnorm`, …); see `Optimizer`.

    Raises:
        ValueError: an argument is outside its range.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        rho: float = 0.9,
        momentum: float = 0.0,
        epsilon: float = 1e-7,
        centered: bool = False,
        **common: Unpack[CommonKwargs],
    ):
        super().__init__(learning_rate, **common)
        self.rho = _arguments.decay_rate("rho", rho)
        self.momentum = _arguments.in_unit_interval("momentum", momentum)
        self.epsilon = _arguments.non_negative("epsilon", epsilon)
        self.centered = centered

    interleaved_slots = 1

    def slot_names(self) -> tuple[str, ...]:
        """The mean square, then the momentum and the mean gradient where they are used."""
        wanted = {"velocity": True, "momentum": self.momentum > 0, "average_gradient": self.centered}
        return tuple(name for name, is_used in wanted.items() if is_used)

    def update_rule(
        self, parameters: Tensors, gradients: Tensors, slots: Slots, learning_rate: Scalar, step: Scalar
    ) -> None:
        """Move the parameters by the gradient over its root mean square."""
        velocities = slots[0]
        ema_of_squares_(velocities, gradients, self.rho)
        epsilon = max(self.epsilon, self._epsilon_floor)
        radicands = list(torch._foreach_add(velocities, epsilon))
        if self.centered:
            ema_(slots[-1], gradients, self.rho)
            torch._foreach_addcmul_(radicands, slots[-1], slots[-1], -1)
            torch._foreach_clamp_min_(radicands, epsilon)  # rounded, the variance of a steady gradient may be below 0
        if self.momentum > 0:
            momentums = slots[1]
            torch._foreach_mul_(momentums, self.momentum)
            add_div_sqrt_(momentums, gradients, radicands, learning_rate)
            torch._foreach_sub_(parameters, momentums)
        else:
            add_div_sqrt_(parameters, gradients, radicands, -learning_rate)

    def get_config(self) -> Config:
        """Return the constructor's arguments as plain data."""
        own = {"rho": self.rho, "momentum": self.momentum, "epsilon": self.epsilon, "centered": self.centered}
        return {**super().get_config(), **own}
