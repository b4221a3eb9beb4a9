"""Wrappers around the user's module (`Model`, `torch.compile`, data-parallel ones), and how to remove them."""

from collections.abc import Iterable
from typing import TypeVar

from torch import nn

from torchfit._utils.compat import ModuleTables

Value = TypeVar("Value")

_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)
_COMPILED = "_orig_mod"


class ModuleWrapper(nn.Module):
    """A module that holds another one, or is one itself when it is subclassed."""

    @property
    def module(self) -> nn.Module:
        """The wrapped module; `self` in a subclass that defines its own `forward`."""
        module = self._modules.get("module")
        return self if module is None else module


def unwrap_module(module: nn.Module) -> nn.Module:
    """Return the module itself, without a `Model`, `torch.compile` or data-parallel wrapper around it.

    >>> net = nn.Linear(1, 1)
    >>> unwrap_module(nn.DataParallel(net)) is net
    True
    """
    while True:
        inner = _inner(module)
        if inner is module:
            return module
        module = inner


def _inner(module: nn.Module) -> nn.Module:
    if isinstance(module, ModuleWrapper):
        return module.module
    inner = ModuleTables(module).children.get("module" if isinstance(module, _PARALLEL) else _COMPILED)
    return module if inner is None else inner


def unwrap_key(key: str) -> str:
    """Return a key of a `state_dict` without the names that `torch.compile` puts into it.

    >>> unwrap_key("encoder._orig_mod.weight")
    'encoder.weight'
    """
    return ".".join(part for part in key.split(".") if part != _COMPILED) if _COMPILED in key else key


def unwrap_keys(state: dict[str, Value], wanted: Iterable[str]) -> dict[str, Value]:
    """Return a state under unwrapped keys; the `module.` of data-parallel wrappers is removed unless it is wanted.

    >>> unwrap_keys({"module._orig_mod.weight": 1}, ["weight"])
    {'weight': 1}
    """
    state = {unwrap_key(key): value for key, value in state.items()}
    if all(key.startswith("module.") for key in state) and not any(key.startswith("module.") for key in wanted):
        return {key.removeprefix("module."): value for key, value in state.items()}
    return state
