"""torchfit: Keras' compile, fit, evaluate and predict for any `torch.nn.Module`."""

from torchfit import callbacks, functional, losses, metrics, mixed_precision, models, optimizers, saving, utils
from torchfit._support.collector import Layer, add_loss, add_metric
from torchfit._version import __version__
from torchfit.model import Model

__all__ = [
    "Layer",
    "Model",
    "__version__",
    "add_loss",
    "add_metric",
    "callbacks",
    "functional",
    "losses",
    "metrics",
    "mixed_precision",
    "models",
    "optimizers",
    "saving",
    "utils",
]
