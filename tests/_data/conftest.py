"""What the tests of data share: the batch spec of the CPU, and batches as nested lists."""

import pytest
import torch

from torchfit._data.adapters.dispatch import get_data_adapter
from torchfit._data.convert import BatchSpec


@pytest.fixture
def batch_spec():
    return BatchSpec(torch.device("cpu"))


@pytest.fixture
def batches_of(batch_spec):
    """Return a function from data to the list of batches of its first epoch, as nested lists."""

    def batches(x, y=None, sample_weight=None, batch_size=None, epoch=0, **arguments):
        adapter = get_data_adapter(x, y, sample_weight, batch_spec)
        return [plain(batch) for batch in adapter.batches(batch_size, **arguments).epoch(epoch)]

    return batches


def plain(value):
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    return tuple(plain(part) for part in value)
