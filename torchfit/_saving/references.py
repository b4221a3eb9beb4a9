"""Classes and functions by name: what a file may refer to, and where references are looked up.

Names are looked up in `torch.nn`, among torch's functions of tensors, in `torchfit.functional`, and among the custom
objects (of a `custom_object_scope`, and registered ones). Nothing is ever imported by a name in a file.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from torchfit import functional
from torchfit._utils.registry import find_custom, registered_name

Reference = dict[str, Any]
_TORCH = "torch.nn"
_INSIDE_TORCH = {"NonDynamicallyQuantizableLinear": NonDynamicallyQuantizableLinear}  # part of MultiheadAttention


def class_reference(kind: type) -> Reference:
    """Return the name of a class, its module, and the name it was registered under."""
    if is_torch_class(kind):
        return {"name": kind.__name__, "module": _TORCH, "registered": None}
    return {"name": kind.__name__, "module": kind.__module__, "registered": registered_name(kind)}


def find_class(reference: Reference) -> Any:
    """Return the module class of a reference, or `None` if it is unknown."""
    if reference["module"] == _TORCH:
        return _torch_class(reference["name"])
    return _find_custom(reference, lambda found: isinstance(found, type))


def function_reference(function: Callable[..., object]) -> Reference | None:
    """Return the name of a function and its module, or `None` if it cannot be found by a name."""
    name = getattr(function, "__name__", "<lambda>")
    for namespace, look_up in _FUNCTION_NAMESPACES.items():
        if look_up(name) is function:
            return {"name": name, "module": namespace, "registered": None}
    if not name.isidentifier() or getattr(function, "__self__", None) is not None:
        return None
    return {"name": name, "module": function.__module__, "registered": registered_name(function)}


def find_function(reference: Reference) -> Any:
    """Return the function of a reference, or `None` if it is unknown."""
    if reference["module"] in _FUNCTION_NAMESPACES:
        return _FUNCTION_NAMESPACES[reference["module"]](reference["name"])
    return _find_custom(reference, callable)


def is_torch_class(kind: type) -> bool:
    """Return whether a class is one of `torch.nn`, as files refer to it."""
    return _torch_class(kind.__name__) is kind


def _torch_class(name: str) -> Any:
    found = _INSIDE_TORCH.get(name) or getattr(nn, name, None)
    return found if isinstance(found, type) and issubclass(found, nn.Module) else None


def _torch_function(name: str) -> Any:
    """Return a function of torch that is a method of tensors as well, such as `torch.tanh`; no others."""
    return _public_function(torch, name) if hasattr(Tensor, name) else None


def _functional(name: str) -> Any:
    return _public_function(F, name)


def _public_function(module: object, name: str) -> Any:
    found = getattr(module, name, None)
    is_function = callable(found) and not isinstance(found, type) and not name.startswith("_")
    return found if is_function and getattr(found, "__name__", None) == name else None


def _own_functional(name: str) -> Any:
    return getattr(functional, name, None) if name in functional.__all__ else None


_FUNCTION_NAMESPACES: dict[str, Callable[[str], Any]] = {
    F.__name__: _functional,
    "torch": _torch_function,
    functional.__name__: _own_functional,
}


def _find_custom(reference: Reference, predicate: Callable[[Any], bool]) -> Any:
    names = (reference["registered"], f"{reference['module']}.{reference['name']}", reference["name"])
    found = (find_custom(name) for name in names if name)
    return next((each for each in found if each is not None and predicate(each)), None)
