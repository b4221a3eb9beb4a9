"""Modules from the plain data of `ModuleSerializer`.

Classes of `torch.nn` and custom ones are built as copies and pickles are, without their constructors: their attributes,
parameters, buffers and children are set. A class with `get_config()` is built by its constructor.
"""

import functools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchfit import metrics
from torchfit._saving.module_serializer import INTERNAL
from torchfit._saving.references import find_class, find_function

Plain = Any
_COLLECTIONS: dict[str, Callable[[Any], Any]] = {
    "tuple": tuple,
    "size": torch.Size,
    "set": set,
    "frozenset": frozenset,
    "dict": dict,
    "ordered": OrderedDict,
}


class ModuleDeserializer:
    """Builds modules and values from the tables of nodes and tensors.

    `initialize` is called for the first module instead of `nn.Module.__init__`.
    """

    def __init__(
        self,
        nodes: list[dict[str, Plain]],
        tensors: list[Tensor],
        initialize: Callable[[nn.Module], None] = nn.Module.__init__,
    ) -> None:
        self._nodes = nodes
        self._tensors = tensors
        self._initialize = initialize
        self._modules: dict[int, nn.Module] = {}
        self._made: dict[int, Tensor] = {}

    def problems(self) -> dict[str, str]:
        """Return why modules cannot be built: the reason by class name."""
        found = {}
        for node in self._nodes:
            reference = node["class"]
            if "metric" not in node and find_class(reference) is None:
                found[reference["name"]] = f"its class, defined in {reference['module']}, is not part of torch.nn"
            elif "problem" in node:
                found[reference["name"]] = node["problem"]
        return found

    def module(self, number: int) -> nn.Module:
        """Return the module of a node, the same one on every call."""
        if number not in self._modules:
            node = self._nodes[number]
            if "problem" in node:
                raise ValueError(f"{node['class']['name']} could not be saved as plain data: {node['problem']}")
            if "metric" in node:
                self._modules[number] = metrics.deserialize(self.value(node["metric"]))
            elif "config" in node:
                self._modules[number] = self._construct(node)
            else:
                self._from_attributes(number, node)
        return self._modules[number]

    def value(self, plain: Plain) -> Any:
        """Return the value that plain data describes.

        Raises:
            ValueError: It could not be serialized, or names something unknown.
        """
        if isinstance(plain, list):
            return [self.value(part) for part in plain]
        if not isinstance(plain, dict):
            return plain
        kind = plain["#"]
        if kind in ("dict", "ordered"):
            return _COLLECTIONS[kind]((self.value(key), self.value(part)) for key, part in plain["items"])
        if kind in _COLLECTIONS:
            return _COLLECTIONS[kind](self.value(part) for part in plain["items"])
        special: Callable[[dict[str, Plain]], Any] | None = getattr(self, f"_load_{kind}", None)
        if special is None:
            raise ValueError(f"it holds something of the unknown kind {kind!r}.")
        return special(plain)

    def _construct(self, node: dict[str, Plain]) -> nn.Module:
        kind, config = self._class_of(node), self.value(node["config"])
        made = kind.from_config(config) if hasattr(kind, "from_config") else kind(**config)
        if not isinstance(made, nn.Module):
            raise ValueError(f"{node['class']['name']}.from_config must return a module.")
        return made

    def _from_attributes(self, number: int, node: dict[str, Plain]) -> None:
        kind = self._class_of(node)
        module = self._modules[number] = nn.Module.__new__(kind)
        (self._initialize if number == 0 else nn.Module.__init__)(module)
        attributes = {name: self.value(value) for name, value in node["attributes"].items() if name not in INTERNAL}
        module._parameters.update({name: self.value(value) for name, value in node["parameters"].items()})
        module._buffers.update({name: self.value(value) for name, value in node["buffers"].items()})
        module._non_persistent_buffers_set.update(node["unsaved"])
        children = node["children"].items()
        module._modules.update({name: None if child is None else self.module(child) for name, child in children})
        _set_state(module, {**vars(module), **attributes})

    def _load_module(self, plain: dict[str, Plain]) -> nn.Module:
        return self.module(plain["number"])

    def _load_tensor(self, plain: dict[str, Plain]) -> Tensor:
        number = plain["number"]
        if number not in self._made:
            tensor = self._tensors[number]
            requires_grad = plain["requires_grad"]
            made = nn.Parameter(tensor, requires_grad) if plain["parameter"] else tensor.requires_grad_(requires_grad)
            self._made[number] = made
        return self._made[number]

    def _load_array(self, plain: dict[str, Plain]) -> Any:
        return self.value(plain["value"]).numpy()

    def _load_number(self, plain: dict[str, Plain]) -> Any:
        return np.dtype(plain["dtype"]).type(plain["value"])

    def _load_dtype(self, plain: dict[str, Plain]) -> Any:
        found = getattr(torch, plain["name"], None)
        if not isinstance(found, torch.dtype):
            raise ValueError(f"torch has no dtype {plain['name']!r}.")
        return found

    def _load_device(self, plain: dict[str, Plain]) -> torch.device:
        return torch.device(plain["name"])

    def _load_partial(self, plain: dict[str, Plain]) -> Any:
        function, args, keywords = (self.value(part) for part in plain["items"])
        return functools.partial(function, *args, **keywords)

    def _load_class(self, plain: dict[str, Plain]) -> Any:
        return self._require(find_class(plain), "class", plain)

    def _class_of(self, node: dict[str, Plain]) -> Any:
        return self._load_class(node["class"])

    def _load_function(self, plain: dict[str, Plain]) -> Any:
        return self._require(find_function(plain), "function", plain)

    def _load_problem(self, plain: dict[str, Plain]) -> Any:
        raise ValueError(f"it could not be saved as plain data: {plain['problem']}")

    def _require(self, found: Any, kind: str, plain: dict[str, Plain]) -> Any:
        if found is None:
            name = plain["name"]
            raise ValueError(
                f"it needs the {kind} {name!r}, defined in {plain['module']}. "
                f"Pass it: custom_objects={{{name!r}: {name}}}, or register it with "
                "@torchfit.saving.register_serializable()."
            )
        return found


def _set_state(module: nn.Module, state: dict[str, Any]) -> None:
    """Set the attributes; torch's classes add what older versions did not have."""
    own: Callable[[nn.Module, dict[str, Any]], None] = type(module).__setstate__
    default: Callable[[nn.Module, dict[str, Any]], None] = nn.Module.__setstate__
    (own if own.__module__.partition(".")[0] == "torch" else default)(module, state)
    for name in (*module._modules, *module._parameters, *module._buffers):
        vars(module).pop(name, None)  # torch sets a missing `activation` to relu, even if it is a child
