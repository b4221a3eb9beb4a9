"""Optimizers with Keras' formulas, arguments and defaults, and an adapter for those of torch.optim."""

from torchfit.optimizers import schedules as schedules
from torchfit.optimizers.adagrad import Adadelta as Adadelta
from torchfit.optimizers.adagrad import Adagrad as Adagrad
from torchfit.optimizers.adagrad import Ftrl as Ftrl
from torchfit.optimizers.adagrad import RMSprop as RMSprop
from torchfit.optimizers.adam import Adam as Adam
from torchfit.optimizers.adam import Adamax as Adamax
from torchfit.optimizers.adam import AdamW as AdamW
from torchfit.optimizers.adam import Nadam as Nadam
from torchfit.optimizers.base import Optimizer as Optimizer
from torchfit.optimizers.identifiers import deserialize as deserialize
from torchfit.optimizers.identifiers import get as get
from torchfit.optimizers.identifiers import serialize as serialize
from torchfit.optimizers.large_scale import Adafactor as Adafactor
from torchfit.optimizers.large_scale import Lamb as Lamb
from torchfit.optimizers.large_scale import ScheduleFreeAdamW as ScheduleFreeAdamW
from torchfit.optimizers.loss_scale_optimizer import LossScaleOptimizer as LossScaleOptimizer
from torchfit.optimizers.multi_optimizer import MultiOptimizer as MultiOptimizer
from torchfit.optimizers.optimizer_map import OptimizerMap as OptimizerMap
from torchfit.optimizers.sgd import SGD as SGD
from torchfit.optimizers.sgd import Lion as Lion
from torchfit.optimizers.sgd import Muon as Muon
from torchfit.optimizers.torch_optimizer import TorchOptimizer as TorchOptimizer

__all__ = [
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Ftrl",
    "Lamb",
    "Lion",
    "LossScaleOptimizer",
    "MultiOptimizer",
    "Muon",
    "Nadam",
    "Optimizer",
    "OptimizerMap",
    "RMSprop",
    "SGD",
    "ScheduleFreeAdamW",
    "TorchOptimizer",
    "deserialize",
    "get",
    "schedules",
    "serialize",
]
