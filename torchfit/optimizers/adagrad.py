"""Optimizers with adaptive learning rates per parameter: Adagrad, Adadelta, RMSprop, Ftrl."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from torchfit._types import Config
from torchfit.optimizers import _arguments
from torchfit.optimizers._foreach import Scalar, Tensors, add_div_sqrt_, add_scaled_, copy_where_, ema_, ema_of_squares_
from torchfit.optimizers.base import Optimizer, Slots
from torchfit.optimizers.schedules.base import LearningRate

if TYPE_CHECKING:
    from torchfit.optimizers._arguments import CommonKwargs, Unpack


class Adagrad(Optimizer):
    """Divide the gradient by the root of the sum of all its squares: often updated parameters move less.

    `a = a + g²`, then `p -= rate * g / √(a + epsilon)`.

    Source: Duchi, Hazan & Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic Optimization", 2011.

    Args:
        learning_rate: See `Optimizer`. Default 0.001.
        initial_accumulator_value: What the sum of squares begins with, >= 0. Default 0.1.
        epsilon: Keeps the root away from 0; inside the root.
        **common: What every optimizer takes (`weight_decay`, `clipnorm`, …); see `Optimizer`.

    Raises:
        ValueError: An argument is outside its range.
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


class Adadelta(Optimizer):
    """Scale the gradient by the root mean square of the last steps over that of the last gradients.

    `a = rho * a + (1 - rho) * g²`, `d = g * √(b + epsilon) / √(a + epsilon)`, `b = rho * b + (1 - rho) * d²`, then
    `p -= rate * d`. The paper's own form has a rate of 1.

    Source: Zeiler, "ADADELTA: An Adaptive Learning Rate Method", 2012.

    Args:
        learning_rate: See `Optimizer`. Default 0.001.
        rho: How much of the running means is kept, in [0, 1).
        epsilon: Keeps the roots away from 0; inside the roots.
        **common: What every optimizer takes (`weight_decay`, `clipnorm`, …); see `Optimizer`.

    Raises:
        ValueError: An argument is outside its range.
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


class RMSprop(Optimizer):
    """Divide the gradient by the root of a running mean of its square.

    `v = rho * v + (1 - rho) * g²`, then `p -= rate * g / √(v + epsilon)`; `centered` subtracts the squared running
    mean of g from v in the root; with `momentum` the increments go through `m = momentum * m + increment`.

    Source: Hinton, "Neural Networks for Machine Learning", lecture 6e.

    Args:
        learning_rate: See `Optimizer`. Default 0.001.
        rho: How much of the running means is kept, in [0, 1).
        momentum: How much of the last increment is kept, in [0, 1].
        epsilon: Keeps the root away from 0; inside the root.
        centered: Divide by an estimate of the deviation instead of the magnitude.
        **common: What every optimizer takes (`weight_decay`, `clipnorm`, …); see `Optimizer`.

    Raises:
        ValueError: An argument is outside its range.
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


class Ftrl(Optimizer):
    """Follow the regularized leader: sparse linear models on many features.

    With `q = -learning_rate_power` and `s = 2 * (l2 + beta / (2 * rate))`: `a' = a + g²`,
    `z = z + g + 2 * shrinkage * p - (a'**q - a**q) / rate * p`, then
    `p = (clip(z, -l1, l1) - z) / (a'**q / rate + s)`.

    Source: McMahan et al., "Ad Click Prediction: a View from the Trenches", 2013.

    Args:
        learning_rate: See `Optimizer`. Default 0.001. At a rate of 0, nothing is updated.
        learning_rate_power: How fast the rate falls with the sum of squares, <= 0; 0 is a fixed rate.
        initial_accumulator_value: What the sum of squares begins with, >= 0. Default 0.1.
        l1_regularization_strength: >= 0; makes parameters exactly 0.
        l2_regularization_strength: >= 0; a penalty on the magnitude.
        l2_shrinkage_regularization_strength: >= 0; the same, on the loss instead of the leader.
        beta: The paper's beta, >= 0.
        **common: What every optimizer takes (`weight_decay`, `clipnorm`, …); see `Optimizer`.

    Raises:
        ValueError: An argument is outside its range.
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
