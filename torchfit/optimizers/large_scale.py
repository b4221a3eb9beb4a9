"""Optimizers for large batches, large models and long runs."""

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
    add_scaled_,
    ema_,
    ema_of_squares_,
    maximum,
    minimum,
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


class Adafactor(Optimizer):
    """Adam's second moment in the memory of rows and columns, without a first one.

    For matrices (the last two axes) the mean square is `r ⊗ c / mean(r)`, r and c being running means of the rows and
    columns of `g² + epsilon_1`, kept by `1 - step**beta_2_decay`; other parameters keep it whole. The direction
    `u = g / √v` is shrunk to a root mean square of `clip_threshold`, and
    `p -= max(epsilon_2, rms(p)) * min(rate, 1 / √step) * u`.

    Source: Shazeer & Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost", 2018.

    Args:
        learning_rate: See `Optimizer`. Default 0.001.
        beta_2_decay: The exponent with which the running means lengthen, < 0.
        epsilon_1: Added to the squared gradient.
        epsilon_2: The least scale of the parameters.
        clip_threshold: The largest root mean square of the direction.
        relative_step: Kept for Keras' signature. The rate is at most `1 / √step` either way, as in Keras.
        **common: What every optimizer takes (`weight_decay`, `clipnorm`, …); see `Optimizer`.

    Raises:
        ValueError: An argument is outside its range.
    """

    interleaved_slots = 3

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_2_decay: float = -0.8,
        epsilon_1: float = 1e-30,
        epsilon_2: float = 1e-3,
        clip_threshold: float = 1.0,
        relative_step: bool = True,
        **common: Unpack[CommonKwargs],
    ):
        super().__init__(learning_rate, **common)
        self.beta_2_decay = _arguments.check("beta_2_decay", beta_2_decay, "a number < 0", lambda power: power < 0)
        self.epsilon_1 = _arguments.non_negative("epsilon_1", epsilon_1)
        self.epsilon_2 = _arguments.non_negative("epsilon_2", epsilon_2)
        self.clip_threshold = _arguments.positive("clip_threshold", clip_threshold)
        self.relative_step = relative_step

    def slot_names(self) -> tuple[str, ...]:
        """The mean squares of rows and columns, or the whole one."""
        return ("r", "c", "velocity")

    def init_slot(self, slot: str, parameter: Tensor, name: str) -> Tensor | None:
        """Rows and columns for matrices, the whole for the others."""
        factored = parameter.dim() >= 2
        if slot == "velocity":
            return None if factored else torch.zeros_like(parameter)
        if not factored:
            return None
        return torch.zeros_like(parameter.mean(-1 if slot == "r" else -2))

    def update_rule(
        self, parameters: Tensors, gradients: Tensors, slots: Slots, learning_rate: Scalar, step: Scalar
    ) -> None:
        """Move the parameters by the shrunk direction, on the scale of their root mean square."""
        rows, columns, wholes = slots
        decay = 1 - step**self.beta_2_decay
        squares = list(torch._foreach_mul(gradients, gradients))
        torch._foreach_add_(squares, max(self.epsilon_1, self._epsilon_floor))
        _ema_each(rows, [None if row is None else square.mean(-1) for row, square in zip(rows, squares)], decay)
        _ema_each(columns, [None if c is None else square.mean(-2) for c, square in zip(columns, squares)], decay)
        _ema_each(wholes, [None if whole is None else square for whole, square in zip(wholes, squares)], decay)
        roots = [_mean_square(*slot).clamp_min(self._epsilon_floor).sqrt() for slot in zip(rows, columns, wholes)]
        directions = list(torch._foreach_div(gradients, roots))
        scales = [self._scale(p, direction) for p, direction in zip(parameters, directions)]
        torch._foreach_mul_(directions, scales)
        add_scaled_(parameters, directions, -minimum(learning_rate, step**-0.5))

    def _scale(self, parameter: Tensor, direction: Tensor) -> Tensor:
        """How far the parameter may go along the direction, before the learning rate."""
        excess = (_rms(direction) / self.clip_threshold).clamp_min(1.0)
        scale: Tensor = _rms(parameter).clamp_min(self.epsilon_2) / excess
        return scale

    def get_config(self) -> Config:
        """Return the constructor's arguments as plain data."""
        return {
            **super().get_config(),
            "beta_2_decay": self.beta_2_decay,
            "epsilon_1": self.epsilon_1,
            "epsilon_2": self.epsilon_2,
            "clip_threshold": self.clip_threshold,
            "relative_step": self.relative_step,
        }


def _rms(tensor: Tensor) -> Tensor:
    return tensor.square().mean().sqrt()


def _ema_each(averages: list[Tensor | None], values: list[Tensor | None], decay: Scalar) -> None:
    """Move the averages that are there towards their values."""
    kept = [average for average in averages if average is not None]
    if kept:
        ema_(kept, [value for value in values if value is not None], decay)


def _mean_square(row: Tensor | None, column: Tensor | None, whole: Tensor | None) -> Tensor:
    """The mean square of each element, from its row and column or as it is kept."""
    if row is None or column is None:
        assert whole is not None
        return whole
    return (row / row.mean(-1, keepdim=True)).unsqueeze(-1) * column.unsqueeze(-2)


class ScheduleFreeAdamW(Optimizer):
    """AdamW whose iterates are averaged instead of their learning rate being scheduled.

    The parameters are `y = (1 - beta_1) * z + beta_1 * x`: z makes Adam's steps (without momentum), x is the mean of
    all z. `v = beta_2 * v + (1 - beta_2) * g²`, `z -= rate * g / (√(v / (1 - beta_2**step)) + epsilon)`,
    `x += (z - x) / step`. As in Keras, the model is used at y, in training and in evaluation.

    Source: Defazio et al., "The Road Less Scheduled", 2024.

    Args:
        learning_rate: See `Optimizer`. Default 0.0025.
        beta_1: The share of the mean x in the parameters, in (0, 1].
        beta_2: How much of the mean square is kept, in [0, 1).
        epsilon: Keeps the quotient finite.
        warmup_steps: Over how many updates the learning rate rises along a line; >= 0.
        **common: What every optimizer takes (`weight_decay`, `clipnorm`, …); see `Optimizer`.

    Raises:
        ValueError: An argument is outside its range.
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
