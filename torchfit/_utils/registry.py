"""Finds classes and functions by name: custom ones, registered or passed to a call, and those of each package.

`serialize` stores names; `deserialize` looks them up among the objects passed for this call, those of the enclosing
`custom_object_scope`, the registered ones and the registry's own entries, in this order. Names in the data never cause
an import.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, TypeVar

from torch import nn

from torchfit._utils.errors import describe
from torchfit._utils.names import did_you_mean, near_names, suggest_keywords

Registered = TypeVar("Registered", bound=Callable[..., object])

_registered: dict[str, object] = {}
_NOTHING: Mapping[str, object] = MappingProxyType({})
_MAX_LISTED = 5
_scoped: ContextVar[Mapping[str, object]] = ContextVar("custom_objects", default=_NOTHING)


@suggest_keywords
def register_serializable(package: str = "Custom", name: str | None = None) -> Callable[[Registered], Registered]:
    """Return a decorator that registers a class or function as `package>name`, to be found when loading.

    `name` defaults to the object's own. A class needs `get_config`, unless it is a `torch.nn.Module`, which can be
    rebuilt from its attributes and weights. Registering a name again replaces the first object, so that a notebook
    cell can be run again.

    >>> @register_serializable("shop")
    ... def squared(y_true, y_pred):
    ...     return (y_pred - y_true) ** 2
    >>> registered_name(squared), find_custom("shop>squared") is squared, find_custom("squared") is squared
    ('shop>squared', True, True)
    """
    if callable(package):
        raise TypeError("register_serializable is called first: write @register_serializable().")

    def register(target: Registered) -> Registered:
        needs_config = isinstance(target, type) and not issubclass(target, nn.Module)
        if needs_config and not hasattr(target, "get_config"):
            raise ValueError(
                f"register_serializable: the class {target.__name__} has no get_config() and cannot be "
                "saved. Define get_config() returning the constructor's arguments."
            )
        _registered[f"{package}>{name or target.__name__}"] = target
        return target

    return register


@suggest_keywords
@contextmanager
def custom_object_scope(objects: Mapping[str, object]) -> Iterator[None]:
    """Make `objects` (name -> class or function) available by name within the `with` block.

    >>> with custom_object_scope({"plain": print}):
    ...     find_custom("plain") is print
    True
    """
    token = _scoped.set({**_scoped.get(), **objects})
    try:
        yield
    finally:
        _scoped.reset(token)


def registered_name(target: object) -> str | None:
    """Return the full name under which a class or function was registered, or `None`."""
    return next((name for name, known in _registered.items() if known is target), None)


def find_custom(name: str, custom_objects: Mapping[str, object] | None = None) -> Any:
    """Return the custom class or function of this name (bare or `package>name`), or `None`."""
    for objects in (custom_objects or {}, _scoped.get(), _registered):
        if name in objects:
            return objects[name]
    return next((known for full, known in reversed(_registered.items()) if full.split(">", 1)[-1] == name), None)


def get_registered_name(obj: type | Callable[..., object]) -> str:
    """Return the name that a class or function is registered under, or its own name if it is not registered.

    >>> get_registered_name(dict)
    'dict'
    """
    return registered_name(obj) or str(obj.__name__)


def get_registered_object(name: str, custom_objects: Mapping[str, object] | None = None) -> Any:
    """Return the given or registered class or function of a name (`Net` or `package>Net`), or `None`.

    >>> get_registered_object("Net", {"Net": dict})
    <class 'dict'>
    """
    return find_custom(name, custom_objects)


_registries: list["Registry"] = []


class Registry:
    """A registry of losses, metrics or optimizers, with Keras' `get`, `serialize` and `deserialize`.

    `kind` is the word for messages ("loss"), `module` the public module ("torchfit.losses"), `entries` maps names and
    aliases to classes and functions. Look-up ignores case, unless two names differ only by case.
    """

    def __init__(self, kind: str, module: str, entries: Mapping[str, object]):
        self.kind = kind
        self.module = module
        self.entries = dict(entries)
        _registries.append(self)

    @functools.cached_property
    def _by_lower_case(self) -> dict[str, object]:
        return {name.lower(): entry for name, entry in reversed(self.entries.items())}

    def knows(self, name: str) -> bool:
        """Return whether there is an entry of this name."""
        return name in self.entries or name.lower() in self._by_lower_case

    def lookup(self, name: str, custom_objects: Mapping[str, object] | None = None) -> Any:
        """Return the class or function called `name`; an unknown name raises a `ValueError`."""
        custom = find_custom(name, custom_objects)
        if custom is not None:
            return custom
        member = self.entries.get(name, self._by_lower_case.get(name.lower()))
        if member is None:
            raise ValueError(f"Unknown {self.kind}: {name!r}. {self._suggest(name, custom_objects or {})}")
        return member

    def _suggest(self, name: str, custom_objects: Mapping[str, object]) -> str:
        """Return a sentence with the nearest names, or with the module that lists them."""
        known = [*self.entries, *custom_objects, *_registered]
        for other in _registries:
            if other.knows(name):
                return f"It is the name of {'an' if other.kind[0] in 'aeiou' else 'a'} {other.kind}."
        if len(known) <= _MAX_LISTED or near_names(name, known):
            return did_you_mean(name, known)
        return f"The names are those of `{self.module}`; an object, a class or a function of your own will do as well."

    def get(self, identifier: object) -> Any:
        """Return the object or function for a name, a config, a class or a callable."""
        if identifier is None:
            return None
        if isinstance(identifier, Mapping):
            return self.deserialize(identifier)
        target = self.lookup(identifier) if isinstance(identifier, str) else identifier
        if isinstance(target, type):
            return target()
        if not callable(target):
            raise ValueError(
                f"Could not interpret the {self.kind}: expected a name, a config, a class or an object of "
                f"`{self.module}`, or a function. Received: {describe(identifier)}.{_rate_hint(identifier)}"
            )
        return target

    def serialize(self, member: object) -> dict[str, Any]:
        """Return the config of an object or function: plain data with its module, name and arguments."""
        if hasattr(member, "get_config"):
            return self._describe(type(member), type(member).__name__, member.get_config())
        name = registered_name(member) or getattr(member, "__name__", "<lambda>")
        if not callable(member) or name == "<lambda>":
            raise ValueError(
                f"Could not serialize {describe(member)} as a {self.kind}: expected an object with "
                "get_config() or a named function."
            )
        return self._describe(member, "function", name)

    def _describe(self, target: object, class_name: str, config: object) -> dict[str, Any]:
        is_own = target.__module__.partition(".")[0] == self.module.partition(".")[0]
        if class_name == "function":
            return {
                "module": "builtins",
                "class_name": "function",
                "config": config,
                "registered_name": "function",
            }
        return {
            "module": self.module if is_own else None,
            "class_name": class_name,
            "config": config,
            "registered_name": None if is_own else registered_name(target) or class_name,
        }

    def deserialize(self, config: object, custom_objects: Mapping[str, object] | None = None) -> Any:
        """Rebuild an object from the result of `serialize`; a bare name is looked up."""
        if isinstance(config, str):
            return self.lookup(config, custom_objects)
        if not isinstance(config, Mapping) or not isinstance(config.get("class_name"), str):
            raise ValueError(
                f"Could not read the {self.kind} config: expected a name or a dictionary with 'class_name' "
                f"and 'config', received {describe(config)}."
            )
        if config["class_name"] == "function":
            return self.lookup(config["config"], custom_objects)
        with custom_object_scope(custom_objects or {}):
            return self._build(self._class_of(config), config.get("config") or {})

    def _class_of(self, config: Mapping[str, Any]) -> Any:
        full_name = config.get("registered_name")
        registered = find_custom(full_name) if full_name else None
        return registered if registered is not None else self.lookup(config["class_name"])

    def _build(self, target: object, arguments: Mapping[str, object]) -> Any:
        if not isinstance(target, type):
            return target
        from_config = getattr(target, "from_config", None)
        return from_config(dict(arguments)) if from_config else target(**arguments)


def _rate_hint(identifier: object) -> str:
    is_number = isinstance(identifier, (int, float))
    return " A learning rate is an argument of the optimizer: optimizers.Adam(0.001)." if is_number else ""
