"""Errors from inside torch, told in the words of the user's call."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import torch
from torch import nn

from torchfit._utils.errors import describe

_MISMATCH = re.compile(
    r"shape|size|dimension|expected|should contain|dtype|must match|must be Tensor|channel|same type"
    r"|not implemented for|out of range",
    re.I,
)
_NO_SUCH_CLASS = re.compile(r"out of bounds|Class values must be", re.I)

_NOTHING_TO_TRAIN = re.compile(r"does not require grad and does not have a grad_fn")


@contextmanager
def translate_errors(module: nn.Module) -> Iterator[None]:
    """Turn a mismatch found inside one of torch's own layers into a `ValueError` that names layer and shapes.

    Class numbers that the outputs have no class for, and losses that depend on no parameter, are told as well.
    Whatever the user's own code raises, and running out of memory, passes through untouched.
    """
    try:
        yield
    except (RuntimeError, IndexError, TypeError) as error:
        if _NOTHING_TO_TRAIN.search(str(error)):
            raise ValueError(_NO_GRADIENT) from error
        if _NO_SUCH_CLASS.search(str(error)) and _is_in_our_maths(error.__traceback__):
            raise ValueError(_NO_CLASS) from error
        found = _failing_layer(error.__traceback__)
        if found is None or isinstance(error, torch.OutOfMemoryError) or not _MISMATCH.search(str(error)):
            raise
        raise ValueError(_explanation(module, *found, error)) from error


_NO_GRADIENT = (
    "The loss depends on no parameter that is trained, so there is nothing to learn. Is every parameter frozen "
    "(`utils.unfreeze(model)`), or does `forward` cut the gradient off, with `detach()`, `no_grad` or NumPy?"
)

_NO_CLASS = (
    "`y` holds a class number that the outputs have no class for: class numbers start at 0, and the last one is the "
    "size of the output less 1. Give the last layer more units, renumber the classes, or leave a number out of the "
    "loss with `ignore_class=`."
)


def _is_in_our_maths(traceback: TracebackType | None) -> bool:
    while traceback is not None:
        if str(traceback.tb_frame.f_globals.get("__name__")).startswith("torchfit.functional"):
            return True
        traceback = traceback.tb_next
    return False


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
    came = "its inputs" if received is None else describe(received)
    return (
        f"`x` does not fit the model: {where} was called with {came}. "
        f"Check the number and order of features in `x` (and its dtype) against this layer. torch says: {error}"
    )
