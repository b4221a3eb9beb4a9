"""Adadelta."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from torchfit._types import Config
from torchfit.optimizers import _arguments
from torchfit.optimizers._foreach import Scalar, Tensors, add_scaled_, ema_of_squares_
from torchfit.optimizers.base import Optimizer, Slots
from torchfit.optimizers.schedules.base import LearningRate

if TYPE_CHECKING:
    from torchfit.optimizers._arguments import CommonKwargs, Unpack


class Adadelta(Optimizer):
    """Scale the gradient by the root mean square of the last steps over that of the last gradients.

    `a = rho * a + (1 - rho) * g²`, `d = g * √(b + epsilon) / √(a + epsilon)`, `b = rho * b + (1 - rho) * d²`, then
    `p -= rate * d`. The paper's own form has a rate of 1.

    Source: Zeiler, "ADADELTA: An Adaptive Learning Rate Method", 2012.

    Args:
        learning_rate: see `Optimizer`. Default 0.001.
        rho: how much of the running means is kept, in [0, 1).
        epsilon: keeps the roots away from 0; inside the roots.
        **common: what every optimizer takes (`weight_decay`, `clipnorm`, …); see `Optimizer`.

    Raises:
        ValueError: an argument is outside its range.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        rho: float = 0.95,
        epsilon: float = 1e-7,
        **common: Unpack[CommonKwargs],
    ):
        super().__init__(learning_rate, **common)
        self.rho = _arguments.decay_rate("rho", rho)
        self.epsilon = _arguments.positive("epsilon", epsilon)

    def slot_names(self) -> tuple[str, ...]:
        """The mean squares of the gradient and of the steps."""
        return ("accumulated_grad", "accumulated_delta_var")

    def update_rule(
        self, parameters: Tensors, gradients: Tensors, slots: Slots, learning_rate: Scalar, step: Scalar
    ) -> None:
        """Move the parameters by the rescaled gradient."""
        squares, step_squares = slots
        ema_of_squares_(squares, gradients, self.rho)
        epsilon = max(self.epsilon, self._epsilon_floor)
        deltas = list(torch._foreach_add(step_squares, epsilon))
        torch._foreach_div_(deltas, torch._foreach_add(squares, epsilon))
        torch._foreach_sqrt_(deltas)
        torch._foreach_mul_(deltas, gradients)
        ema_of_squares_(step_squares, deltas, self.rho)
        add_scaled_(parameters, deltas, -learning_rate)

    def get_config(self) -> Config:
        """Return the constructor's arguments as plain data."""
        return {**super().get_config(), "rho": self.rho, "epsilon": self.epsilon}
