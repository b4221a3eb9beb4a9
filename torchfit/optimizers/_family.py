"""The optimizers by name. `identifiers` fills it; those that hold another optimizer save and build it with this."""

from torchfit._utils.registry import Registry

FAMILY = Registry("optimizer", "torchfit.optimizers", {})
