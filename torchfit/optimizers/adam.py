"""Adam and the optimizers that differ from it in one line: AdamW, Adamax, Nadam."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchfit._types import Config
from torchfit.optimizers import _arguments, _fused
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


def adam_rule(
    parameters: Tensors,
    gradients: Tensors,
    slots: Slots,
    learning_rate: Scalar,
    step: Scalar,
    beta_1: float,
    beta_2: float,
    epsilon: float,
) -> None:
    """Adam on lists of tensors, `slots` being the momentums, the velocities and, for AMSGrad, their maxima.

    `m = beta_1 * m + (1 - beta_1) * g`, `v = beta_2 * v + (1 - beta_2) * g²`, then
    `p -= rate * √(1 - beta_2**step) / (1 - beta_1**step) * m / (√v + epsilon)`.
    """
    momentums, velocities, *hats = slots
    ema_(momentums, gradients, beta_1)
    ema_of_squares_(velocities, gradients, beta_2)
    if hats:
        torch._foreach_maximum_(hats[0], velocities)
    roots = list(torch._foreach_sqrt(hats[0] if hats else velocities))
    torch._foreach_add_(roots, epsilon)
    correction = sqrt(one_minus_power(beta_2, step)) / one_minus_power(beta_1, step)
    add_quotient_(parameters, momentums, roots, -learning_rate * correction)


class Adam(Optimizer):
    """Adaptive moment estimation: a running mean of the gradient over the root of one of its square.

    `m = beta_1 * m + (1 - beta_1) * g`, `v = beta_2 * v + (1 - beta_2) * g²`, then
    `p -= rate * √(1 - beta_2**step) / (1 - beta_1**step) * m / (√v + epsilon)`: epsilon is added to the root that is
    not yet corrected ("epsilon hat" of the paper), unlike in torch.

    Source: Kingma & Ba, "Adam: A Method for Stochastic Optimization", 2014, the formula before section 2.1;
    AMSGrad: Reddi, Kale & Kumar, "On the Convergence of Adam and Beyond", 2018.

    Args:
        learning_rate: See `Optimizer`. Default 0.001.
        beta_1: How much of the mean gradient is kept, in [0, 1).
        beta_2: How much of the mean square is kept, in [0, 1).
        epsilon: Keeps the quotient finite.
        amsgrad: Divide by the largest mean square so far.
        **common: What every optimizer takes (`weight_decay`, `clipnorm`, …); see `Optimizer`.

    Raises:
        ValueError: An argument is outside its range.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        **common: Unpack[CommonKwargs],
    ):
        super().__init__(learning_rate, **common)
        self.beta_1 = _arguments.decay_rate("beta_1", beta_1)
        self.beta_2 = _arguments.decay_rate("beta_2", beta_2)
        self.epsilon = _arguments.non_negative("epsilon", epsilon)
        self.amsgrad = amsgrad
        self._fused_step: Tensors | None = None

    def slot_names(self) -> tuple[str, ...]:
        """The mean gradient, the mean square, and its maximum for AMSGrad."""
        return ("momentum", "velocity", "velocity_hat") if self.amsgrad else ("momentum", "velocity")

    def _select_kernels(self) -> None:
        if _fused.available("adam", self._parameters):
            self._fused_step = [torch.zeros((), device=self._parameters[0].device)]

    def update_rule(
        self, parameters: Tensors, gradients: Tensors, slots: Slots, learning_rate: Scalar, step: Scalar
    ) -> None:
        """Move the parameters by the mean gradient over its root mean square."""
        momentums, velocities, *hats = slots
        steps = self._fused_step
        if steps is not None and _fused.usable(learning_rate, gradients):
            _fused.adam_(
                parameters,
                gradients,
                momentums,
                velocities,
                hats[0] if hats else [],
                steps * len(parameters),
                learning_rate=learning_rate,
                beta_1=self.beta_1,
                beta_2=self.beta_2,
                epsilon=max(self.epsilon, self._epsilon_floor),
                step=float(step),
            )
        else:
            epsilon = max(self.epsilon, self._epsilon_floor)
            adam_rule(parameters, gradients, slots, learning_rate, step, self.beta_1, self.beta_2, epsilon)

    def get_config(self) -> Config:
        """Return the constructor's arguments as plain data."""
        own = {"beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon, "amsgrad": self.amsgrad}
        return {**super().get_config(), **own}


class AdamW(Adam):
    """Adam with weight decay by default: every update first takes `p * weight_decay * rate` off the parameters.

    Source: Loshchilov & Hutter, "Decoupled Weight Decay Regularization", 2017.

    Args:
        learning_rate: See `Optimizer`. Default 0.001.
        weight_decay: A number >= 0. Default 0.004.
        beta_1, beta_2, epsilon, amsgrad: See `Adam`.
        **common: What every optimizer takes (`clipnorm`, `use_ema`, …); see `Optimizer`.

    Raises:
        ValueError: An argument is outside its range, or `weight_decay` is `None`.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        weight_decay: float = 0.004,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        **common: Any,
    ):
        if weight_decay is None:
            _arguments.invalid("weight_decay", "a number >= 0 (use Adam for none)", weight_decay)
        super().__init__(learning_rate, beta_1, beta_2, epsilon, amsgrad, weight_decay=weight_decay, **common)


class Adamax(Optimizer):
    """Adam with the largest gradient so far, slowly forgotten, in place of the root mean square.

    `m = beta_1 * m + (1 - beta_1) * g`, `u = max(beta_2 * u, |g|)`, then
    `p -= rate / (1 - beta_1**step) * m / (u + epsilon)`.

    Source: Kingma & Ba, "Adam: A Method for Stochastic Optimization", 2014, section 7.1.

    Args:
        learning_rate: See `Optimizer`. Default 0.001.
        beta_1: How much of the mean gradient is kept, in [0, 1).
        beta_2: How much of the largest gradient is kept, in [0, 1).
        epsilon: Keeps the quotient finite.
        **common: What every optimizer takes (`weight_decay`, `clipnorm`, …); see `Optimizer`.

    Raises:
        ValueError: An argument is outside its range.
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


_WARMING = 0.96  # how fast the momentum approaches beta_1, from the paper
_SERIES = [(k, 0.5**k / k * _WARMING**k / (1 - _WARMING**k)) for k in range(1, 25)]


class Nadam(Optimizer):
    """Adam with Nesterov's momentum.

    With `u(t) = beta_1 * (1 - 0.96**t / 2)` and U the product of all u up to the step t:
    `m` and `v` as in `Adam`, `m̂ = u(t + 1) * m / (1 - U * u(t + 1)) + (1 - u(t)) * g / (1 - U)`, then
    `p -= rate * m̂ / (√(v / (1 - beta_2**t)) + epsilon)`.

    Source: Dozat, "Incorporating Nesterov Momentum into Adam", 2016.

    Args:
        learning_rate: See `Optimizer`. Default 0.001.
        beta_1: How much of the mean gradient is kept, in [0, 1).
        beta_2: How much of the mean square is kept, in [0, 1).
        epsilon: Keeps the quotient finite.
        **common: What every optimizer takes (`weight_decay`, `clipnorm`, …); see `Optimizer`.

    Raises:
        ValueError: An argument is outside its range.
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
