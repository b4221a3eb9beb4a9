"""The learning rate of a model's optimizer."""

from typing import Any


def optimizer_of(model: Any) -> Any:
    """Return the model's optimizer, bound to its parameters if its learning rate is not known before."""
    optimizer = model.optimizer
    if optimizer.learning_rate is None and not optimizer.built:  # a torch.optim class, not made yet
        optimizer.build(model.module.named_parameters())
    return optimizer


def rate_of(model: Any) -> float:
    """Return the learning rate as a number."""
    return float(optimizer_of(model).learning_rate)
