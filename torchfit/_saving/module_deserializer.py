"""Builds modules from the plain data of `ModuleSerializer`.

Classes of `torch.nn` and custom ones are built without their constructors, as copies and unpickled objects are: their
attributes, parameters, buffers and children are set. Custom classes with `get_config()`, and metrics, are built by
their constructors, with arguments from the file. Files are not trusted: how often modules contain each other is
limited, and so is the memory that is requested beyond the contents of the file.
"""

import functools
import math
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from torchfit import metrics
from torchfit._saving.module_serializer import HAS_HOOKS, find_class, find_function, is_torch_class
from torchfit._types import Array, StateDict
from torchfit._utils.compat import MODULE_ATTRIBUTES, ModuleTables
from torchfit._utils.errors import printable
from torchfit._utils.registry import find_custom

_FREE_BYTES = 1 << 28
_BYTES_PER_BYTE = 16  # initialization uses temporary tensors, and the file may be in half precision
_MAX_METRIC_INTEGER = 1 << 20  # number of thresholds, classes, …
_SIZED = ("empty", "zeros", "ones", "full", "rand", "randn", "randint", "eye")  # and `new_zeros` and so on
_MAX_REPEATS, _MAX_PATTERN = 2, 1000  # of regular expressions
_RANGES = ("arange", "range", "linspace", "logspace", "randperm")


class AllocationLimit(TorchFunctionMode):
    """Raises a `ValueError` when much more memory is allocated than the contents of a file justify.

    Args:
        content_bytes: The size of the tensors in the file.
    """

    def __init__(self, content_bytes: int) -> None:
        super().__init__()
        self._left = _FREE_BYTES + _BYTES_PER_BYTE * content_bytes

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Run a function of torch, and count the memory that it allocates."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name.removeprefix("new_") in _SIZED or name in _RANGES:
            self._spend(torch.float32.itemsize * _requested(name, args, kwargs))
            return func(*args, **kwargs)
        result = func(*args, **kwargs)
        if isinstance(result, Tensor):
            self._spend(_created(result, args))
        return result

    def _spend(self, nbytes: int) -> None:
        self._left -= nbytes
        if self._left < 0:
            raise ValueError("it asks for much more memory than its contents need")


def _requested(name: str, args: tuple[object, ...], kwargs: Mapping[str, object]) -> int:
    """Return how many elements a function will create, as far as its arguments determine that."""
    given = [*args, *kwargs.values()]
    numbers = [int(value) for value in given if isinstance(value, (int, float)) and math.isfinite(value)]
    if name in _RANGES:
        return max(map(abs, numbers), default=0)
    if name == "eye":
        return math.prod(numbers) ** (2 if len(numbers) == 1 else 1)
    sizes = [value for value in given if isinstance(value, (list, tuple))]
    return math.prod(sizes[0]) if sizes else math.prod(numbers)


def _created(result: Tensor, args: tuple[object, ...]) -> int:
    """Return the size of a result, or 0 if it shares memory with an argument."""
    if result.layout is not torch.strided or result.is_meta:
        return 0
    storage = result.untyped_storage()
    addresses = [
        arg.untyped_storage().data_ptr()
        for arg in args
        if isinstance(arg, Tensor) and arg.layout is torch.strided and not arg.is_meta
    ]
    return 0 if storage.data_ptr() in addresses else storage.nbytes()


def check_metric_configs(config: object) -> None:
    """Raise a `ValueError` if the configuration of a built-in metric contains an absurdly large number.

    Args:
        config: The result of `metrics.serialize`, or a nest of such results.
    """
    if isinstance(config, int) and config > _MAX_METRIC_INTEGER:
        raise ValueError(f"it has a metric with an argument of {config}, which is more than {_MAX_METRIC_INTEGER}")
    for part in () if _is_custom(config) else _parts(config):
        check_metric_configs(part)


def check_patterns(config: object) -> None:
    """Raise a `ValueError` if the configuration of an optimizer has regular expressions that may take forever.

    Args:
        config: The result of `optimizers.serialize`, including those of inner optimizers.
    """
    if isinstance(config, Mapping):
        for pattern in config.get("exclude_from_weight_decay", ()):
            _check_pattern(pattern)
    for part in _parts(config):
        check_patterns(part)


def _parts(config: object) -> Iterable[object]:
    """Return the parts of a list or mapping."""
    return config.values() if isinstance(config, Mapping) else config if isinstance(config, (list, tuple)) else ()


def _is_custom(config: object) -> bool:
    """Return whether a configuration is that of a class that the user registered."""
    names = [config.get("registered_name"), config.get("class_name")] if isinstance(config, Mapping) else []
    return any(find_custom(name) is not None for name in names if isinstance(name, str))


