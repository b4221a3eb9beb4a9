"""In-place arithmetic on lists of tensors whose scalars are numbers (eager) or 0-d tensors (in a graph).

A number is an argument of a foreach kernel; a tensor must not be read on the host, so it needs a kernel of its own,
which a compiler fuses. Only these few functions distinguish the two. Clipping leaves the gradients that come in as
they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

Scalar: TypeAlias = "float | Tensor"
Tensors: TypeAlias = "list[Tensor]"
Slots: TypeAlias = "tuple[list[Any], ...]"
Item = TypeVar("Item")

_HAS_RSQRT = hasattr(torch, "_foreach_rsqrt_")  # torch >= 2.7


def copy_(targets: Tensors, sources: Tensors) -> None:
    """Copy the sources, of any dtype and device, into the targets."""
    with torch.no_grad():
        torch._foreach_copy_(targets, sources)


def divide(tensors: Tensors, divisor: Tensor) -> Tensors:
    """Return all tensors divided by one number; a graph fuses the division with what follows."""
    if torch.compiler.is_compiling():
        return [tensor / divisor for tensor in tensors]
    return list(torch._foreach_div(tensors, divisor))


def add_scaled_(targets: Tensors, tensors: Tensors, scale: Scalar) -> None:
    """Targets += scale · tensors."""
    if isinstance(scale, Tensor):
        torch._foreach_add_(targets, torch._foreach_mul(tensors, scale))
    else:
        torch._foreach_add_(targets, tensors, alpha=scale)


def add_product_(targets: Tensors, left: Tensors, right: Tensors, scale: Scalar) -> None:
    """Targets += scale · left · right."""
    if isinstance(scale, Tensor):
        torch._foreach_add_(targets, torch._foreach_mul(torch._foreach_mul(left, right), scale))
    else:
        torch._foreach_addcmul_(targets, left, right, scale)


def add_quotient_(targets: Tensors, numerators: Tensors, denominators: Tensors, scale: Scalar) -> None:
    """Targets += scale · numerators / denominators."""
    if isinstance(scale, Tensor):
        torch._foreach_add_(targets, torch._foreach_mul(torch._foreach_div(numerators, denominators), scale))
    else:
        torch._foreach_addcdiv_(targets, numerators, denominators, scale)


def add_div_sqrt_(targets: Tensors, numerators: Tensors, radicands: Tensors, scale: Scalar) -> None:
    """Targets += scale · numerators / √radicands. The radicands are used up."""
    if _HAS_RSQRT:
        torch._foreach_rsqrt_(radicands)
        add_product_(targets, numerators, radicands, scale)
    else:
        torch._foreach_sqrt_(radicands)
        add_quotient_(targets, numerators, radicands, scale)


def ema_(averages: Tensors, values: Tensors, decay: Scalar) -> None:
    """Averages = keep · averages + (1 - keep) · values."""
    if isinstance(decay, Tensor):
        torch._foreach_add_(averages, torch._foreach_mul(torch._foreach_sub(values, averages), 1 - decay))
    else:
        torch._foreach_lerp_(averages, values, 1 - decay)


def ema_of_squares_(averages: Tensors, values: Tensors, decay: float) -> None:
    """Averages = keep · averages + (1 - keep) · values²."""
    torch._foreach_mul_(averages, decay)
    torch._foreach_addcmul_(averages, values, values, 1 - decay)


def copy_where_(condition: bool | Tensor, targets: Tensors, sources: Tensors) -> None:
    """Targets = sources where the condition (one truth value) holds."""
    if isinstance(condition, Tensor):
        torch._foreach_copy_(targets, [torch.where(condition, s, t) for s, t in zip(sources, targets)])
    elif condition:
        torch._foreach_copy_(targets, sources)


def weight_decay_(targets: Tensors, chosen: list[bool], rate: float | None, learning_rate: Scalar) -> None:
    """Targets -= rate · learning_rate · targets, for the chosen ones."""
    if rate:
        decayed = [target for target, is_chosen in zip(targets, chosen) if is_chosen]
        if decayed:
            torch._foreach_mul_(decayed, 1 - learning_rate * rate)


def zero_(targets: Tensors) -> None:
    """Targets = 0."""
    if _runs_one_by_one(targets):
        for target in targets:
            target.zero_()
    else:
        torch._foreach_zero_(targets)


def norms(tensors: Tensors, order: float = 2.0) -> Tensors:
    """The norm of each tensor."""
    if _runs_one_by_one(tensors):
        return [torch.linalg.vector_norm(tensor, order) for tensor in tensors]
    return list(torch._foreach_norm(tensors, order))


def _runs_one_by_one(tensors: Tensors) -> bool:
    """Whether torch's compiler fuses single operations, but calls, and warns of, foreach ones that it does not know."""
    return torch.compiler.is_compiling() and tensors[0].device.type == "cpu"


