"""Follow the regularized leader."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from torchfit._types import Config
from torchfit.optimizers import _arguments
from torchfit.optimizers._foreach import Scalar, Tensors, add_scaled_, copy_where_
from torchfit.optimizers.base import Optimizer, Slots
from torchfit.optimizers.schedules.base import LearningRate

if TYPE_CHECKING:
    from torchfit.optimizers._arguments import CommonKwargs, Unpack


class Ftrl(Optimizer):
    """Follow the regularized leader: sparse linear models on many features.

    With `q = -learning_rate_power` and `s = 2 * (l2 + beta / (2 * rate))`: `a' = a + g²`,
    `z = z + g + 2 * shrinkage * p - (a'**q - a**q) / rate * p`, then
    `p = (clip(z, -l1, l1) - z) / (a'**q / rate + s)`.

    Source: McMahan et al., "Ad Click Prediction: a View from the Trenches", 2013.

    Args:
        learning_rate: see `Optimizer`. Default 0.001. At a rate of 0, nothing is updated.
        learning_rate_power: how fast the rate falls with the sum of squares, <= 0; 0 is a fixed rate.
        initial_accumulator_value: what the sum of squares begins with, >= 0. Default 0.1.
        l1_regularization_strength: >= 0; makes parameters exactly 0.
        l2_regularization_strength: >= 0; a penalty on the magnitude.
        l2_shrinkage_regularization_strength: >= 0; the same, on the loss instead of the leader.
        beta: the paper's beta, >= 0.
        **common: what every optimizer takes (`weight_decay`, `clipnorm`, …); see `Optimizer`.

    Raises:
        ValueError: an argument is outside its range.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        learning_rate_power: float = -0.5,
        initial_accumulator_value: float = 0.1,
        l1_regularization_strength: float = 0.0,
        l2_regularization_strength: float = 0.0,
        l2_shrinkage_regularization_strength: float = 0.0,
        beta: float = 0.0,
        **common: Unpack[CommonKwargs],
    ):
        super().__init__(learning_rate, **common)
        non_negative = _arguments.non_negative
        self.learning_rate_power = _arguments.check(
            "learning_rate_power", learning_rate_power, "a number <= 0", lambda power: power <= 0
        )
        self.initial_accumulator_value = non_negative("initial_accumulator_value", initial_accumulator_value)
        self.l1_regularization_strength = non_negative("l1_regularization_strength", l1_regularization_strength)
        self.l2_regularization_strength = non_negative("l2_regularization_strength", l2_regularization_strength)
        self.l2_shrinkage_regularization_strength = non_negative(
            "l2_shrinkage_regularization_strength", l2_shrinkage_regularization_strength
        )
        self.beta = non_negative("beta", beta)

    def slot_names(self) -> tuple[str, ...]:
        """The sum of squares and the linear term."""
        return ("accumulator", "linear")

    def init_slot(self, slot: str, parameter: Tensor, name: str) -> Tensor:
        """Begin with the initial accumulator value, and no linear term."""
        first = self.initial_accumulator_value if slot == "accumulator" else 0.0
        return torch.full_like(parameter, first, memory_format=torch.preserve_format)

    def update_rule(
        self, parameters: Tensors, gradients: Tensors, slots: Slots, learning_rate: Scalar, step: Scalar
    ) -> None:
        """Set the parameters to the minimum of what was seen so far. At a rate of 0, everything stays as it is."""
        if isinstance(learning_rate, Tensor):
            state = [*parameters, *slots[0], *slots[1]]
            before = list(torch._foreach_mul(state, 1))
            is_zero = learning_rate == 0
            self._minimize(parameters, gradients, slots, torch.where(is_zero, 1.0, learning_rate))
            copy_where_(is_zero, state, before)
        elif learning_rate:
            self._minimize(parameters, gradients, slots, learning_rate)

    def _minimize(self, parameters: Tensors, gradients: Tensors, slots: Slots, learning_rate: Scalar) -> None:
        accumulators, linears = slots
        power, l1 = -self.learning_rate_power, self.l1_regularization_strength
        before = list(torch._foreach_pow(accumulators, power))
        torch._foreach_addcmul_(accumulators, gradients, gradients)
        quadratics = list(torch._foreach_pow(accumulators, power))
        torch._foreach_sub_(before, quadratics)
        torch._foreach_mul_(before, parameters)
        torch._foreach_add_(linears, gradients)
        if self.l2_shrinkage_regularization_strength:
            add_scaled_(linears, parameters, 2 * self.l2_shrinkage_regularization_strength)
        add_scaled_(linears, before, 1 / learning_rate)
        torch._foreach_mul_(quadratics, 1 / learning_rate)
        torch._foreach_add_(quadratics, 2 * self.l2_regularization_strength + self.beta / learning_rate)
        clipped = list(torch._foreach_clamp_max(linears, l1))
        torch._foreach_clamp_min_(clipped, -l1)
        torch._foreach_sub_(clipped, linears)
        if not self.initial_accumulator_value:  # no curvature where there was no gradient yet: any minimum is one
            clipped = [torch.where(q == 0, p, c) for p, q, c in zip(parameters, quadratics, clipped)]
            quadratics = [torch.where(q == 0, 1.0, q) for q in quadratics]
        torch._foreach_div_(clipped, quadratics)
        torch._foreach_copy_(parameters, clipped)

    def get_config(self) -> Config:
        """Return the constructor's arguments as plain data."""
        return {
            **super().get_config(),
            "learning_rate_power": self.learning_rate_power,
            "initial_accumulator_value": self.initial_accumulator_value,
            "l1_regularization_strength": self.l1_regularization_strength,
            "l2_regularization_strength": self.l2_regularization_strength,
            "l2_shrinkage_regularization_strength": self.l2_shrinkage_regularization_strength,
            "beta": self.beta,
        }
