"""Optimizers with Keras' formulas, arguments and defaults, and PyTorch's own behind the same face."""

from torchfit.optimizers import schedules as schedules
from torchfit.optimizers.adam import Adam as Adam
from torchfit.optimizers.adam import AdamW as AdamW
from torchfit.optimizers.base import Optimizer as Optimizer
from torchfit.optimizers.identifiers import as_optimizer as as_optimizer
from torchfit.optimizers.identifiers import deserialize as deserialize
from torchfit.optimizers.identifiers import get as get
from torchfit.optimizers.identifiers import serialize as serialize
from torchfit.optimizers.rmsprop import RMSprop as RMSprop
from torchfit.optimizers.sgd import SGD as SGD
from torchfit.optimizers.torch_optimizer import TorchOptimizer as TorchOptimizer

__all__ = [
    "Adam",
    "AdamW",
    "Optimizer",
    "RMSprop",
    "SGD",
    "TorchOptimizer",
    "as_optimizer",
    "deserialize",
    "get",
    "schedules",
    "serialize",
]
