"""The learning rates of the optimizer of a model, of which there are several with parameter groups."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from torchfit._utils.errors import describe


def built_optimizer(model: Any) -> Any:
    """Return the optimizer of a model, built first if its learning rate is not known before."""
    optimizer = model.optimizer
    if optimizer.learning_rate is None and not optimizer.built:  # a torch.optim class
        model.build_optimizer()
        if not optimizer.built:  # a `train_step` of the user's has not used it yet
            optimizer.build(model.module.named_parameters())
    return optimizer


def require_settable_rate(owner: str, model: Any) -> None:
    """Check that the learning rate of the optimizer is a number, which a callback can change.

    Raises:
        TypeError: if a schedule sets it.
    """
    rate = getattr(model.optimizer, "learning_rate_or_schedule", None)
    if callable(rate):
        raise TypeError(
            f"{owner}: the learning rate of the optimizer is set by a schedule, {describe(rate)}, and cannot be "
            "changed by a callback. Create the optimizer with a number as `learning_rate`, or leave the callback out."
        )


def learning_rates_of(model: object) -> list[float]:
    """Return the learning rate of every parameter group, or of every one of several optimizers."""
    return [float(part["lr"] if isinstance(part, dict) else part.learning_rate) for part in _parts(model)]


def learning_rate_of(model: Any) -> float:
    """Return the learning rate: that of the first part whose rate is not 0."""
    first, *others = learning_rates_of(model)
    return float(model.optimizer.learning_rate) if first else next(filter(None, others), 0.0)


def set_learning_rates(model: Any, rates: Sequence[float]) -> None:
    """Set the learning rate of every part that has none of its own schedule."""
    parts = _parts(model)
    if len(parts) == 1:
        model.optimizer.learning_rate = rates[0]
        return
    for part, rate in zip(parts, rates):
        if not isinstance(part, dict):
            if not callable(getattr(part, "learning_rate_or_schedule", None)):
                part.learning_rate = rate
        elif isinstance(part["lr"], Tensor):
            part["lr"].fill_(rate)  # a capturable optimizer reads it inside its graph
        else:
            part["lr"] = rate


def learning_rate_names(model: object) -> list[str]:
    """Return the names of the learning rates of the parts in the logs."""
    parts = enumerate(_parts(model))
    names = [str(part.get("name", number) if isinstance(part, dict) else number) for number, part in parts]
    return [f"learning_rate_{name if names.count(name) == 1 else number}" for number, name in enumerate(names)]


def _parts(model: object) -> list[Any]:
    """Return what holds a rate: groups of a `torch.optim` optimizer, several optimizers of torchfit, or one."""
    optimizer = built_optimizer(model)
    groups = getattr(getattr(optimizer, "optimizer", None), "param_groups", None)
    return list(groups or getattr(optimizer, "optimizers", None) or [optimizer])
