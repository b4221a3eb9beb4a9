"""Errors from inside torch, told in the words of the user's call."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import torch
from torch import nn

from torchfit._trainer.layer_hints import describe_layer, suggest_way_out
from torchfit._utils.errors import describe
from torchfit._utils.tensors import is_plain
from torchfit._utils.tracebacks import iter_frames

_MISMATCH = re.compile(
    r"shape|size|dimension|at least|embed_dim|expect|should contain|should be the same|dtype|must match|must be Tensor"
    r"|channel|same type|must have the type|not implemented for|out of range|valid range|promoting|can't be cast",
    re.I,
)
_NO_SUCH_CLASS = re.compile(r"out of bounds|Class values must be", re.I)
_NO_SUCH_TARGET = re.compile(r"^Target -?\d+ is out of bounds|^target out of range|'target' is out of range", re.I)
_NOTHING_TO_TRAIN = re.compile(r"does not require grad and does not have a grad_fn")
_NUMPY_OF_GRADIENT = re.compile(r"Can't call numpy\(\) on Tensor that requires grad")
_DEVICE_ASSERT = re.compile(r"device-side assert")
_LOSSES = "torch.nn.modules.loss"


@contextmanager
def translate_errors(module: nn.Module, data_name: str = "x") -> Iterator[None]:
    """Turn a mismatch found inside one of torch's own layers into a `ValueError` that names layer and shapes.

    Class indices that the outputs have no class for, and losses that depend on no parameter, are told as well.
    Whatever the user's own code raises, and running out of memory, passes through untouched.

    Args:
        module: The module of the model, in which layers have names.
        data_name: The argument that the data came as, `x` or `validation_data`.
    """
    try:
        yield
    except (RuntimeError, IndexError, TypeError, ValueError, AssertionError, AttributeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        if _DEVICE_ASSERT.search(str(error)):
            raise RuntimeError(_ON_THE_DEVICE) from error
        explanation = _explain(module, data_name, error)
        if explanation is None:
            raise
        raise ValueError(explanation) from error


_NO_GRADIENT = (
    "The loss depends on no parameter that is trained, so there is nothing to learn. Is every parameter frozen "
    "(`utils.unfreeze(model)`), or does `forward` or the loss cut the gradient off, with `detach()` or `no_grad`?"
)

_NO_CLASS = (
    "holds a class index that the outputs have no class for: class indices start at 0, and the last one is the "
    "number of classes less 1. Give the last layer more units, renumber the classes, or leave an index out of the "
    "loss with `ignore_class=` (torch: `ignore_index=`)."
)

_LEAVES_TORCH = (
    "The loss, or the `forward` of a module, turns a tensor into a NumPy array, which gradients cannot pass. Compute "
    "with torch: torch.mean for np.mean, and so on."
)

_ON_THE_DEVICE = (
    "The device stopped at an index that is out of range: most often a class index in `y` that the outputs have no "
    'class for, or an id in `x` that an embedding has no row for. The same call with device="cpu", in a new process, '
    "says which."
)


def _explain(module: nn.Module, data_name: str, error: Exception) -> str | None:
    """Return what to tell in place of `error`, `None` if it tells enough."""
    text, traceback = str(error), error.__traceback__
    if _passes_through("torchfit._data", traceback):
        return None
    if _NOTHING_TO_TRAIN.search(text):
        return _NO_GRADIENT
    if _NUMPY_OF_GRADIENT.search(text):
        return _LEAVES_TORCH
    if _NO_SUCH_TARGET.search(text) or (
        _NO_SUCH_CLASS.search(text) and _passes_through("torchfit.functional", traceback)
    ):
        return f"{_in_data('y', data_name)} {_NO_CLASS}"
    found = _failing_layer(traceback)
    if found is None:
        return None
    layer, received, home, is_in_torch = found
    if not (is_in_torch and _MISMATCH.search(text)) and (received is None or is_plain(received)):
        return None
    came = "its inputs" if received is None else describe(received)
    if home == _LOSSES:
        y = _in_data("y", data_name)
        return f"{y} does not fit the loss {layer!r}, which was called with the outputs {came}. torch says: {text}"
    return (
        f"{_in_data('x', data_name)} does not fit the model: layer {describe_layer(module, layer)} was called with "
        f"{came}. {suggest_way_out(layer, received, text)} torch says: {text}"
    )


def _in_data(argument: str, data_name: str) -> str:
    return f"`{argument}`" if data_name == "x" else f"`{argument}` in `{data_name}`"


def _passes_through(package: str, traceback: TracebackType | None) -> bool:
    """Return whether a package of ours, such as that which reads the data, is among the callers."""
    return any(_module_of(entry).startswith(package) for entry in iter_frames(traceback))


def _failing_layer(traceback: TracebackType | None) -> tuple[nn.Module, Any, str, bool] | None:
    """Return the innermost module whose `forward` was running, its input, and where this `forward` was written.

    And whether the code that failed is torch's. `None` if the `forward` is not torch's.
    """
    found, where = None, ""
    for entry in iter_frames(traceback):
        frame, where = entry.tb_frame, _module_of(entry)
        if frame.f_code.co_name == "forward":  # The locals of others, once read, would keep the error itself alive.
            values, names = frame.f_locals, frame.f_code.co_varnames[1:2]
            if isinstance(values.get("self"), nn.Module):
                found = values["self"], values.get(names[0]) if names else None, where
    if found is None or not found[2].startswith("torch.nn"):
        return None
    return *found, where.startswith("torch.")


def _module_of(entry: TracebackType) -> str:
    return str(entry.tb_frame.f_globals.get("__name__"))
