"""Optimizers based on momentum: SGD, Lion, Muon."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchfit._types import Config
from torchfit.optimizers import _arguments, _fused
from torchfit.optimizers._foreach import Scalar, Tensors, add_scaled_, ema_, select, weight_decay_
from torchfit.optimizers.adam import adam_rule
from torchfit.optimizers.base import Optimizer, Slots
from torchfit.optimizers.schedules.base import LearningRate

if TYPE_CHECKING:
    from torchfit.optimizers._arguments import CommonKwargs, Unpack


class SGD(Optimizer):
    """Gradient descent, optionally with momentum.

    Without momentum `p -= rate * g`; with it `v = momentum * v - rate * g`, then `p += v`, or with `nesterov`
    `p += momentum * v - rate * g`.

    Args:
        learning_rate: See `Optimizer`. Default 0.01.
        momentum: How much of the velocity is kept, in [0, 1]. Default 0: no momentum.
        nesterov: Look ahead along the velocity.
        **common: What every optimizer takes (`weight_decay`, `clipnorm`, …); see `Optimizer`.

    Raises:
        ValueError: An argument is outside its range.

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


class Lion(Optimizer):
    """Move every parameter by the learning rate, in the direction of the sign of an interpolated momentum.

    `p -= rate * sign(beta_1 * m + (1 - beta_1) * g)`, then `m = beta_2 * m + (1 - beta_2) * g`. It needs a learning
    rate three to ten times smaller, and a weight decay as many times larger, than Adam.

    Source: Chen et al., "Symbolic Discovery of Optimization Algorithms", 2023.

    Args:
        learning_rate: See `Optimizer`. Default 0.001.
        beta_1: The share of the momentum in the direction, in (0, 1].
        beta_2: How much of the momentum is kept, in [0, 1].
        **common: What every optimizer takes (`weight_decay`, `clipnorm`, …); see `Optimizer`.

    Raises:
        ValueError: An argument is outside its range.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.99,
        **common: Unpack[CommonKwargs],
    ):
        super().__init__(learning_rate, **common)
        rule = "a float in the range (0, 1], since 0 is plain sign descent"
        self.beta_1 = _arguments.check("beta_1", beta_1, rule, lambda beta: 0 < beta <= 1)
        self.beta_2 = _arguments.in_unit_interval("beta_2", beta_2)

    def slot_names(self) -> tuple[str, ...]:
        """The momentum of each parameter."""
        return ("momentum",)

    def update_rule(
        self, parameters: Tensors, gradients: Tensors, slots: Slots, learning_rate: Scalar, step: Scalar
    ) -> None:
        """Move the parameters by the sign of the interpolated momentum."""
        (momentums,) = slots
        directions = list(torch._foreach_lerp(momentums, gradients, 1 - self.beta_1))
        torch._foreach_sign_(directions)
        add_scaled_(parameters, directions, -learning_rate)
        ema_(momentums, gradients, self.beta_2)

    def get_config(self) -> Config:
        """Return the constructor's arguments as plain data."""
        return {**super().get_config(), "beta_1": self.beta_1, "beta_2": self.beta_2}


if TYPE_CHECKING:
    pass