def _check_pattern(pattern: str) -> None:
    bare = re.sub(r"\\.", "", pattern, flags=re.DOTALL)
    repeats = len(re.findall(r"[*+?{]", bare))
    if repeats > _MAX_REPEATS or re.search(r"\)[*+?{]", bare) or len(pattern) > _MAX_PATTERN:
        raise ValueError(f"it has a regular expression that may take very long: {printable(pattern)!r}")


Plain = Any
Found = TypeVar("Found")
Node = dict[str, Plain]
Initialize = Callable[[nn.Module, Mapping[str, nn.Module | None]], None]
"""A function that is called with the outermost module and its children instead of `nn.Module.__init__`."""

_MADE_BY_TORCH = "torch.nn.utils."  # the classes of parametrized layers, which cannot be imported
_MAX_PATHS_PER_MODULE = 100
_MIN_PATHS = 10_000
_MAX_NAME = 500
_COLLECTIONS: dict[str, Callable[[Iterable[Any]], object]] = {
    "tuple": tuple,
    "size": torch.Size,
    "set": set,
    "frozenset": frozenset,
    "dict": dict,
    "ordered": OrderedDict,
}


@dataclass
class Problems:
    """Why modules cannot be built from a file, and what can be done about it.

    Attributes:
        reasons: The reason by class name.
        unknown_classes: The names of classes that the user has to pass.
        unsaved_classes: Those of the user's classes whose objects the file does not contain.
        code_classes: Those of modules that only code can build: with hooks, and of torch's classes.
    """

    reasons: dict[str, str] = field(default_factory=dict)
    unknown_classes: list[str] = field(default_factory=list)
    unsaved_classes: list[str] = field(default_factory=list)
    code_classes: list[str] = field(default_factory=list)

    def ways_out(self, path: str) -> str:
        """Return what to do about the problems in the file at a path."""
        module = f"uild the module yourself and pass it: load_model({path!r}, module=...)."
        if self.code_classes:
            return f"B{module}"
        if self.unsaved_classes:
            names = ", ".join(dict.fromkeys(self.unsaved_classes))
            return f"B{module} Or define get_config() in {names}, and save the model again."
        classes = ", ".join(f"{name!r}: {name}" for name in dict.fromkeys(self.unknown_classes))
        return (
            f"Pass the classes, load_model({path!r}, custom_objects={{{classes}}}), or register them with "
            f"@torchfit.saving.register_serializable(), or b{module}"
        )


