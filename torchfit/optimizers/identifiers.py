"""Looks up optimizers by name, converts them to plain data and back, and resolves the argument of `compile`."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, TypeAlias, TypeGuard

import torch

from torchfit._types import Config
from torchfit._utils.errors import describe
from torchfit.optimizers._binding import overridden_method
from torchfit.optimizers.adagrad import Adadelta, Adagrad, Ftrl, RMSprop
from torchfit.optimizers.adam import Adam, Adamax, AdamW, Nadam
from torchfit.optimizers.base import REGISTRY, Optimizer
from torchfit.optimizers.large_scale import Adafactor, Lamb, ScheduleFreeAdamW
from torchfit.optimizers.loss_scale_optimizer import LossScaleOptimizer
from torchfit.optimizers.multi_optimizer import MultiOptimizer
from torchfit.optimizers.optimizer_map import OptimizerMap
from torchfit.optimizers.sgd import SGD, Lion, Muon
from torchfit.optimizers.torch_optimizer import TorchOptimizer

AnyOptimizer: TypeAlias = "Optimizer | TorchOptimizer"

_CLASSES = (
    SGD,
    RMSprop,
    Adam,
    AdamW,
    Adadelta,
    Adafactor,
    Adagrad,
    Adamax,
    Ftrl,
    Lamb,
    Lion,
    LossScaleOptimizer,
    MultiOptimizer,
    Muon,
    Nadam,
    ScheduleFreeAdamW,
    TorchOptimizer,
)
_TORCH_CLASSES = (torch.optim.ASGD, torch.optim.LBFGS, torch.optim.RAdam, torch.optim.Rprop, torch.optim.SparseAdam)
REGISTRY.entries.update({cls.__name__: cls for cls in (*_TORCH_CLASSES, *_CLASSES)})


def serialize(optimizer: AnyOptimizer) -> Config:
    """Return an optimizer's class and arguments as plain data.

    >>> serialize(SGD(0.1))["class_name"]
    'SGD'
    """
    return REGISTRY.serialize(optimizer)


def deserialize(config: object, custom_objects: Mapping[str, object] | None = None) -> AnyOptimizer:
    """Build the optimizer that `serialize` described.

    Args:
        config: What `serialize` returned, by torchfit or by Keras.
        custom_objects: Your own optimizer classes and functions, by name.

    Raises:
        ValueError: No optimizer has this name.

    >>> deserialize(serialize(SGD(0.1))).learning_rate
    0.1
    """
    made: AnyOptimizer = REGISTRY.deserialize(config, custom_objects)
    return made


def get(identifier: object) -> Any:
    """Return the optimizer that a name, a config, an optimizer or a class stands for.

    Args:
        identifier: A name without regard to case (those that only torch has make one of its optimizers), what
            `serialize` returned, an optimizer (returned as it is), or a class. `None` gives `None`.

    Raises:
        ValueError: The identifier stands for no optimizer.

    >>> get("adam").learning_rate
    0.001
    """
    if isinstance(identifier, str):
        identifier = REGISTRY.lookup(identifier)
    if isinstance(identifier, torch.optim.Optimizer) or _is_torch_class(identifier):
        return TorchOptimizer(identifier)
    if isinstance(identifier, type) and identifier in (LossScaleOptimizer, MultiOptimizer, TorchOptimizer):
        raise ValueError(f"{identifier.__name__} needs arguments, the optimizers in it: {identifier.__name__}(…).")
    if isinstance(identifier, OptimizerMap):
        return MultiOptimizer(identifier)
    found = identifier if isinstance(identifier, (Optimizer, TorchOptimizer)) else REGISTRY.get(identifier)
    if found is not None and not isinstance(found, (Optimizer, TorchOptimizer)):
        raise ValueError(f"Could not interpret the optimizer identifier {describe(identifier)}. {_WANTED}")
    return found


def resolve_optimizer(identifier: object, current: AnyOptimizer | None = None) -> AnyOptimizer:
    """Return an optimizer for everything that `compile(optimizer=…)` takes.

    Args:
        identifier: As for `get`, and beyond that a `torch.optim` instance or class, a callable that makes a
            `torch.optim.Optimizer` from parameters, such as a `functools.partial`, or a `functools.partial` of a class
            of torchfit.
        current: The optimizer that was compiled before. It stays if it is the one around this `torch.optim` instance.

    Raises:
        ValueError: The identifier stands for no optimizer, or for one that overrides methods that are never called.

    >>> resolve_optimizer(torch.optim.SGD).name
    'sgd'
    """
    if isinstance(current, TorchOptimizer) and current.optimizer is identifier is not None:
        return current
    if isinstance(identifier, functools.partial) and _is_own_class(identifier.func):
        identifier = identifier()
    known = isinstance(identifier, (str, Mapping, type, Optimizer, OptimizerMap, TorchOptimizer, torch.optim.Optimizer))
    if not known and callable(identifier):
        return TorchOptimizer(identifier)
    found = get(identifier) if known else None
    if found is None:
        raise ValueError(f"Could not interpret the optimizer identifier {describe(identifier)}. {_WANTED}")
    _require_called_methods(found)
    return found  # type: ignore[no-any-return]


def _require_called_methods(optimizer: AnyOptimizer) -> None:
    """Raise if a subclass defines a method that changes the updates elsewhere, and is never called here."""
    instead = "update_rule(self, parameters, gradients, slots, learning_rate, step)"
    name = "update_step" if hasattr(optimizer, "update_step") else None
    if isinstance(optimizer, TorchOptimizer):
        name, instead = overridden_method(optimizer, "apply", "apply_gradients"), "step(self, num_samples, closure)"
    if name is not None:
        raise ValueError(
            f"{type(optimizer).__name__} defines `{name}`, which is not called in training. Define `{instead}` instead."
        )


def with_loss_scaling(optimizer: AnyOptimizer) -> AnyOptimizer:
    """Return an optimizer that scales the loss, which the small gradients of float16 need; one that does stays.

    Raises:
        ValueError: It is one of torch's, whose updates cannot be skipped on the device.
    """
    if isinstance(optimizer, TorchOptimizer):
        raise ValueError(
            f"float16 needs a scaled loss, which works with torchfit's optimizers only, but `optimizer` is "
            f"{describe(optimizer.optimizer)}. Choose one by name, or the policy 'mixed_bfloat16'."
        )
    return optimizer if isinstance(optimizer, LossScaleOptimizer) else LossScaleOptimizer(optimizer)


_WANTED = (
    "Pass a name such as 'adam', an optimizer of torchfit.optimizers, a torch.optim optimizer or class, or a callable "
    "that makes a torch.optim optimizer from parameters."
)


def _is_torch_class(identifier: object) -> TypeGuard[type[torch.optim.Optimizer]]:
    return isinstance(identifier, type) and issubclass(identifier, torch.optim.Optimizer)


def _is_own_class(identifier: object) -> bool:
    return isinstance(identifier, type) and issubclass(identifier, (Optimizer, TorchOptimizer))
