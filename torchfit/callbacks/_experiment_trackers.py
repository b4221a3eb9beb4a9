"""Shared parts of the callbacks that log to experiment trackers."""

from importlib import import_module
from typing import Any

from torchfit._types import Params, Results, StateDict


def require_package(package: str, owner: str) -> Any:
    """Return an optional package.

    Raises:
        ImportError: with the command that installs it.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise ImportError(f"{owner} needs the package {package}. Type: pip install {package}") from error


def run_config(model: object, params: Params) -> StateDict:
    """Return how a run is set up: epochs, steps, the optimizer, its learning rate and the number of parameters."""
    found = {name: params[name] for name in ("epochs", "steps") if params.get(name) is not None}
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None:
        found["optimizer"] = str(optimizer.name)
    rate = getattr(optimizer, "learning_rate", None)
    if rate is not None:
        found["learning_rate"] = float(rate)
    module = getattr(model, "module", None)
    if module is not None:
        found["parameters"] = sum(parameter.numel() for parameter in module.parameters())
    return found


def numeric_logs(model: object, logs: Results | None) -> dict[str, float]:
    """Return the numbers in the logs of an epoch, and the learning rate."""
    numbers = {name: float(value) for name, value in (logs or {}).items() if isinstance(value, (int, float))}
    rate = getattr(getattr(model, "optimizer", None), "learning_rate", None)
    return numbers if rate is None else {"learning_rate": float(rate), **numbers}
