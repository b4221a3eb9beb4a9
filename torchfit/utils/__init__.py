"""What helps around training: data by batches."""

from torchfit._data.creators import DatasetCreator, InputContext
from torchfit._data.sequence import PyDataset, Sequence

__all__ = ["DatasetCreator", "InputContext", "PyDataset", "Sequence"]
