"""Private API of torch and NumPy, looked up in this file only, each with what happens where it is missing.

The fused loss kernels: `torch.nn.functional.mse_loss` spends seven eighths of its 20 µs (CPU, batch of 64) on
broadcasting in Python; the underlying kernel takes 2.5 µs.
"""

import mmap
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import _C, Tensor

Kernel = Callable[..., Tensor]

NONE, MEAN = 0, 1  # torch's numbers for its reductions
_REDUCTIONS = ("none", "mean")
_native: Any = getattr(_C, "_nn", None)


def _public_mse_loss(input: Tensor, target: Tensor, reduction: int) -> Tensor:
    return F.mse_loss(input, target, reduction=_REDUCTIONS[reduction])


def _public_l1_loss(input: Tensor, target: Tensor, reduction: int) -> Tensor:
    return F.l1_loss(input, target, reduction=_REDUCTIONS[reduction])


def _public_huber_loss(input: Tensor, target: Tensor, reduction: int, delta: float) -> Tensor:
    return F.huber_loss(input, target, reduction=_REDUCTIONS[reduction], delta=delta)


mse_loss: Kernel = getattr(_native, "mse_loss", _public_mse_loss)
l1_loss: Kernel = getattr(_native, "l1_loss", _public_l1_loss)
huber_loss: Kernel = getattr(_native, "huber_loss", _public_huber_loss)


def shutdown_workers(loader: Any, iterator: Any) -> None:
    """Stop the worker processes of a `DataLoader`'s iterator, which torch otherwise does when both are collected."""
    shutdown = getattr(iterator, "_shutdown_workers", None)
    if shutdown is not None:
        shutdown()
    if getattr(loader, "_iterator", None) is iterator:
        loader._iterator = None


def mapping_of(memory_map: Any) -> mmap.mmap | None:
    """Return the mapping of a `numpy.memmap`; `None` for a part of it that was computed, and where NumPy has none."""
    mapping: mmap.mmap | None = getattr(memory_map, "_mmap", None)
    return mapping
