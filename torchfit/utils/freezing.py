"""Freezing and unfreezing parameters by name."""

from typing import Any

from torchfit._utils.freezing import set_trainable


def freeze(model: Any, *patterns: str) -> list[str]:
    """Keep parameters from being trained: `requires_grad` becomes `False`.

    Normalisation layers whose parameters are all frozen stay in evaluation mode when torchfit trains: their running
    statistics are frozen as well, as in Keras. Freeze before `compile`: optimizer and compiled steps use what
    was trainable when they were created.

    Args:
        model: A `Model` or any module.
        *patterns: Names of submodules or parameters, as in `named_modules` and `named_parameters`; `*`, `?` and
            `[…]` stand for other characters. Everything inside of a submodule belongs to it. Without patterns, all.

    Returns:
        The names of the parameters that match the patterns.

    Raises:
        ValueError: If a pattern matches nothing.

    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    >>> freeze(net, "0", "1")
    ['0.weight', '0.bias', '1.weight', '1.bias']
    >>> [name for name, parameter in net.named_parameters() if parameter.requires_grad]
    ['2.weight', '2.bias']
    """
    return set_trainable(model, patterns, trained=False)


def unfreeze(model: Any, *patterns: str) -> list[str]:
    """Let parameters be trained again; see `freeze`, whose arguments and result are the same.

    >>> from torch import nn
    >>> net = nn.Linear(4, 2)
    >>> freeze(net), unfreeze(net, "bias")
    (['weight', 'bias'], ['bias'])
    """
    return set_trainable(model, patterns, trained=True)