class ModuleDeserializer:
    """Builds modules and values from the tables of nodes and tensors."""

    def __init__(self, nodes: list[Node], tensors: list[Tensor]) -> None:
        self._nodes = nodes
        self._tensors = tensors
        self._modules: dict[int, nn.Module] = {}
        self._finished: set[int] = set()
        self._loaded_tensors: dict[int, Tensor] = {}

    def knows_class_of(self, number: int) -> bool:
        """Return whether the class of a node is one of `torch.nn`, or was passed or registered."""
        node = self._node(number)
        return "metric" in node or find_class(node["class"]) is not None

    def problems(self, root: int) -> "Problems":
        """Return why a module, or modules in it, cannot be built."""
        found = Problems()
        stack, seen = [root], {root}
        while stack:
            number = stack.pop()
            node = self._node(number)
            name, origin = (printable(node["class"][key]) for key in ("name", "module"))
            inner = set(_references(node)) - seen
            if "problem" in node:
                reason = found.reasons[name] = printable(node["problem"], 500)
                is_code = reason.startswith(HAS_HOOKS) or origin.startswith("torch.")
                (found.code_classes if is_code else found.unsaved_classes).append(name)
            elif not self.knows_class_of(number):
                found.reasons[name] = f"its class, defined in {origin}, is not part of torch.nn"
                (found.code_classes if origin.startswith(_MADE_BY_TORCH) else found.unknown_classes).append(name)
            seen |= inner
            stack += inner
        return found

    def module(self, number: int, initialize: Initialize | None = None) -> nn.Module:
        """Return the module of a node, the same one on every call.

        Args:
            number: The number of the node.
            initialize: Called for the module instead of `nn.Module.__init__`, before its parts are set.

        Raises:
            ValueError: If the module could not be serialized, refers to unknown names, or needs too much memory.
        """
        if number not in self._finished:
            self._check_paths(number)
            with AllocationLimit(sum(tensor.nbytes for tensor in self._tensors)):
                self._build(number, initialize)
        return self._modules[number]

    def value(self, plain: Plain) -> Any:
        """Return the value that plain data describe.

        Raises:
            ValueError: If the value could not be serialized, or refers to an unknown name.
        """
        for number in _references(plain):
            self.module(number)
        return self._value(plain)

    # -- modules, those inside of others first --------------------------------------------------------------

    def _build(self, root: int, initialize: Initialize | None) -> None:
        """Build a module after everything it refers to, without recursion."""
        stack, started = [root], set(self._finished)
        while stack:
            number = stack[-1]
            if number in self._finished:
                stack.pop()
            elif number not in started:
                started.add(number)
                self._start(number)
                stack += [each for each in _references(self._nodes[number]) if each not in started]
            else:
                self._finish(number, initialize if number == root else None)
                self._finished.add(number)

    def _check_paths(self, root: int) -> None:
        """Raise if modules contain each other, or contain each other so often that listing them would take forever.

        If each module occurs twice in the next one, the innermost has 2 ** depth names.
        """
        paths: dict[int, int] = {}
        stack, open_numbers = [root], set[int]()
        limit = max(_MIN_PATHS, _MAX_PATHS_PER_MODULE * len(self._nodes))
        while stack:
            number = stack[-1]
            children = _children(self._node(number))
            if number in paths:
                stack.pop()
            elif number not in open_numbers:
                open_numbers.add(number)
                if open_numbers.intersection(children):
                    raise ValueError("it has a module that contains itself.")
                stack += [child for child in children if child not in paths]
            else:
                paths[number] = 1 + sum(paths[child] for child in children)
                if paths[number] > limit:
                    raise ValueError("its modules occur too often in each other.")
                open_numbers.discard(number)

    def _node(self, number: object) -> Node:
        if type(number) is not int or not 0 <= number < len(self._nodes):
            raise ValueError("it refers to a module that it does not hold.")
        return self._nodes[number]

    def _start(self, number: int) -> None:
        """Create the module of a node without its constructor, so that other nodes may refer to it."""
        node = self._node(number)
        if "problem" in node:
            name, reason = printable(node["class"]["name"]), printable(node["problem"], 500)
            raise ValueError(f"{name} could not be saved as plain data: {reason}")
        if "metric" not in node and "config" not in node:
            module = self._modules[number] = nn.Module.__new__(self._class_of(node))
            nn.Module.__init__(module)

    def _finish(self, number: int, initialize: Initialize | None) -> None:
        """Fill or construct the module of a node."""
        node = self._node(number)
        if "metric" in node:
            config = self._value(node["metric"])
            check_metric_configs(config)
            self._modules[number] = metrics.deserialize(config)
        elif "config" in node:
            self._modules[number] = self._construct(node)
        else:
            self._fill(self._modules[number], node, initialize)
        if node.get("evaluating"):
            self._modules[number].training = False

    def _construct(self, node: Node) -> nn.Module:
        kind, config = self._class_of(node), self._value(node["config"])
        if is_torch_class(kind) or not hasattr(kind, "get_config"):
            raise ValueError(
                f"{kind.__name__} has no get_config(), so a file cannot give arguments of its constructor."
            )
        made = kind.from_config(config) if hasattr(kind, "from_config") else kind(**config)
        if not isinstance(made, nn.Module):
            raise ValueError(f"{kind.__name__}.from_config must return a module.")
        return made

    def _fill(self, module: nn.Module, node: Node, initialize: Initialize | None) -> None:
        children = {_name(name): self._child(child) for name, child in node["children"].items()}
        if initialize is not None:
            initialize(module, children)
        tables = ModuleTables(module)
        tables.children.update(children)
        tables.parameters.update(self._named_tensors(node["parameters"]))
        tables.buffers.update(self._named_tensors(node["buffers"]))
        tables.non_persistent_buffers.update(map(str, node["unsaved"]))
        own = {str(name): value for name, value in node["attributes"].items() if name not in MODULE_ATTRIBUTES}
        _set_state(module, {**vars(module), **{name: self._value(value) for name, value in own.items()}})

    def _child(self, child: int | None) -> nn.Module | None:
        return None if child is None else self._load_module({"number": child})

    def _named_tensors(self, plain: Mapping[str, Plain]) -> dict[str, Tensor | None]:
        found = {_name(name): self._value(value) for name, value in plain.items()}
        if not all(value is None or isinstance(value, Tensor) for value in found.values()):
            raise ValueError("it has a parameter that is not a tensor.")
        return found

    # -- values ----------------------------------------------------------------------------------------------

    def _value(self, plain: Plain) -> Any:
        if isinstance(plain, list):
            return [self._value(part) for part in plain]
        if not isinstance(plain, dict):
            return plain
        kind = plain["#"]
        if kind in ("dict", "ordered"):
            return _COLLECTIONS[kind]((self._value(key), self._value(part)) for key, part in plain["items"])
        if kind in _COLLECTIONS:
            return _COLLECTIONS[kind](self._value(part) for part in plain["items"])
        load: Callable[[Node], object] | None = getattr(self, f"_load_{kind}", None)
        if load is None:
            raise ValueError(f"it holds something of the unknown kind {printable(kind)!r}.")
        return load(plain)

    def _load_module(self, plain: Node) -> nn.Module:
        if plain["number"] not in self._modules:
            raise ValueError("it has a module whose constructor needs that module itself.")
        return self._modules[plain["number"]]

    def _load_tensor(self, plain: Node) -> Tensor:
        number = plain["number"]
        if type(number) is not int or not 0 <= number < len(self._tensors):
            raise ValueError("it refers to a tensor that it does not hold.")
        if number not in self._loaded_tensors:
            tensor = self._tensors[number]
            requires_grad = bool(plain["requires_grad"])
            made = nn.Parameter(tensor, requires_grad) if plain["parameter"] else tensor.requires_grad_(requires_grad)
            self._loaded_tensors[number] = made
        return self._loaded_tensors[number]

    def _load_array(self, plain: Node) -> Array:
        tensor: Tensor = self._value(plain["value"])
        return tensor.detach().numpy()

    def _load_number(self, plain: Node) -> object:
        dtype = np.dtype(plain["dtype"])
        if dtype.kind not in "biuf":
            raise ValueError("it has an invalid NumPy number.")
        return dtype.type(plain["value"])

    def _load_dtype(self, plain: Node) -> torch.dtype:
        found = getattr(torch, plain["name"], None)
        if not isinstance(found, torch.dtype):
            raise ValueError(f"torch has no dtype {printable(plain['name'])!r}.")
        return found

    def _load_device(self, plain: Node) -> torch.device:
        return torch.device(plain["name"])

    def _load_partial(self, plain: Node) -> Callable[..., object]:
        function, args, keywords = (self._value(part) for part in plain["items"])
        return functools.partial(function, *args, **keywords)

    def _load_class(self, plain: Node) -> type:
        return self._require(find_class(plain), "class", plain)

    def _class_of(self, node: Node) -> type[nn.Module]:
        kind = self._load_class(node["class"])
        if not issubclass(kind, nn.Module):
            raise ValueError(f"{kind.__name__} is no torch.nn.Module.")
        return kind

    def _load_function(self, plain: Node) -> Callable[..., object]:
        return self._require(find_function(plain), "function", plain)

    def _load_problem(self, plain: Node) -> NoReturn:
        raise ValueError(f"it could not be saved as plain data: {printable(plain['problem'], 500)}")

    def _require(self, found: Found | None, kind: str, plain: Node) -> Found:
        if found is None:
            name = printable(plain["name"])
            raise ValueError(
                f"it needs the {kind} {name!r}, defined in {printable(plain['module'])}. "
                f"Pass it: custom_objects={{{name!r}: {name}}}, or register it with "
                "@torchfit.saving.register_serializable()."
            )
        return found


