"""torch's private fused kernels: one pass over memory instead of four to eight, in eager mode only.

They compute Keras' formulas once the arguments are arranged (each function says how). Everything here may be missing
or change in another torch version: `available` then says no, and the optimizers use their foreach rules.
"""

from __future__ import annotations

import math
from typing import TypeGuard

import torch
from torch import Tensor

from torchfit.optimizers._foreach import Scalar, Tensors

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_DEVICES = {"adam": ("cpu", "cuda"), "sgd": ("cpu", "cuda"), "adagrad": ("cpu",)}


def available(kernel: str, parameters: Tensors) -> bool:
    """Return whether the kernel (adam, sgd, adagrad) exists for parameters like these."""
    if not parameters or not hasattr(torch, f"_fused_{kernel}_"):
        return False
    first = parameters[0]
    alike = all(p.dtype == first.dtype and p.device == first.device for p in parameters)
    known = first.dtype in _DTYPES and first.device.type in _DEVICES[kernel]
    return alike and known and all(map(Tensor.is_contiguous, parameters))


def adam_(
    parameters: Tensors,
    gradients: Tensors,
    momentums: Tensors,
    velocities: Tensors,
    velocity_hats: Tensors,
    steps: Tensors,
    *,
    learning_rate: float,
    beta_1: float,
    beta_2: float,
    epsilon: float,
    step: float,
) -> None:
    """Adam.

    Keras adds epsilon to √v, torch to √v / √(1 - beta_2**step); dividing epsilon by that root makes them equal.
    `steps` is one 0-d tensor, repeated, since the kernel reads the step from memory.
    """
    steps[0].fill_(step)
    torch._fused_adam_(
        parameters,
        gradients,
        momentums,
        velocities,
        velocity_hats,
        steps,
        lr=learning_rate,
        beta1=beta_1,
        beta2=beta_2,
        weight_decay=0.0,
        eps=epsilon / math.sqrt(1 - beta_2**step),
        amsgrad=bool(velocity_hats),
        maximize=False,
    )


def sgd_(
    parameters: Tensors,
    gradients: Tensors,
    momentums: Tensors,
    learning_rate: float,
    momentum: float,
    nesterov: bool,
) -> None:
    """Gradient descent with momentum.

    Keras keeps the learning rate inside the velocity: v = momentum · v - rate · g, then p += v, or with Nesterov
    p += momentum · v - rate · g. The kernel computes v = momentum · v + (1 - dampening) · g, then p -= lr · v, or
    p -= lr · (g + momentum · v). Hence an lr of -1, and a dampening of 1 + rate or gradients times -rate.
    """
    torch._fused_sgd_(
        parameters,
        torch._foreach_mul(gradients, -learning_rate) if nesterov else gradients,
        momentums,
        weight_decay=0.0,
        momentum=momentum,
        lr=-1.0,
        dampening=0.0 if nesterov else 1 + learning_rate,
        nesterov=nesterov,
        maximize=False,
        is_first_step=False,
    )


def usable(learning_rate: Scalar, gradients: Tensors) -> TypeGuard[float]:
    """Return whether this step may use a kernel: its scalars are numbers and its gradients are contiguous.

    The kernels walk through memory and never look at strides.
    """
    return not isinstance(learning_rate, Tensor) and all(map(Tensor.is_contiguous, gradients))
