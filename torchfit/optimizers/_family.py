"""The optimizers by name. `identifiers` fills it; those that hold another optimizer save and build it with this."""

from torchfit._support.registry import Family

FAMILY = Family("optimizer", "torchfit.optimizers", {})
