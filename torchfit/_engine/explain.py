"""Errors from inside torch, told in the words of the user's call."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from torchfit._support.errors import describe

_MISMATCH = re.compile(
    r"shape|size|dimension|expected|dtype|must match|channels|same type|not implemented for|out of range", re.I
)


@contextmanager
def explained(module: nn.Module) -> Iterator[None]:
    """Turn a mismatch found inside one of torch's own layers into a `ValueError` that names layer and shapes.

    Whatever the user's own code raises, and running out of memory, passes through untouched.
    """
    try:
        yield
    except (RuntimeError, IndexError) as error:
        found = _failing_layer(error.__traceback__)
        if found is None or isinstance(error, torch.OutOfMemoryError) or not _MISMATCH.search(str(error)):
            raise
        raise ValueError(_explanation(module, *found, error)) from error


def _failing_layer(traceback: TracebackType | None) -> tuple[nn.Module, Any] | None:
    """Return the innermost module of torch's own whose `forward` was running, and its input."""
    found = None
    while traceback is not None:
        frame = traceback.tb_frame
        owner = frame.f_locals.get("self")
        if frame.f_code.co_name == "forward" and isinstance(owner, nn.Module):
            names = frame.f_code.co_varnames[1:2]
            found = (owner, frame.f_locals.get(names[0]) if names else None)
        traceback = traceback.tb_next
    is_torchs = found is not None and type(found[0]).__module__.startswith("torch.nn")
    return found if is_torchs else None


def _explanation(module: nn.Module, layer: nn.Module, received: Any, error: Exception) -> str:
    names = {id(submodule): name for name, submodule in module.named_modules()}
    name = names.get(id(layer), "").removeprefix("module.")
    where = f"layer `{name}`, {layer!r}," if name else f"layer {layer!r}"
    came = describe(received) if isinstance(received, Tensor) else "its inputs"
    return (
        f"`x` does not fit the model: {where} was called with {came}. "
        f"Check the number and order of features in `x` (and its dtype) against this layer. torch says: {error}"
    )
