"""What stands between a model and the user's bare module: `torch.compile` and data-parallel wrappers."""

from collections.abc import Iterable
from typing import Any

from torch import nn

from torchfit._trainer.module_wrapper import ModuleWrapper

_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)
_COMPILED = "_orig_mod"


def bare(module: nn.Module) -> nn.Module:
    """Return the module itself, without a `Model`, `torch.compile` or data-parallel wrapper around it.

    >>> net = nn.Linear(1, 1)
    >>> bare(nn.DataParallel(net)) is net
    True
    """
    while True:
        inner = _inside(module)
        if inner is module:
            return module
        module = inner


def _inside(module: nn.Module) -> nn.Module:
    if isinstance(module, ModuleWrapper):
        return module.module
    inner = module._modules.get("module" if isinstance(module, _PARALLEL) else _COMPILED)
    return module if inner is None else inner


def bare_key(key: str) -> str:
    """Return a key of a `state_dict` without the names that `torch.compile` puts into it.

    >>> bare_key("encoder._orig_mod.weight")
    'encoder.weight'
    """
    return ".".join(part for part in key.split(".") if part != _COMPILED) if _COMPILED in key else key


def bare_keys(state: dict[str, Any], wanted: Iterable[str]) -> dict[str, Any]:
    """Return a state under bare keys; `module.`, which data-parallel wrappers put first, goes unless it is wanted.

    >>> bare_keys({"module._orig_mod.weight": 1}, ["weight"])
    {'weight': 1}
    """
    state = {bare_key(key): value for key, value in state.items()}
    if all(key.startswith("module.") for key in state) and not any(key.startswith("module.") for key in wanted):
        return {key.removeprefix("module."): value for key, value in state.items()}
    return state
