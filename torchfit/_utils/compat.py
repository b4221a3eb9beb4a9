"""Private interfaces of torch and NumPy, each with what happens where it is missing."""

import mmap
from typing import Any

from torch import Tensor


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


def version_of(tensor: Tensor) -> int:
    """Return how often a tensor, or one that shares its memory as a view, was written to in place."""
    return tensor._version
