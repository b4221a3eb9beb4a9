"""Looks up losses by name, including short names, and converts them to configurations and back."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from torch import Tensor, nn

from torchfit import functional
from torchfit._types import Config
from torchfit._utils import tree
from torchfit._utils.errors import describe
from torchfit._utils.registry import Registry
from torchfit._utils.validation import takes_targets_and_predictions
from torchfit.losses import probabilistic, regression
from torchfit.losses.base import Loss
from torchfit.losses.functional_loss import LossFunctionWrapper, OverOutputs, function_name
from torchfit.losses.torch_losses import TORCH_NAMES, TorchLoss, is_torch_loss

mse = MSE = functional.mean_squared_error
mae = MAE = functional.mean_absolute_error
mape = MAPE = functional.mean_absolute_percentage_error
msle = MSLE = functional.mean_squared_logarithmic_error
bce = BCE = functional.binary_crossentropy
kld = KLD = functional.kl_divergence


_CLASS_OF_FUNCTION: dict[Callable[..., Tensor], type[Loss]] = {
    functional.mean_squared_error: regression.MeanSquaredError,
    functional.mean_absolute_error: regression.MeanAbsoluteError,
    functional.mean_absolute_percentage_error: regression.MeanAbsolutePercentageError,
    functional.mean_squared_logarithmic_error: regression.MeanSquaredLogarithmicError,
    functional.huber: regression.Huber,
    functional.log_cosh: regression.LogCosh,
    functional.cosine_similarity: regression.CosineSimilarity,
    functional.binary_crossentropy: probabilistic.BinaryCrossentropy,
    functional.categorical_crossentropy: probabilistic.CategoricalCrossentropy,
    functional.sparse_categorical_crossentropy: probabilistic.SparseCategoricalCrossentropy,
    functional.binary_focal_crossentropy: probabilistic.BinaryFocalCrossentropy,
    functional.categorical_focal_crossentropy: probabilistic.CategoricalFocalCrossentropy,
    functional.categorical_generalized_cross_entropy: probabilistic.CategoricalGeneralizedCrossEntropy,
    functional.kl_divergence: probabilistic.KLDivergence,
    functional.poisson: probabilistic.Poisson,
    functional.hinge: regression.Hinge,
    functional.squared_hinge: regression.SquaredHinge,
    functional.categorical_hinge: regression.CategoricalHinge,
    functional.dice: probabilistic.Dice,
    functional.tversky: probabilistic.Tversky,
    functional.circle: regression.Circle,
    functional.ctc: probabilistic.CTC,
}
"""Pairs of a function and the class that computes the same loss."""

_ALIASES = {
    "mse": functional.mean_squared_error,
    "mae": functional.mean_absolute_error,
    "mape": functional.mean_absolute_percentage_error,
    "msle": functional.mean_squared_logarithmic_error,
    "bce": functional.binary_crossentropy,
    "kld": functional.kl_divergence,
    "kullback_leibler_divergence": functional.kl_divergence,
    "huber_loss": functional.huber,
    "logcosh": functional.log_cosh,
    "ce": probabilistic.Crossentropy,
}

_OTHER_CLASSES = (Loss, LossFunctionWrapper, OverOutputs, TorchLoss, probabilistic.Crossentropy)

FAMILY = Registry(
    "loss",
    "torchfit.losses",
    {
        **TORCH_NAMES,
        **{function.__name__: function for function in _CLASS_OF_FUNCTION},
        **_ALIASES,
        **{loss.__name__: loss for loss in (*_OTHER_CLASSES, *_CLASS_OF_FUNCTION.values())},
    },
)


def get(identifier: object) -> Any:
    """Return the loss for a name, a config, a class, an object or a function; `None` stays `None`.

    The name of a function gives the function, and that of a class an instance; case is ignored. Unknown names raise a
    `ValueError` that suggests the nearest known ones.

    >>> get("mse").__name__, get("MeanSquaredError").name
    ('mean_squared_error', 'mean_squared_error')
    >>> get({"class_name": "Huber", "config": {"delta": 2.0}}).delta
    2.0
    """
    return FAMILY.get(identifier)


def serialize(loss: object) -> Config:
    """Return a loss or a loss function as plain data for `deserialize`.

    >>> serialize(regression.MeanSquaredError())["config"]
    {'name': 'mean_squared_error', 'reduction': 'sum_over_batch_size'}
    """
    return FAMILY.serialize(loss)


def deserialize(name: object, custom_objects: Mapping[str, object] | None = None) -> Any:
    """Return the loss that was passed to `serialize`, or the class or function of a name.

    `custom_objects` maps names to the user's own classes and functions; those registered with
    `torchfit.saving.register_serializable` are found without it. Unknown names raise `ValueError`.

    >>> deserialize(serialize(regression.Huber(delta=3.0))).delta
    3.0
    """
    return FAMILY.deserialize(name, custom_objects)


def resolve_loss(identifier: object) -> Any:
    """Return a `Loss` for anything that `compile(loss=)` accepts; `None` stays `None`.

    This may be a name, including names of torch's losses (`"crossentropy"` and `"ce"` select by shape), a config, a
    `Loss` or its class, any callable `(y_true, y_pred)`, a loss of `torch.nn` or `torch.nn.functional`, or any other
    module with `forward(predictions, targets)`. Anything else raises `ValueError`.

    >>> [resolve_loss(loss).name for loss in ("bce", nn.L1Loss(), lambda y_true, y_pred: y_pred - y_true)]
    ['binary_crossentropy', 'l1_loss', 'lambda']
    """
    if identifier is None or isinstance(identifier, Loss):
        return identifier
    found = get(identifier)
    if isinstance(found, Loss):
        return found
    if is_torch_loss(found):
        return TorchLoss(found)
    if found in _CLASS_OF_FUNCTION:
        return _CLASS_OF_FUNCTION[found](name=found.__name__)
    if hasattr(found, "update_state"):
        raise ValueError(
            f"`loss` must be a loss, or a function (y_true, y_pred), but it is {describe(found)}, a metric."
        )
    takes_targets_and_predictions("loss", found)
    return LossFunctionWrapper(found, name=function_name(found))


def loss_modules(loss: object) -> list[nn.Module]:
    """Return the modules that a loss is or contains: in attributes, collections, partial functions and methods.

    Parameters outside modules are returned in a module of their own.
    """
    found: dict[tuple[int, ...], nn.Module] = {}
    own: dict[str, nn.Parameter] = {}
    for name, value in _walk(loss):
        if isinstance(value, nn.Module):
            found.setdefault(_identity(value), value)
        elif isinstance(value, nn.Parameter):
            own[name] = value
    return [*found.values(), *([nn.ParameterDict(own)] if own else [])]


def hidden_modules(loss: object) -> list[tuple[str, nn.Module]]:
    """Return the modules that functions of a loss use as global or closure variables or defaults, with their names."""
    found: dict[str, object] = {}
    for _, value in _walk(loss):
        if inspect.isfunction(value):
            found.update(_variables_of(value))
    return [(name, value) for name, value in found.items() if isinstance(value, nn.Module)]


def _variables_of(function: Callable[..., object]) -> dict[str, object]:
    """Return the values of the global and closure variables that a function uses, and of its defaults."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}
    with suppress(ValueError):  # A closure variable has no value yet.
        used = inspect.getclosurevars(function)
        return {**used.globals, **used.nonlocals, **defaults}
    return defaults


def _walk(loss: object) -> Iterator[tuple[str, object]]:
    """Yield the parts of a loss, each once, down to modules and tensors."""
    stack: list[tuple[str, object]] = [("", loss)]
    seen: set[int] = set()
    while stack:
        name, value = stack.pop()
        if id(value) not in seen:
            seen.add(id(value))
            yield name, value
            stack += [(f"{name}_{key}" if name else str(key), part) for key, part in reversed(_parts_of(value))]


def _identity(module: nn.Module) -> tuple[int, ...]:
    """Return a key that is equal for copies of a module that share all tensors."""
    return tuple(map(id, (*module.parameters(), *module.buffers()))) or (id(module),)


def _parts_of(value: object) -> list[tuple[str | int, object]]:
    """Return the parts of a function, callable object or collection, with their names."""
    if isinstance(value, functools.partial):
        return [("func", value.func), ("args", value.args), ("keywords", value.keywords)]
    if inspect.ismethod(value):
        return [("self", value.__self__)]
    if isinstance(value, (type, Tensor, nn.Module)):
        return []
    return list(getattr(value, "__dict__", {}).items()) if callable(value) else tree.children(value)
