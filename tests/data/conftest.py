"""What the tests of data share: conversions for the CPU, and streams of batches as literals."""

import pytest
import torch

from torchfit._data.convert import Conversion
from torchfit._data.source import as_source


@pytest.fixture
def conversion():
    return Conversion(torch.device("cpu"))


@pytest.fixture
def batches_of(conversion):
    """Return a function from data to the list of batches of its first epoch, as nested lists."""

    def batches(x, y=None, sample_weight=None, batch_size=None, epoch=0, **arguments):
        source = as_source(x, y, sample_weight, conversion)
        return [plain(batch) for batch in source.batches(batch_size, **arguments).epoch(epoch)]

    return batches


def plain(value):
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    return tuple(plain(part) for part in value)
