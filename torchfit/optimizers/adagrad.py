"""Adagrad."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from torchfit._types import Config
from torchfit.optimizers import _arguments
from torchfit.optimizers._foreach import Scalar, Tensors, add_div_sqrt_
from torchfit.optimizers.base import Optimizer, Slots
from torchfit.optimizers.schedules.base import LearningRate

if TYPE_CHECKING:
    from torchfit.optimizers._arguments import CommonKwargs, Unpack


class Adagrad(Optimizer):
    """Divide the gradient by the root of the sum of all its squares: often updated parameters move less.

    `a = a + g²`, then `p -= rate * g / √(a + epsilon)`.

    Source: Duchi, Hazan & Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic Optimization", 2011.

    Args:
        learning_rate: see `Optimizer`. Default 0.001.
        initial_accumulator_value: what the sum of squares begins with, >= 0. Default 0.1.
        epsilon: keeps the root away from 0; inside the root.
        **common: what every optimizer takes (`weight_decay`, `clipnorm`, …); see `Optimizer`.

    Raises:
        ValueError: an argument is outside its range.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        initial_accumulator_value: float = 0.1,
        epsilon: float = 1e-7,
        **common: Unpack[CommonKwargs],
    ):
        super().__init__(learning_rate, **common)
        self.initial_accumulator_value = _arguments.non_negative("initial_accumulator_value", initial_accumulator_value)
        self.epsilon = _arguments.non_negative("epsilon", epsilon)

    def slot_names(self) -> tuple[str, ...]:
        """The sum of squares of each gradient."""
        return ("accumulator",)

    def init_slot(self, slot: str, parameter: Tensor, name: str) -> Tensor:
        """Begin with the initial accumulator value."""
        return torch.full_like(parameter, self.initial_accumulator_value, memory_format=torch.preserve_format)

    def update_rule(
        self, parameters: Tensors, gradients: Tensors, slots: Slots, learning_rate: Scalar, step: Scalar
    ) -> None:
        """Move the parameters by the gradient over the root of its sum of squares."""
        (accumulators,) = slots
        torch._foreach_addcmul_(accumulators, gradients, gradients)
        radicands = list(torch._foreach_add(accumulators, max(self.epsilon, self._epsilon_floor)))
        add_div_sqrt_(parameters, gradients, radicands, -learning_rate)

    def get_config(self) -> Config:
        """Return the constructor's arguments as plain data."""
        own = {"initial_accumulator_value": self.initial_accumulator_value, "epsilon": self.epsilon}
        return {**super().get_config(), **own}
