"""The learning rate of the optimizer of a model."""

from typing import Any


def built_optimizer(model: Any) -> Any:
    """Return the optimizer of a model, built first if its learning rate is not known before."""
    optimizer = model.optimizer
    if optimizer.learning_rate is None and not optimizer.built:  # a torch.optim class
        optimizer.build(model.module.named_parameters())
    return optimizer


def learning_rate_of(model: Any) -> float:
    """Return the learning rate as a number."""
    return float(built_optimizer(model).learning_rate)