def _name(name: object) -> str:
    """Check the name of a child or tensor, and return it."""
    if not isinstance(name, str) or len(name) > _MAX_NAME:
        raise ValueError("it has a name that is not a string, or is very long.")
    return name


def _children(node: Node) -> list[int]:
    """Return the numbers of the modules that a module contains, with repetitions."""
    if "children" in node:
        return [child for child in node["children"].values() if child is not None]
    return list(_references(node.get("config")))


def _references(plain: Plain) -> Iterator[int]:
    """Yield the numbers of the modules that a node or a value refers to."""
    stack = [plain]
    while stack:
        part = stack.pop()
        if isinstance(part, list):
            stack += part
        elif isinstance(part, dict):
            if part.get("#") == "module":
                yield part["number"]
            elif "#" not in part and "children" in part:
                yield from (child for child in part["children"].values() if child is not None)
            stack += part.values()


def _set_state(module: nn.Module, state: StateDict) -> None:
    """Set the attributes; torch's classes add those that older versions did not have."""
    own: Callable[[nn.Module, StateDict], None] = type(module).__setstate__
    default: Callable[[nn.Module, StateDict], None] = nn.Module.__setstate__
    tables = ModuleTables(module)
    layers = state.get("num_layers", 0)
    if isinstance(module, nn.RNNBase) and not (isinstance(layers, int) and layers <= len(tables.parameters)):
        raise ValueError("it has a recurrent layer without the parameters of its layers.")
    (own if own.__module__.partition(".")[0] == "torch" else default)(module, state)
    for name in (*tables.children, *tables.parameters, *tables.buffers):
        vars(module).pop(name, None)  # torch sets a missing `activation` to relu, even if it is a child
