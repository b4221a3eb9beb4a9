"""Device, dtype, weights and mode of any module."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from torchfit._utils.compat import is_extra_state

_CALLS_PER_LEVEL = 12  # of copy.deepcopy, with some to spare
_MAX_LEVELS = 1000
_EVAL_FLAG = "_torchfit_keeps_evaluation_mode"
_modes_lock = threading.RLock()  # `train` of the user's modules runs under it.
_modes_before: list[dict[nn.Module, bool]] = []  # of the calls of `training_mode` in progress, in their order


def device_of(module: nn.Module) -> torch.device:
    """Return the device of the first parameter or buffer, the CPU if there is none."""
    return next((tensor.device for tensor in chain(module.parameters(), module.buffers())), torch.device("cpu"))


def floating_dtype_of(module: nn.Module) -> torch.dtype:
    """Return the floating dtype of the first parameter or buffer that has one, else torch's default."""
    tensors = (tensor for tensor in chain(module.parameters(), module.buffers()) if not is_lazy(tensor))
    return next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), torch.get_default_dtype())


def named_weights(module: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a module's `state_dict`, in use; what `get_extra_state` returns is not among them."""
    state = module.state_dict(keep_vars=True)
    return {key: value for key, value in state.items() if isinstance(value, Tensor) and not is_extra_state(key)}


def weight_tensors(module: nn.Module) -> list[Tensor]:
    """Return the weights as Keras counts them: parameters, and floating-point buffers."""
    return [*module.parameters(), *(buffer for buffer in module.buffers() if buffer.is_floating_point())]


def has_lazy_weights(module: nn.Module) -> bool:
    """Return whether weights are missing that are created when the module sees its first batch."""
    return any(map(is_lazy, weight_tensors(module)))


@contextmanager
def training_mode(module: nn.Module, training: bool) -> Iterator[None]:
    """Put every submodule into train or evaluation mode, and restore the mode of each on exit.

    Layers that stay in evaluation mode (`set_stays_in_eval`) are not put into train mode. Threads may share evaluation
    mode: one that exits while others use a submodule leaves it to them to restore its mode.
    """
    lock = nullcontext() if torch.compiler.is_compiling() else _modes_lock  # A graph is run by one thread.
    with lock:
        before = {submodule: submodule.training for submodule in module.modules()}
        nn.Module.train(module, training)
        for submodule in filter(stays_in_eval, before if training else ()):
            submodule.training = False
        _modes_before.append(before)
    try:
        yield
    finally:
        with lock:
            later = _remove(before)
            for submodule, was_training in before.items():
                other = next((modes for modes in later if submodule in modes), None)
                if other is None:
                    object.__setattr__(submodule, "training", was_training)  # Much faster than that of modules.
                else:
                    other[submodule] = was_training


def _remove(before: dict[nn.Module, bool]) -> list[dict[nn.Module, bool]]:
    """Remove the modes before a call, and return those of later calls that are in progress."""
    place = next(place for place, modes in enumerate(_modes_before) if modes is before)
    later = _modes_before[place + 1 :]
    del _modes_before[place]
    return later


@contextmanager
def deep_recursion(module: nn.Module) -> Iterator[None]:
    """Let functions call themselves as often as it takes to copy a module, however deeply it is nested."""
    stack, seen = [module], {id(module)}
    while stack:
        new = [child for child in stack.pop().children() if id(child) not in seen]
        seen.update(map(id, new))
        stack += new
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(before + _CALLS_PER_LEVEL * min(len(seen), _MAX_LEVELS))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def has_running_stats(module: nn.Module) -> bool:
    """Return whether a layer keeps running statistics of its inputs in train mode, as `nn.BatchNorm1d` does."""
    return getattr(module, "running_mean", None) is not None


def stays_in_eval(module: nn.Module) -> bool:
    """Return whether a layer stays in evaluation mode during training."""
    return getattr(module, _EVAL_FLAG, False)


def set_stays_in_eval(module: nn.Module, kept: bool) -> None:
    """Set whether a layer stays in evaluation mode during training; copies of it do the same."""
    if kept:
        setattr(module, _EVAL_FLAG, True)
    else:
        vars(module).pop(_EVAL_FLAG, None)
