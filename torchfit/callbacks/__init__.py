"""Callbacks: objects whose hooks are called during training, evaluation and prediction."""

from torchfit.callbacks.backup_and_restore import BackupAndRestore
from torchfit.callbacks.base import Callback
from torchfit.callbacks.callback_list import CallbackList
from torchfit.callbacks.classification_report import ClassificationReport
from torchfit.callbacks.confusion_matrix import ConfusionMatrix
from torchfit.callbacks.csv_logger import CSVLogger
from torchfit.callbacks.early_stopping import EarlyStopping
from torchfit.callbacks.fine_tuning import FineTuning
from torchfit.callbacks.history import History
from torchfit.callbacks.lambda_callback import LambdaCallback
from torchfit.callbacks.learning_rate_monitor import LearningRateMonitor
from torchfit.callbacks.learning_rate_scheduler import LearningRateScheduler
from torchfit.callbacks.mlflow_logger import MLflowLogger
from torchfit.callbacks.model_checkpoint import ModelCheckpoint
from torchfit.callbacks.progress import ProgbarLogger
from torchfit.callbacks.reduce_lr_on_plateau import ReduceLROnPlateau
from torchfit.callbacks.remote_monitor import RemoteMonitor
from torchfit.callbacks.stochastic_weight_averaging import StochasticWeightAveraging
from torchfit.callbacks.swap_ema_weights import SwapEMAWeights
from torchfit.callbacks.tensorboard import TensorBoard
from torchfit.callbacks.terminate_on_nan import TerminateOnNaN
from torchfit.callbacks.timer import Timer
from torchfit.callbacks.torch_lr_scheduler import TorchLRScheduler
from torchfit.callbacks.wandb_logger import WandbLogger

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
