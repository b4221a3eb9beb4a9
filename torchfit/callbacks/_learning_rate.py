"""The learning rates of the parameter groups of a model's optimizer."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from torchfit._utils.errors import describe


def built_optimizer(model: Any) -> Any:
    """Return the optimizer of a model, built first if its learning rate is not known before."""
    optimizer = model.optimizer
    if optimizer.learning_rate is None and not optimizer.built:  # a torch.optim class
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


def param_groups(model: Any) -> list[dict[str, Any]]:
    """Return the groups of the `torch.optim` optimizer of a model; none for an optimizer of torchfit."""
    groups = getattr(getattr(built_optimizer(model), "optimizer", None), "param_groups", [])
    return list(groups)


def learning_rates_of(model: Any) -> list[float]:
    """Return the learning rate of every parameter group; a single one for an optimizer of torchfit."""
    groups = param_groups(model)
    return [float(group["lr"]) for group in groups] or [float(built_optimizer(model).learning_rate)]


def learning_rate_of(model: Any) -> float:
    """Return the learning rate: that of the first parameter group whose rate is not 0."""
    first, *others = learning_rates_of(model)
    return float(model.optimizer.learning_rate) if first else next(filter(None, others), 0.0)


def set_learning_rates(model: Any, rates: Sequence[float]) -> None:
    """Set the learning rate of every parameter group."""
    groups = param_groups(model)
    if len(groups) < 2:
        model.optimizer.learning_rate = rates[0]
        return
    for group, rate in zip(groups, rates):
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)  # a capturable optimizer reads it inside its graph
        else:
            group["lr"] = rate