class Muon(Optimizer):
    """Momentum made orthogonal, for the matrices of hidden layers; AdamW for everything else.

    For a matrix: `m = momentum * m + g`, `u = g + momentum * m` (`nesterov`) or `m`, `p -= rate * orthogonal(u) *
    rms_rate * √max(rows, columns)`. `orthogonal` divides by the Frobenius norm and makes `ns_steps` Newton-Schulz
    iterations `x = a * x + (b * A + c * A @ A) @ x` with `A = x @ xᵀ`.

    Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; the scale: Liu et al.,
    "Muon is Scalable for LLM Training", 2025.

    Args:
        learning_rate: See `Optimizer`. Default 0.001.
        adam_beta_1, adam_beta_2, epsilon: Those of Adam.
        adam_weight_decay: The weight decay of what Adam updates. Default 0.004.
        weight_decay: The weight decay of what Muon updates. Default 0.004.
        exclude_layers: Patterns (regular expressions) of parameter names that Adam updates. They need names: build
            the optimizer with `(name, parameter)` pairs, as `compile` does.
        exclude_embeddings: Let Adam update parameters with "embedding" in their name.
        muon_a, muon_b, muon_c: The coefficients of the iteration.
        adam_lr_ratio: Adam's learning rate, as a multiple of the learning rate.
        momentum: How much of the momentum is kept, in [0, 1].
        ns_steps: How many iterations; >= 0.
        nesterov: Look ahead along the momentum.
        rms_rate: The scale of the update. `None` leaves it as the iteration gives it.
        **common: What every optimizer takes (`clipnorm`, `use_ema`, …); see `Optimizer`.

    Raises:
        ValueError: An argument is outside its range.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        adam_beta_1: float = 0.9,
        adam_beta_2: float = 0.999,
        adam_weight_decay: float | None = 0.004,
        epsilon: float = 1e-7,
        weight_decay: float | None = 0.004,
        *,
        exclude_layers: Iterable[str] | None = None,
        exclude_embeddings: bool = True,
        muon_a: float = 3.4445,
        muon_b: float = -4.775,
        muon_c: float = 2.0315,
        adam_lr_ratio: float = 1,
        momentum: float = 0.95,
        ns_steps: int = 5,
        nesterov: bool = True,
        rms_rate: float | None = 0.2,
        **common: Any,
    ):
        super().__init__(learning_rate, weight_decay, **common)
        if isinstance(exclude_layers, str):
            _arguments.invalid("exclude_layers", "a list of strings", exclude_layers)
        if_not_none, non_negative = _arguments.if_not_none, _arguments.non_negative
        self.adam_beta_1 = _arguments.decay_rate("adam_beta_1", adam_beta_1)
        self.adam_beta_2 = _arguments.decay_rate("adam_beta_2", adam_beta_2)
        self.adam_weight_decay = if_not_none(non_negative, "adam_weight_decay", adam_weight_decay)
        self.epsilon = non_negative("epsilon", epsilon)
        self.exclude_layers = list(exclude_layers or ())
        self.exclude_embeddings = exclude_embeddings
        self.muon_a, self.muon_b, self.muon_c = muon_a, muon_b, muon_c
        self.adam_lr_ratio = non_negative("adam_lr_ratio", adam_lr_ratio)
        self.momentum = _arguments.in_unit_interval("momentum", momentum)
        self.ns_steps = _arguments.integer("ns_steps", ns_steps, 0)
        self.nesterov = nesterov
        self.rms_rate = if_not_none(non_negative, "rms_rate", rms_rate)

    def _select_kernels(self) -> None:
        if self.exclude_layers:
            self._params.require_names("exclude_layers")

    def _is_hidden_matrix(self, parameter: Tensor, name: str) -> bool:
        excluded = [*self.exclude_layers, *(["(?i:embedding)"] if self.exclude_embeddings else [])]
        return parameter.dim() == 2 and not any(re.search(pattern, name) for pattern in excluded)

    def slot_names(self) -> tuple[str, ...]:
        """The momentum, and a mean square where Adam is at work."""
        return ("momentum", "adam_velocity")

    def init_slot(self, slot: str, parameter: Tensor, name: str) -> Tensor | None:
        """Zeros; no mean square where Muon is at work."""
        if slot == "adam_velocity" and self._is_hidden_matrix(parameter, name):
            return None
        return torch.zeros_like(parameter, memory_format=torch.preserve_format)

    def _decay(self, parameters: Tensors, decay_mask: list[bool], slots: Slots, learning_rate: Scalar) -> None:
        by_muon = [velocity is None for velocity in slots[1]]
        weight_decay_(parameters, [a and b for a, b in zip(decay_mask, by_muon)], self.weight_decay, learning_rate)
        by_adam = [chosen and not muon for chosen, muon in zip(decay_mask, by_muon)]
        weight_decay_(parameters, by_adam, self.adam_weight_decay, learning_rate)

    def update_rule(
        self, parameters: Tensors, gradients: Tensors, slots: Slots, learning_rate: Scalar, step: Scalar
    ) -> None:
        """Move hidden matrices by the orthogonal momentum, and the others as Adam does."""
        momentums, velocities = slots
        matrices = [position for position, velocity in enumerate(velocities) if velocity is None]
        others = [position for position, velocity in enumerate(velocities) if velocity is not None]
        if matrices:
            chosen = (select(parameters, matrices), select(gradients, matrices), select(momentums, matrices))
            self._update_matrices(*chosen, learning_rate)
        if others:
            adam_rule(
                select(parameters, others),
                select(gradients, others),
                (select(momentums, others), select(velocities, others)),
                learning_rate * self.adam_lr_ratio,
                step,
                self.adam_beta_1,
                self.adam_beta_2,
                max(self.epsilon, self._epsilon_floor),
            )

    def _update_matrices(
        self, parameters: Tensors, gradients: Tensors, momentums: Tensors, learning_rate: Scalar
    ) -> None:
        torch._foreach_mul_(momentums, self.momentum)
        torch._foreach_add_(momentums, gradients)
        directions = momentums
        if self.nesterov:
            directions = list(torch._foreach_mul(momentums, self.momentum))
            torch._foreach_add_(directions, gradients)
        updates = [self._orthogonal(direction) * self._scale(direction) for direction in directions]
        add_scaled_(parameters, updates, -learning_rate)

    def _scale(self, matrix: Tensor) -> float:
        return 1.0 if self.rms_rate is None else self.rms_rate * math.sqrt(max(matrix.shape))

    def _orthogonal(self, matrix: Tensor) -> Tensor:
        """Push the singular values towards 1, by iterating on the wide side up."""
        if matrix.shape[0] > matrix.shape[1]:
            return self._orthogonal(matrix.T).T
        x: Tensor = matrix / (torch.linalg.matrix_norm(matrix) + 1e-7)
        for _ in range(self.ns_steps):
            gram = x @ x.T
            x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=self.muon_b, alpha=self.muon_c), x, beta=self.muon_a)
        return x

    def get_config(self) -> Config:
        """Return the constructor's arguments as plain data."""
        names = (
            "adam_beta_1",
            "adam_beta_2",
            "adam_weight_decay",
            "epsilon",
            "exclude_layers",
            "exclude_embeddings",
            "muon_a",
            "muon_b",
            "muon_c",
            "adam_lr_ratio",
            "momentum",
            "ns_steps",
            "nesterov",
            "rms_rate",
        )
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
