"""Utilities: datasets, array helpers, seeding, model plots, freezing layers."""

from torchfit._data.adapters.dispatch import DatasetCreator, InputContext
from torchfit._data.adapters.sequence import PyDataset, Sequence
from torchfit._utils.console import (
    disable_interactive_logging,
    enable_interactive_logging,
    is_interactive_logging_enabled,
)
from torchfit._utils.modules import freeze, unfreeze
from torchfit.utils.arrays import normalize, pad_sequences, split_dataset, to_categorical
from torchfit.utils.datasets import image_dataset_from_directory, timeseries_dataset_from_array
from torchfit.utils.learning_rate_finder import LRFinderResult, lr_find
from torchfit.utils.model_plot import plot_model
from torchfit.utils.progbar import Progbar
from torchfit.utils.random_state import clear_session, set_random_seed
from torchfit.utils.worst_samples import WorstSamples, worst_samples

__all__ = [
    "DatasetCreator",
    "InputContext",
    "LRFinderResult",
    "Progbar",
    "PyDataset",
    "Sequence",
    "WorstSamples",
    "clear_session",
    "disable_interactive_logging",
    "enable_interactive_logging",
    "freeze",
    "image_dataset_from_directory",
    "is_interactive_logging_enabled",
    "lr_find",
    "normalize",
    "pad_sequences",
    "plot_model",
    "set_random_seed",
    "split_dataset",
    "timeseries_dataset_from_array",
    "to_categorical",
    "unfreeze",
    "worst_samples",
]
