"""The names of custom classes and functions."""

from collections.abc import Mapping
from typing import Any

from torchfit._utils.registry import find_custom, registered_name


def get_registered_name(obj: Any) -> str:
    """Return the name that a class or function is registered under, or its own name if it is not registered.

    >>> get_registered_name(dict)
    'dict'
    """
    return registered_name(obj) or str(obj.__name__)


def get_registered_object(name: str, custom_objects: Mapping[str, Any] | None = None) -> Any:
    """Return the given or registered class or function of a name (`Net` or `package>Net`), or `None`.

    >>> get_registered_object("Net", {"Net": dict})
    <class 'dict'>
    """
    return find_custom(name, custom_objects)
