"""Misspelt keyword arguments of public functions, told with the nearest ones that there are."""

import inspect
from collections.abc import Callable, Mapping
from typing import TypeVar

from torchfit._utils.names import did_you_mean

Function = TypeVar("Function", bound=Callable[..., object])

_ELSEWHERE = {
    "lr": "Pass it to the optimizer: optimizers.Adam(learning_rate=…).",
    "learning_rate": "Pass it to the optimizer: optimizers.Adam(learning_rate=…).",
    "optimizer": "Pass it to `compile`.",
    "loss": "Pass it to `compile`.",
    "metrics": "Pass it to `compile`.",
    "device": "Pass it to the model: Model(module, device=…).",
    "inputs": "A model wraps a torch.nn.Module, which computes the outputs: Model(module).",
    "outputs": "A model wraps a torch.nn.Module, which computes the outputs: Model(module).",
    "layers": "A model wraps a torch.nn.Module: Model(nn.Sequential(…)).",
    "num_epochs": "It is 'epochs' of `fit`.",
    "max_epochs": "It is 'epochs' of `fit`.",
    "val_data": "It is 'validation_data' of `fit`.",
    "criterion": "It is 'loss' of `compile`.",
}


def hide_unknown(function: Function) -> Function:
    """Hide the parameter that catches unknown arguments from `help`, completion and the reference."""
    signature = inspect.signature(function)
    shown = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    function.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]
    return function


def no_unknown(owner: str, function: Callable[..., object], unknown: Mapping[str, object]) -> None:
    """Raise a `TypeError` if there are unknown arguments, with the way out for the first of them.

    >>> no_unknown("fit", lambda x, epochs=1: None, {"epoch": 3})
    Traceback (most recent call last):
    TypeError: `fit` has no argument `epoch`. Did you mean 'epochs'?
    """
    for name in unknown:
        known = [known for known in inspect.signature(function).parameters if known != "self"]
        raise TypeError(f"`{owner}` has no argument `{name}`. {_ELSEWHERE.get(name) or did_you_mean(name, known)}")
