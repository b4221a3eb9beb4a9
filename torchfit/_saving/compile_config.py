"""Converts the arguments of `compile` to a configuration of plain data and back."""

import inspect
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from torch import optim

from torchfit import losses, metrics, optimizers
from torchfit._types import Config
from torchfit._utils import tree

_FAMILIES: dict[str, ModuleType] = {
    "optimizer": optimizers,
    "loss": losses,
    "metrics": metrics,
    "weighted_metrics": metrics,
}


def compile_config(arguments: Mapping[str, object]) -> Config:
    """Return the arguments of `compile` with losses, metrics and optimizers as plain data.

    Names stay as they are, and so do functions, modules and other objects that cannot be described as data.
    """
    return {name: _serialize_nested(_FAMILIES.get(name), value) for name, value in arguments.items()}


def compile_arguments(config: Mapping[str, object]) -> Config:
    """Return the arguments of `compile` from a configuration.

    Raises:
        ValueError: If a name is unknown.
    """
    return {name: _deserialize_nested(_FAMILIES.get(name), value) for name, value in config.items()}


def _serialize_nested(family: ModuleType | None, value: object) -> object:
    return value if family is None else tree.map(lambda leaf: _serialized(family, leaf), value)


def _serialized(family: ModuleType, leaf: object) -> object:
    if (isinstance(leaf, type) and hasattr(leaf, "get_config")) or isinstance(leaf, optim.Optimizer):
        leaf = family.get(leaf)
    if not hasattr(leaf, "get_config"):
        return leaf
    try:
        described = family.serialize(leaf)
        config = _fill_missing(leaf, described["config"])
    except (ValueError, AttributeError):
        return leaf
    given_name = getattr(leaf, "given_name", None)
    return {**described, "config": {**config, "name": given_name} if given_name and "name" in config else config}


def _fill_missing(leaf: object, config: Config) -> Config:
    """Complete the config of a class that overrides `__init__` but inherits `get_config`.

    Constructor arguments that the inherited method does not return are read from the attributes of the same names.

    Raises:
        AttributeError: If there is no such attribute.
    """
    init_owner, config_owner = _owner(type(leaf), "__init__"), _owner(type(leaf), "get_config")
    if issubclass(config_owner, init_owner) or init_owner.__module__.partition(".")[0] == __name__.partition(".")[0]:
        return config
    parameters = inspect.signature(vars(init_owner)["__init__"]).parameters.values()
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)][1:]
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    known = {name: value for name, value in config.items() if takes_all or name in named}
    return {**known, **{name: getattr(leaf, name) for name in named if name not in known}}


def _owner(kind: type, name: str) -> type:
    return next(each for each in kind.__mro__ if name in vars(each))


def _deserialize_nested(family: Any, value: Any) -> Any:
    if isinstance(value, Mapping):
        if "class_name" in value and "config" in value:
            return family.deserialize(value)
        return {key: _deserialize_nested(family, part) for key, part in value.items()}
    return [_deserialize_nested(family, part) for part in value] if isinstance(value, (list, tuple)) else value
