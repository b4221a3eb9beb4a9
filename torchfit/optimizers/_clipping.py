"""Gradient clipping. The gradients that come in stay as they are."""

from __future__ import annotations

import torch

from torchfit.optimizers._foreach import Tensors, norms


def clip(gradients: Tensors, clipnorm: float | None, clipvalue: float | None, global_clipnorm: float | None) -> Tensors:
    """Clip in the one way that is set."""
    if clipnorm:
        return clip_by_norm(gradients, clipnorm)
    if global_clipnorm:
        return clip_by_global_norm(gradients, global_clipnorm)
    return clip_by_value(gradients, clipvalue) if clipvalue else gradients


def clip_by_value(gradients: Tensors, limit: float) -> Tensors:
    """Bring every element into [-limit, limit]."""
    clipped = torch._foreach_clamp_max(gradients, limit)
    torch._foreach_clamp_min_(clipped, -limit)
    return list(clipped)


def clip_by_norm(gradients: Tensors, limit: float) -> Tensors:
    """Shrink each tensor whose Euclidean norm is above the limit to that norm."""
    scales = norms(gradients)
    torch._foreach_clamp_min_(scales, limit)
    scales = list(torch._foreach_reciprocal(scales))
    torch._foreach_mul_(scales, limit)
    return list(torch._foreach_mul(gradients, scales))


def clip_by_global_norm(gradients: Tensors, limit: float) -> Tensors:
    """Shrink all tensors together so that their common Euclidean norm is at most the limit.

    A norm that is not finite turns every gradient into NaN, as Keras does: the trouble shows at once.
    """
    each = norms(gradients)
    norm = torch.linalg.vector_norm(torch.stack([one.to(each[0]) for one in each]))
    scale = limit / norm.clamp_min(limit) + (norm - norm)
    if all(gradient.device == norm.device for gradient in gradients):
        return list(torch._foreach_mul(gradients, scale))
    return [gradient * scale.to(gradient.device) for gradient in gradients]
