"""Describes modules as plain data, without any code.

A description is a table of nodes, one per module, and a table of tensors. A node names the class and holds the module's
attributes, parameters, buffers and children. A module or tensor that occurs in several places is one entry, so that
it stays shared. A class with `get_config()` is described by its config instead of its attributes.

Classes and functions are named. They are looked up in `torch.nn`, among torch's functions of tensors, in
`torchfit.functional`, and among the custom objects (of a `custom_object_scope`, and registered ones). Nothing is ever
imported by a name in a file.
"""

import functools
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.parameter import is_lazy

from torchfit import functional, metrics
from torchfit._utils.compat import MODULE_ATTRIBUTES, ModuleTables
from torchfit._utils.errors import describe
from torchfit._utils.modules import unwrap_module
from torchfit._utils.registry import find_custom, registered_name

Reference = dict[str, Any]
_TORCH = "torch.nn"
_INSIDE_TORCH = {"NonDynamicallyQuantizableLinear": NonDynamicallyQuantizableLinear}  # part of MultiheadAttention


def class_reference(kind: type) -> Reference:
    """Return the name of a class, its module, and the name it was registered under."""
    if is_torch_class(kind):
        return {"name": kind.__name__, "module": _TORCH, "registered": None}
    return {"name": kind.__name__, "module": kind.__module__, "registered": registered_name(kind)}


def find_class(reference: Reference) -> type | None:
    """Return the module class of a reference, or `None` if it is unknown."""
    if reference["module"] == _TORCH:
        return _torch_class(reference["name"])
    return next((found for found in _custom_objects(reference) if isinstance(found, type)), None)


def function_reference(function: Callable[..., object]) -> Reference | None:
    """Return the name of a function and its module, or `None` if it cannot be found by name."""
    name = getattr(function, "__name__", "<lambda>")
    for namespace, look_up in _FUNCTION_NAMESPACES.items():
        if look_up(name) is function:
            return {"name": name, "module": namespace, "registered": None}
    if not name.isidentifier() or getattr(function, "__self__", None) is not None:
        return None
    return {"name": name, "module": function.__module__, "registered": registered_name(function)}


def find_function(reference: Reference) -> Callable[..., object] | None:
    """Return the function of a reference, or `None` if it is unknown."""
    if reference["module"] in _FUNCTION_NAMESPACES:
        return _FUNCTION_NAMESPACES[reference["module"]](reference["name"])
    return next(filter(callable, _custom_objects(reference)), None)


def is_torch_class(kind: type) -> bool:
    """Return whether a class is one of `torch.nn`."""
    return _torch_class(kind.__name__) is kind


def _torch_class(name: str) -> type[nn.Module] | None:
    found = _INSIDE_TORCH.get(name) or getattr(nn, name, None)
    return found if isinstance(found, type) and issubclass(found, nn.Module) else None


def _torch_function(name: str) -> Callable[..., object] | None:
    """Return a function of torch that is also a method of tensors, such as `torch.tanh`, or `None`."""
    return _public_function(torch, name) if hasattr(Tensor, name) else None


def _functional(name: str) -> Callable[..., object] | None:
    return _public_function(F, name)


def _public_function(module: object, name: str) -> Callable[..., object] | None:
    found = getattr(module, name, None)
    is_function = callable(found) and not isinstance(found, type) and not name.startswith("_")
    return found if is_function and getattr(found, "__name__", None) == name else None


def _own_functional(name: str) -> Callable[..., object] | None:
    return getattr(functional, name, None) if name in functional.__all__ else None


_FUNCTION_NAMESPACES: dict[str, Callable[[str], Callable[..., object] | None]] = {
    F.__name__: _functional,
    "torch": _torch_function,
    functional.__name__: _own_functional,
}


def _custom_objects(reference: Reference) -> Iterator[object]:
    """Yield what the user passed or registered under the names of a reference, `None` where there is nothing."""
    names = (reference["registered"], f"{reference['module']}.{reference['name']}", reference["name"])
    yield from (find_custom(name) for name in names if name)


