"""Adafactor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from torchfit._types import Config
from torchfit.optimizers import _arguments
from torchfit.optimizers._foreach import Scalar, Tensors, add_scaled_, ema_, minimum
from torchfit.optimizers.base import Optimizer, Slots
from torchfit.optimizers.schedules.base import LearningRate

if TYPE_CHECKING:
    from torchfit.optimizers._arguments import CommonKwargs, Unpack


class Adafactor(Optimizer):
    """Adam's second moment in the memory of rows and columns, without a first one.

    For matrices (the last two axes) the mean square is `r ⊗ c / mean(r)`, r and c being running means of the rows and
    columns of `g² + epsilon_1`, kept by `1 - step**beta_2_decay`; other parameters keep it whole. The direction
    `u = g / √v` is shrunk to a root mean square of `clip_threshold`, and
    `p -= max(epsilon_2, rms(p)) * min(rate, 1 / √step) * u`.

    Source: Shazeer & Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost", 2018.

    Args:
        learning_rate: see `Optimizer`. Default 0.001.
        beta_2_decay: the exponent with which the running means lengthen, < 0.
        epsilon_1: added to the squared gradient.
        epsilon_2: the least scale of the parameters.
        clip_threshold: the largest root mean square of the direction.
        relative_step: kept for Keras' signature. The rate is at most `1 / √step` either way, as in Keras.
        **common: what every optimizer takes (`weight_decay`, `clipnorm`, …); see `Optimizer`.

    Raises:
        ValueError: an argument is outside its range.
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
