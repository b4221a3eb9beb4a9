"""Make parameters trainable, or not, by name."""

import fnmatch
from collections.abc import Iterable, Iterator

from torch import nn

from torchfit._utils.errors import describe
from torchfit._utils.modules import has_running_stats, set_stays_in_eval
from torchfit._utils.names import did_you_mean


def freeze(model: nn.Module, *patterns: str) -> list[str]:
    """Keep parameters from being trained: `requires_grad` becomes `False`.

    Normalisation layers whose parameters are all frozen stay in evaluation mode when torchfit trains: their running
    statistics are frozen as well, as in Keras. During `fit`, what is frozen between two epochs is so from the next
    one on.

    Args:
        model: A `Model` or any module.
        *patterns: Names of submodules or parameters, as in `named_modules` and `named_parameters`; `*`, `?` and
            `[…]` stand for other characters. Everything inside of a submodule belongs to it. Without patterns, all.

    Returns:
        The names of the parameters that match the patterns.

    Raises:
        ValueError: If a pattern matches nothing.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    >>> freeze(net, "0", "1")
    ['0.weight', '0.bias', '1.weight', '1.bias']
    >>> [name for name, parameter in net.named_parameters() if parameter.requires_grad]
    ['2.weight', '2.bias']
    """
    return set_trainable(model, patterns, trained=False)


def unfreeze(model: nn.Module, *patterns: str) -> list[str]:
    """Let parameters be trained again; see `freeze`, whose arguments and result are the same.

    >>> net = nn.Linear(4, 2)
    >>> freeze(net), unfreeze(net, "bias")
    (['weight', 'bias'], ['bias'])
    """
    return set_trainable(model, patterns, trained=True)


def set_trainable(model: nn.Module, patterns: Iterable[str], *, trained: bool) -> list[str]:
    """Set `requires_grad` of the parameters that match the patterns, all without patterns, and return their names.

    Normalisation layers whose parameters are all frozen stay in evaluation mode during training.

    Raises:
        ValueError: if a pattern matches nothing.
    """
    module = _module_of(model)
    chosen = matching_parameters(module, patterns)
    for name, parameter in module.named_parameters():
        if name in chosen and (parameter.is_floating_point() or parameter.is_complex()):
            parameter.requires_grad_(trained)
    for submodule in module.modules():
        own = list(submodule.parameters(recurse=False))
        if own and has_running_stats(submodule):
            set_stays_in_eval(submodule, not any(parameter.requires_grad for parameter in own))
    return [name for name, _ in module.named_parameters() if name in chosen]


def _module_of(model: nn.Module) -> nn.Module:
    module = getattr(model, "module", model)
    if not isinstance(module, nn.Module):
        module = model
    if not isinstance(module, nn.Module):
        raise ValueError(f"`model` must be a Model or a module, but it is {describe(model)}.")
    return module


def matching_parameters(module: nn.Module, patterns: Iterable[str]) -> set[str]:
    """Return the names of the parameters that match one of the patterns, all without patterns.

    Raises:
        ValueError: if a pattern matches nothing.
    """
    names = [name for name, _ in module.named_parameters()]
    patterns = list(patterns)
    if not patterns:
        return set(names)
    chosen: set[str] = set()
    for pattern in patterns:
        found = {name for name in names if any(fnmatch.fnmatchcase(part, pattern) for part in _with_owners(name))}
        if not found:
            known = dict.fromkeys(part for name in names for part in _with_owners(name))
            raise ValueError(f"{pattern!r} is the name of no parameter or submodule. {did_you_mean(pattern, known)}")
        chosen |= found
    return chosen


def _with_owners(name: str) -> Iterator[str]:
    """Yield the name of a parameter and those of the modules that contain it.

    >>> list(_with_owners("layer1.0.weight"))
    ['layer1', 'layer1.0', 'layer1.0.weight']
    """
    parts = name.split(".")
    return (".".join(parts[:end]) for end in range(1, len(parts) + 1))
