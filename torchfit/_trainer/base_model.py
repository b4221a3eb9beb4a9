"""`BaseModel`, a wrapper around a module whose `state_dict` has the keys of the wrapped module."""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn

from torchfit._execution.precision import resolve_device
from torchfit._trainer.hints import call_super_first, is_initialized
from torchfit._trainer.predictions import numpy_compatible
from torchfit._types import Array, Nested, Results, TensorLike
from torchfit._utils.compat import MODULE_ATTRIBUTES
from torchfit._utils.errors import describe, traceback_filter
from torchfit._utils.modules import (
    ModuleWrapper,
    class_name,
    copy_scripts,
    deep_recursion,
    has_lazy_weights,
    named_weights,
    set_trainable,
    weight_tensors,
)
from torchfit._utils.names import snake_case
from torchfit._utils.tree import Batch
from torchfit._utils.validation import boolean

if TYPE_CHECKING:
    from torchfit.metrics.base import Metric


class BaseModel(ModuleWrapper):
    """Wraps a module, or is itself the module if a subclass defines `forward`.

    Args:
        module: The module to wrap, which is not changed; `None` in subclasses that define `forward`.
        name: The name of the model; by default the class name in snake case.

    Raises:
        TypeError: If `module` is not a module, its `__init__` has not called that of `nn.Module`, or a subclass that
            defines `forward` wraps one.

    This class declares everything that the trainer uses of a model.
    """

    optimizer: Any
    history: Any
    preflight: bool = True
    stop_training: bool = False
    stop_evaluating: bool = False
    stop_predicting: bool = False

    def __init__(self, module: nn.Module | None = None, name: str | None = None) -> None:
        super().__init__()
        if module is not None and not isinstance(module, nn.Module):
            raise TypeError(f"`module` must be a torch.nn.Module, but it is {describe(module)}.{_module_hint(module)}")
        if module is not None and not is_initialized(module):
            raise TypeError(call_super_first(module))
        if module is not None and _defines_forward(self):
            raise TypeError(_no_forward_around_a_module(self))
        if module is not None:
            self._modules["module"] = module
        if name is not None and not isinstance(name, str):
            raise TypeError(f"`name` must be a string, but it is {describe(name)}.")
        self.name = name or snake_case(class_name(module or self))

    def __deepcopy__(self, memo: dict[int, object]) -> Any:
        """Return a copy. Unlike plain `copy.deepcopy`, this works for TorchScript and modules of any nesting depth."""
        reduced: Any = self.__reduce_ex__(4)
        build, args, state, *_ = reduced
        with deep_recursion(self):
            made = memo[id(self)] = build(*args)
            for part in (self, self.loss_modules):
                copy_scripts(part, memo)
            made.__setstate__(copy.deepcopy(state, memo))
        return made

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the wrapped module; subclasses define their own."""
        if self.module is self:
            raise NotImplementedError(f"{type(self).__name__} wraps no module: define its `forward`.")
        return self.module(*args, **kwargs)

    @property
    def trainable(self) -> bool:
        """Whether any parameter is trained. Setting it freezes or unfreezes all parameters, like `utils.freeze(model)`.

        To freeze parts of a model, use `utils.freeze(model, name)`.
        """
        return any(parameter.requires_grad for parameter in self.module.parameters())

    @trainable.setter
    def trainable(self, value: bool) -> None:
        set_trainable(self, (), trained=boolean("trainable", value))

    # -- the steps and their parts, defined by `TrainableModule` -------------------------------------------

    @property
    def metrics(self) -> "list[Metric]":
        """All metrics, in the order of the logs."""
        raise NotImplementedError

    @property
    def loss_modules(self) -> nn.ModuleDict:
        """The losses that are or contain modules."""
        raise NotImplementedError

    def build_optimizer(self) -> None:
        """Bind the optimizer to the parameters of the module."""
        raise NotImplementedError

    def train_step(self, batch: Batch) -> Results:
        """Train on one batch."""
        raise NotImplementedError

    def test_step(self, batch: Batch) -> Results:
        """Evaluate one batch."""
        raise NotImplementedError

    def predict_step(self, batch: Batch) -> Nested:
        """Return the outputs for one batch."""
        raise NotImplementedError

    def compute_loss(
        self,
        x: Nested = None,
        y: Nested = None,
        y_pred: Nested = None,
        sample_weight: Nested = None,
        training: bool = True,
    ) -> Tensor:
        """Return the loss to minimize, a scalar."""
        raise NotImplementedError

    def compute_metrics(self, x: Nested, y: Nested, y_pred: Nested, sample_weight: Nested = None) -> Results:
        """Update the metrics with one batch and return all results."""
        raise NotImplementedError

    def get_metrics_result(self) -> Results:
        """Return the results by name."""
        raise NotImplementedError

    def reset_metrics(self) -> None:
        """Reset the state of every metric."""
        raise NotImplementedError

    # -- weights, under the keys of the module itself ------------------------------------------------------

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the state of the module, under its own keys and without metrics in attributes of the model."""
        if self.module is not self:
            return self.module.state_dict(*args, **kwargs)
        state = super().state_dict(*args, **kwargs)
        for key in _metric_keys(self, state, kwargs.get("prefix", "")):
            del state[key]
        return state

    def load_state_dict(self, state_dict: Mapping[str, object], *args: Any, **kwargs: Any) -> Any:
        """Load a state of the module, under its own keys; metrics in attributes of the model keep their state."""
        if self.module is not self:
            return self.module.load_state_dict(state_dict, *args, **kwargs)
        own = super().state_dict()
        missing = {key: own[key] for key in _metric_keys(self, own) if key not in state_dict}
        return super().load_state_dict({**state_dict, **missing} if missing else state_dict, *args, **kwargs)

    @property
    def weights(self) -> list[Tensor]:
        """All parameters and persistent buffers, in the order of `state_dict`."""
        return list(named_weights(self).values())

    @property
    def trainable_weights(self) -> list[Tensor]:
        """The parameters that are trained."""
        return [parameter for parameter in self.module.parameters() if parameter.requires_grad]

    @property
    def non_trainable_weights(self) -> list[Tensor]:
        """Frozen parameters and buffers."""
        trained = {id(parameter) for parameter in self.trainable_weights}
        return [tensor for tensor in self.weights if id(tensor) not in trained]

    variables = weights
    trainable_variables = trainable_weights
    non_trainable_variables = non_trainable_weights

    def get_weights(self) -> list[Array]:
        """Return copies of all weights as NumPy arrays, in the order of `state_dict`."""
        return [numpy_compatible(tensor).to("cpu", copy=True).numpy() for tensor in self.weights]

    def set_weights(self, weights: Sequence[TensorLike]) -> None:
        """Copy arrays into the weights, in the order of `get_weights`.

        Raises:
            ValueError: If their number or a shape differs.
        """
        state = named_weights(self)
        if len(weights) != len(state):
            raise ValueError(
                f"`weights` must have {len(state)} arrays, one for each of {list(state)}, not {len(weights)}."
            )
        arrays = [torch.as_tensor(array) for array in weights]
        for (name, tensor), array in zip(state.items(), arrays):
            if tensor.shape != array.shape:
                raise ValueError(
                    f"`weights` has {describe(array)} for `{name}`, whose shape is {tuple(tensor.shape)}. "
                    "Pass what `get_weights` of the same architecture returned."
                )
        with torch.no_grad():
            for tensor, array in zip(state.values(), arrays):
                tensor.copy_(array)

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Move the module, as `nn.Module.to` does.

        Raises:
            ValueError: If the machine has no such device.
        """
        try:
            return super().to(*args, **kwargs)
        except (RuntimeError, AssertionError):
            with traceback_filter:
                if isinstance(device := kwargs.get("device", args[0] if args else None), (str, torch.device)):
                    resolve_device(device, self)
                raise

    def cuda(self, device: int | torch.device | None = None) -> Any:
        """Move the module to a CUDA device, as `to("cuda")` does."""
        return self.to(torch.device("cuda", device) if isinstance(device, int) else device or "cuda")

    def count_params(self) -> int:
        """Return the number of scalars in the weights.

        Raises:
            ValueError: If a lazy layer has not seen data yet.
        """
        if has_lazy_weights(self.module):
            raise ValueError("The module has lazy layers that saw no data yet: call the model on a batch first.")
        return sum(tensor.numel() for tensor in weight_tensors(self.module))


def _module_hint(given: object) -> str:
    """Return a hint for a class or a list of modules passed instead of a module."""
    if isinstance(given, type):
        return f" Write {given.__name__}(…)."
    if isinstance(given, (list, tuple)) and all(isinstance(part, nn.Module) for part in given):
        return " Write nn.Sequential(*layers)."
    return " Build networks from PyTorch's modules."


_SET_BY_MODEL = frozenset({"dtype_policy", "history", "loss", "name", "optimizer", "run_eagerly"})
"""The attributes of a model that its class does not have."""


def _defines_forward(model: BaseModel) -> bool:
    return type(model).forward is not _built_in_base(type(model).__mro__).forward


def _no_forward_around_a_module(model: BaseModel) -> str:
    kind = type(model).__name__
    return (
        f"{kind} defines `forward` and wraps a module, but the steps of a model that wraps a module call that module. "
        f"In `{kind}.__init__`, call `super().__init__()` without it and keep the module in an attribute of another "
        "name: `self.net = module`."
    )


def check_name(model: BaseModel, name: str) -> None:
    """Raise if a part of a model would have the name of one of the model's own attributes.

    Such a part would be hidden by the attribute, or replaced by it. A model that wraps a module may wrap another one.
    """
    if name == "module":
        if _defines_forward(model):
            raise AttributeError(
                f"`module` is the name of a module that a model wraps, and {type(model).__name__} wraps none, because "
                "it defines `forward`. Choose another name, such as `self.net`."
            )
    elif name in _SET_BY_MODEL or hasattr(_built_in_base(type(model).__mro__), name):
        raise AttributeError(
            f"`{name}` is the name of an attribute that every Model has, so no layer, loss, metric or parameter can "
            f"have it. Choose another name, such as `self.own_{name}`."
        )


def _metric_keys(model: BaseModel, state: Iterable[str], prefix: str = "") -> list[str]:
    """Return the keys of a state that belong to metrics in attributes of the model."""
    names = tuple(f"{prefix}{name}." for name, part in model.named_modules() if name and is_metric(part))
    return [key for key in state if key.startswith(names)] if names else []


def overridden_method(model: BaseModel, *names: str) -> str | None:
    """Return a text that names the methods overridden by a subclass or the instance, or `None` if there are none."""
    kind, own = type(model), vars(model)
    built_in = _built_in_base(kind.__mro__)
    for name in names:
        if name in own or getattr(kind, name) is not getattr(built_in, name):
            return f"`{name}` is overridden"
    return None


@lru_cache(maxsize=64)
def _built_in_base(classes: tuple[type, ...]) -> type[BaseModel]:
    return next(each for each in classes if issubclass(each, BaseModel) and each.__module__.startswith("torchfit."))


def is_metric(value: object) -> "TypeGuard[Metric]":
    """Return whether a value has the methods of a torchfit metric."""
    kind = type(value)
    return isinstance(value, nn.Module) and hasattr(kind, "update_state") and hasattr(kind, "reset_state")


def iter_attribute_metrics(model: nn.Module) -> "Iterator[Metric]":
    """Yield the metrics in attributes of a model and its submodules, including lists and dictionaries, each once."""
    seen: set[int] = set()
    for part in _candidates(model):
        if is_metric(part) and id(part) not in seen:
            seen.add(id(part))
            yield part


def _candidates(module: nn.Module) -> "Iterator[Metric]":
    if is_metric(module):
        yield module
        return
    for child in module.children():
        yield from _candidates(child)
    for name, value in list(vars(module).items()):  # Another thread may add an attribute.
        if name not in MODULE_ATTRIBUTES:
            yield from filter(is_metric, items_of(value))


def items_of(value: object) -> Iterable[object]:
    """Return the items of a list, tuple or dictionary, and none of anything else."""
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, (list, tuple)) else ()