Plain = Any
_HOOKS = tuple(name for name, value in vars(nn.Module()).items() if "hook" in name and isinstance(value, dict))
HAS_HOOKS = "it has hooks"
_SKIPPED = frozenset({"_flat_weight_refs"})  # of recurrent layers, which rebuild it
_ATOMS = (bool, int, float, str, type(None))
_TENSORS = (Tensor, nn.Parameter, nn.Buffer)
_SEQUENCES: dict[type, str] = {
    list: "list",
    tuple: "tuple",
    torch.Size: "size",
    set: "set",
    frozenset: "frozenset",
}
_MAPPINGS: dict[type, str] = {dict: "dict", OrderedDict: "ordered"}


class NotSerializableError(Exception):
    """Raised for a value that is neither plain data nor known by name; the message says what and where."""


class ModuleSerializer:
    """Converts modules and values to plain data, and collects their nodes and tensors.

    Nested modules are described without recursion, so that they may be nested deeply.
    """

    def __init__(self) -> None:
        self.nodes: list[dict[str, Plain]] = []
        self.tensors: list[Tensor] = []
        self._pending: deque[tuple[int, nn.Module, frozenset[str]]] = deque()
        self._node_numbers: dict[int, int] = {}
        self._tensor_numbers: dict[int, int] = {}
        self._keepalive: list[object] = []  # so that no two objects get the same id

    def module(self, module: nn.Module, hidden: frozenset[str] = frozenset()) -> int:
        """Return the number of a module's node. If it cannot be serialized, the node holds the reason.

        `hidden` are attributes of the module to omit (those that `Model` sets).
        """
        number = self._number(module, hidden)
        self._describe_pending()
        return number

    def value(self, value: object, place: str) -> Plain:
        """Return a value as plain data, or the reason why it cannot be serialized, to be reported when it is needed."""
        plain = self._or_problem(lambda: self._value(value, place))
        self._describe_pending()
        return plain

    def _number(self, module: nn.Module, hidden: frozenset[str] = frozenset()) -> int:
        number = self._node_numbers.get(id(module))
        if number is None:
            number = self._node_numbers[id(module)] = len(self.nodes)
            self._keepalive.append(module)
            mode = {} if getattr(module, "training", True) else {"evaluating": True}
            self.nodes.append({"class": class_reference(type(module)), **mode})
            self._pending.append((number, module, hidden))
        return number

    def _describe_pending(self) -> None:
        while self._pending:
            number, module, hidden = self._pending.popleft()
            self.nodes[number].update(self._or_problem(lambda: self._parts(module, hidden)))  # noqa: B023

    def _or_problem(self, make: Callable[[], Plain]) -> Plain:
        try:
            return make()
        except (NotSerializableError, ValueError, RecursionError) as reason:
            return {"#": "problem", "problem": str(reason)}

    def _value(self, value: Any, place: str) -> Plain:
        """Return a value as plain data.

        Raises:
            NotSerializableError: If it is not plain data, a tensor, a module, or a named class or function.
        """
        if type(value) in _ATOMS:
            return value
        if isinstance(value, Tensor):
            return self._tensor(value, place)
        if type(value) in _SEQUENCES:
            parts = [self._value(part, f"{place}[{number}]") for number, part in enumerate(value)]
            return parts if type(value) is list else {"#": _SEQUENCES[type(value)], "items": parts}
        if type(value) in _MAPPINGS:
            items = [[self._value(key, place), self._value(part, f"{place}[{key!r}]")] for key, part in value.items()]
            return {"#": _MAPPINGS[type(value)], "items": items}
        return self._other(value, place)

    def _other(self, value: object, place: str) -> Plain:
        if isinstance(value, nn.Module):
            return {"#": "module", "number": self._number(unwrap_module(value))}
        if isinstance(value, (torch.dtype, torch.device)):
            return {"#": type(value).__name__, "name": str(value).removeprefix("torch.")}
        if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
            return {"#": "array", "value": self._tensor(torch.from_numpy(value.copy()), place)}
        if isinstance(value, np.generic) and value.dtype.kind in "biuf":
            return {"#": "number", "dtype": str(value.dtype), "value": value.item()}
        if isinstance(value, functools.partial):
            parts = [self._value(part, place) for part in (value.func, value.args, value.keywords)]
            return {"#": "partial", "items": parts}
        if isinstance(value, type) and issubclass(value, nn.Module):
            return {"#": "class", **class_reference(value)}
        reference = function_reference(value) if callable(value) and hasattr(value, "__name__") else None
        if reference is None or isinstance(value, type):
            raise NotSerializableError(f"{place} is {describe(value)}, which is not plain data{_config_problem(value)}")
        return {"#": "function", **reference}

    def _tensor(self, tensor: Tensor, place: str) -> Plain:
        if type(tensor) not in _TENSORS:
            if is_lazy(tensor):
                raise NotSerializableError(f"{place} belongs to a lazy layer that saw no data yet")
            raise NotSerializableError(f"{place} is {describe(tensor)}, a {type(tensor).__name__}")
        number = self._tensor_numbers.get(id(tensor))
        if number is None:
            number = self._tensor_numbers[id(tensor)] = len(self.tensors)
            self._keepalive.append(tensor)
            self.tensors.append(tensor)
        is_parameter = type(tensor) is nn.Parameter
        return {"#": "tensor", "number": number, "parameter": is_parameter, "requires_grad": tensor.requires_grad}

    def _parts(self, module: nn.Module, hidden: frozenset[str]) -> dict[str, Plain]:
        if isinstance(module, metrics.Metric):
            return {"metric": self._value(metrics.serialize(module), "its configuration")}
        if hasattr(type(module), "get_config"):
            config: Any = module.get_config
            return {"config": self._value(config(), "its configuration")}
        _refuse_code(module)
        tables = ModuleTables(module)
        own = {name: value for name, value in vars(module).items() if name not in MODULE_ATTRIBUTES | _SKIPPED | hidden}
        return {
            "attributes": {name: self._value(value, f"its attribute `{name}`") for name, value in own.items()},
            "parameters": {name: self._tensor_ref(name, value) for name, value in tables.parameters.items()},
            "buffers": {name: self._tensor_ref(name, value) for name, value in tables.buffers.items()},
            "unsaved": sorted(tables.non_persistent_buffers),
            "children": {name: self._child(child) for name, child in tables.children.items()},
        }

    def _child(self, child: nn.Module | None) -> int | None:
        return None if child is None else self._number(unwrap_module(child))

    def _tensor_ref(self, name: str, tensor: Tensor | None) -> Plain:
        return None if tensor is None else self._tensor(tensor, f"its tensor `{name}`")


def _config_problem(value: object) -> str:
    """Return why the configuration of an object cannot be used."""
    if not hasattr(value, "get_config"):
        return ""
    try:
        value.get_config()
    except ValueError as error:
        return f". {str(error).rstrip('.')}"
    return ": get_config() of its class must return all that the constructor needs"


def _refuse_code(module: nn.Module) -> None:
    """Raise if the module is TorchScript or has hooks, except torchfit's own, which exist only during a run."""
    if isinstance(module, torch.jit.ScriptModule):
        raise NotSerializableError("it is compiled code of TorchScript, which torch.jit.save stores")
    for hooks in filter(None, map(vars(module).get, _HOOKS)):
        foreign = [hook for hook in hooks.values() if callable(hook) and not _is_ours(hook)]
        if foreign:
            raise NotSerializableError(f"{HAS_HOOKS} ({describe(foreign[0])}), which are code")


def _is_ours(hook: object) -> bool:
    inner = getattr(hook, "func", hook)
    return str(getattr(inner, "__module__", "")).partition(".")[0] == __name__.partition(".")[0]
