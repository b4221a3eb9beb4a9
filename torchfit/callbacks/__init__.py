"""Callbacks, whose hooks are called during training, evaluation and prediction."""

from torchfit.callbacks.backup_and_restore import BackupAndRestore
from torchfit.callbacks.base import Callback, LambdaCallback
from torchfit.callbacks.callback_list import CallbackList
from torchfit.callbacks.classification import ClassificationReport, ConfusionMatrix
from torchfit.callbacks.history import History
from torchfit.callbacks.learning_rate import FineTuning, LearningRateMonitor, LearningRateScheduler, ReduceLROnPlateau
from torchfit.callbacks.loggers import CSVLogger, MLflowLogger, RemoteMonitor, WandbLogger
from torchfit.callbacks.model_checkpoint import ModelCheckpoint
from torchfit.callbacks.progress import ProgbarLogger
from torchfit.callbacks.stopping import EarlyStopping, TerminateOnNaN, Timer
from torchfit.callbacks.tensorboard import TensorBoard
from torchfit.callbacks.torch_lr_scheduler import TorchLRScheduler
from torchfit.callbacks.weight_averaging import StochasticWeightAveraging, SwapEMAWeights

__all__ = [
    "BackupAndRestore",
    "CSVLogger",
    "Callback",
    "CallbackList",
    "ClassificationReport",
    "ConfusionMatrix",
    "EarlyStopping",
    "FineTuning",
    "History",
    "LambdaCallback",
    "LearningRateMonitor",
    "LearningRateScheduler",
    "MLflowLogger",
    "ModelCheckpoint",
    "ProgbarLogger",
    "ReduceLROnPlateau",
    "RemoteMonitor",
    "StochasticWeightAveraging",
    "SwapEMAWeights",
    "TensorBoard",
    "TerminateOnNaN",
    "Timer",
    "TorchLRScheduler",
    "WandbLogger",
]
