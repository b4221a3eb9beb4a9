"""What `compile` was given, as a configuration, and back."""

from collections.abc import Mapping
from typing import Any

from torch import optim

from torchfit import losses, metrics, optimizers
from torchfit._support import tree

Config = dict[str, Any]
_FAMILIES: dict[str, Any] = {"optimizer": optimizers, "loss": losses, "metrics": metrics, "weighted_metrics": metrics}


def compile_config(arguments: Mapping[str, Any]) -> Config:
    """Return the arguments of `compile` with losses, metrics and optimizers as plain data.

    Names stay names; functions, modules and what cannot be told as data stay themselves.
    """
    return {name: _described(_FAMILIES.get(name), value) for name, value in arguments.items()}


def compile_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `compile` from a configuration.

    Raises:
        ValueError: A name is not known.
    """
    return {name: _restored(_FAMILIES.get(name), value) for name, value in config.items()}


def _described(family: Any, value: Any) -> Any:
    return value if family is None else tree.map_leaves(lambda leaf: _serialized(family, leaf), value)


def _serialized(family: Any, leaf: Any) -> Any:
    if (isinstance(leaf, type) and hasattr(leaf, "get_config")) or isinstance(leaf, optim.Optimizer):
        leaf = family.get(leaf)
    if not hasattr(leaf, "get_config"):
        return leaf
    try:
        config = family.serialize(leaf)
    except ValueError:
        return leaf
    given_name = getattr(leaf, "_given_name", None)
    return config if given_name is None else {**config, "config": {**config["config"], "name": given_name}}


def _restored(family: Any, value: Any) -> Any:
    if isinstance(value, Mapping):
        if "class_name" in value and "config" in value:
            return family.deserialize(value)
        return {key: _restored(family, part) for key, part in value.items()}
    return [_restored(family, part) for part in value] if isinstance(value, (list, tuple)) else value
