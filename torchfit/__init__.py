"""torchfit: Keras' compile, fit, evaluate and predict for any `torch.nn.Module`."""

from torchfit import callbacks, functional, losses, metrics, mixed_precision, models, optimizers, saving, utils
from torchfit._version import __version__
from torchfit.model import Model

__all__ = [
    "Model",
    "__version__",
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
