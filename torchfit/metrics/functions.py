"""The functions that metrics consist of, by name, so that a metric of a function can be serialized."""

from torchfit import functional as F
from torchfit._utils.registry import Registry

_LOSSES_ONLY = {"categorical_generalized_cross_entropy", "circle", "ctc", "dice", "tversky"}

METRIC_FUNCTIONS = Registry(
    "metric function",
    "torchfit.metrics",
    {name: getattr(F, name) for name in F.__all__ if name not in _LOSSES_ONLY},
)

ELEMENTWISE = (
    F.binary_crossentropy,
    F.binary_focal_crossentropy,
    F.hinge,
    F.huber,
    F.log_cosh,
    F.mean_absolute_error,
    F.mean_absolute_percentage_error,
    F.mean_squared_error,
    F.mean_squared_logarithmic_error,
    F.poisson,
    F.squared_hinge,
)
"""The functions that average elements over the last dimension, so that a mask may leave out single elements."""
