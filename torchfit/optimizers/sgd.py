"""Stochastic gradient descent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from torchfit._types import Config
from torchfit.optimizers import _arguments, _fused
from torchfit.optimizers._foreach import Scalar, Tensors, add_scaled_
from torchfit.optimizers.base import Optimizer, Slots
from torchfit.optimizers.schedules.base import LearningRate

if TYPE_CHECKING:
    from torchfit.optimizers._arguments import CommonKwargs, Unpack


class SGD(Optimizer):
    """Gradient descent, with momentum if wanted.

    Without momentum `p -= rate * g`; with it `v = momentum * v - rate * g`, then `p += v`, or with `nesterov`
    `p += momentum * v - rate * g`.

    Args:
        learning_rate: see `Optimizer`. Default 0.01.
        momentum: how much of the velocity is kept, in [0, 1]. Default 0: no momentum.
        nesterov: look ahead along the velocity.
        **common: what every optimizer takes (`weight_decay`, `clipnorm`, …); see `Optimizer`.

    Raises:
        ValueError: an argument is outside its range.

    >>> weight = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = SGD(learning_rate=0.5)
    >>> optimizer.build([weight])
    >>> optimizer.apply([torch.tensor([1.0])])
    >>> weight.data
    tensor([0.5000])
    """

    supports_complex = True

    def __init__(
        self,
        learning_rate: LearningRate = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        **common: Unpack[CommonKwargs],
    ):
        super().__init__(learning_rate, **common)
        self.momentum = _arguments.in_unit_interval("momentum", momentum)
        self.nesterov = nesterov
        self._is_fused = False

    def slot_names(self) -> tuple[str, ...]:
        """A velocity for each parameter, if there is momentum."""
        return ("momentum",) if self.momentum else ()

    def _select_kernels(self) -> None:
        self._is_fused = _fused.available("sgd", self._parameters)

    def update_rule(
        self, parameters: Tensors, gradients: Tensors, slots: Slots, learning_rate: Scalar, step: Scalar
    ) -> None:
        """Move the parameters along the velocity, or down the gradient."""
        if not slots:
            add_scaled_(parameters, gradients, -learning_rate)
            return
        (momentums,) = slots
        if self._is_fused and _fused.usable(learning_rate, gradients):
            _fused.sgd_(parameters, gradients, momentums, learning_rate, self.momentum, self.nesterov)
            return
        torch._foreach_mul_(momentums, self.momentum)
        add_scaled_(momentums, gradients, -learning_rate)
        if self.nesterov:
            add_scaled_(parameters, momentums, self.momentum)
            add_scaled_(parameters, gradients, -learning_rate)
        else:
            torch._foreach_add_(parameters, momentums)

    def get_config(self) -> Config:
        """Return the constructor's arguments as plain data."""
        return {**super().get_config(), "momentum": self.momentum, "nesterov": self.nesterov}