def one_minus_power(base: float, exponent: Scalar) -> Scalar:
    """1 - base**exponent, exact in float32 as well, where 1 - 0.999 loses four digits.

    >>> one_minus_power(0.5, 2)
    0.75
    >>> one_minus_power(0.999, torch.tensor(1.0))
    tensor(0.0010)
    """
    if isinstance(exponent, Tensor):
        return -torch.expm1(exponent * (math.log(base) if base > 0 else -math.inf))
    return float(1 - base**exponent)


def sqrt(value: Scalar) -> Scalar:
    """√value."""
    return value.sqrt() if isinstance(value, Tensor) else math.sqrt(value)


def minimum(left: Scalar, right: Scalar) -> Scalar:
    """The smaller one of two scalars."""
    if isinstance(left, Tensor):
        return left.clamp_max(right) if not isinstance(right, Tensor) else torch.minimum(left, right)
    return right.clamp_max(left) if isinstance(right, Tensor) else min(left, right)


def maximum(left: Scalar, right: float) -> Scalar:
    """The larger one of a scalar and a number."""
    return left.clamp_min(right) if isinstance(left, Tensor) else max(left, right)


def zeros_like(tensors: Tensors) -> Tensors:
    """Zeros of the same shapes, in the same memory order, outside of any gradient."""
    return [torch.zeros_like(each, memory_format=torch.preserve_format).detach() for each in tensors]


def select(items: Sequence[Item], positions: Sequence[int]) -> list[Item]:
    """Return the items at some positions."""
    return [items[position] for position in positions]


def clip(gradients: Tensors, clipnorm: float | None, clipvalue: float | None, global_clipnorm: float | None) -> Tensors:
    """Clip with the option that is set."""
    if clipnorm:
        return clip_by_norm(gradients, clipnorm)
    if global_clipnorm:
        return clip_by_global_norm(gradients, global_clipnorm)
    return clip_by_value(gradients, clipvalue) if clipvalue else gradients


def clip_by_value(gradients: Tensors, limit: float) -> Tensors:
    """Clip every element to [-limit, limit]."""
    clipped = torch._foreach_clamp_max(gradients, limit)
    torch._foreach_clamp_min_(clipped, -limit)
    return list(clipped)


def clip_by_norm(gradients: Tensors, limit: float) -> Tensors:
    """Scale down each tensor whose Euclidean norm exceeds the limit."""
    scales = norms(gradients)
    torch._foreach_clamp_min_(scales, limit)
    scales = list(torch._foreach_reciprocal(scales))
    torch._foreach_mul_(scales, limit)
    return list(torch._foreach_mul(gradients, scales))


def clip_by_global_norm(gradients: Tensors, limit: float) -> Tensors:
    """Scale down all tensors by one factor so that their global Euclidean norm is at most the limit.

    A norm that is not finite turns every gradient into NaN, as in Keras, so that the problem shows immediately.
    """
    each = norms(gradients)
    norm = torch.linalg.vector_norm(torch.stack([one.to(each[0]) for one in each]))
    scale = limit / norm.clamp_min(limit) + (norm - norm)
    if all(gradient.device == norm.device for gradient in gradients):
        return list(torch._foreach_mul(gradients, scale))
    return [gradient * scale.to(gradient.device) for gradient in gradients]
