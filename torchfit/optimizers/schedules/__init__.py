"""Learning-rate schedules: functions from the step to a learning rate."""

from torchfit.optimizers.schedules.base import LearningRateSchedule as LearningRateSchedule
from torchfit.optimizers.schedules.decay import CosineDecay as CosineDecay
from torchfit.optimizers.schedules.decay import CosineDecayRestarts as CosineDecayRestarts
from torchfit.optimizers.schedules.decay import ExponentialDecay as ExponentialDecay
from torchfit.optimizers.schedules.decay import InverseTimeDecay as InverseTimeDecay
from torchfit.optimizers.schedules.decay import PiecewiseConstantDecay as PiecewiseConstantDecay
from torchfit.optimizers.schedules.decay import PolynomialDecay as PolynomialDecay
from torchfit.optimizers.schedules.decay import deserialize as deserialize
from torchfit.optimizers.schedules.decay import serialize as serialize

__all__ = [
    "LearningRateSchedule",
    "CosineDecay",
    "CosineDecayRestarts",
    "ExponentialDecay",
    "InverseTimeDecay",
    "PiecewiseConstantDecay",
    "PolynomialDecay",
    "deserialize",
    "serialize",
]
