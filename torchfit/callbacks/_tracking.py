"""What the callbacks have in common that log to trackers of experiments."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any


def imported(package: str, owner: str) -> Any:
    """Return a package that need not be installed.

    Raises:
        ImportError: With the line to type.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise ImportError(f'{owner} needs the package {package}. Type: pip install "torchfit[tracking]"') from error


def setup(model: Any, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a training is set up: epochs, steps, the optimizer with its arguments, the size of the model."""
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


def values(model: Any, logs: Mapping[str, Any] | None) -> dict[str, float]:
    """Return the numbers among the logs of an epoch, and the learning rate."""
    numbers = {name: float(value) for name, value in (logs or {}).items() if isinstance(value, (int, float))}
    rate = getattr(getattr(model, "optimizer", None), "learning_rate", None)
    return numbers if rate is None else {"learning_rate": float(rate), **numbers}
