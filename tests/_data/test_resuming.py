"""Data that are resumed in the middle of an epoch give the batches that an uninterrupted run would get."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from torchfit._data.adapters.dispatch import get_data_adapter
from torchfit._data.convert import BatchSpec
from torchfit._data.epoch_iterator import EpochIterator
from torchfit._data.workers import LoaderConfig
from torchfit._utils.rng import random_state, restore_random_state
from torchfit.utils import Sequence

X = np.arange(20, dtype="float32")[:, None]
Y = np.arange(20, dtype="float32")


class Noisy(torch.utils.data.Dataset):
    """Samples with noise from the global generators."""

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return X[index] + float(torch.rand(()) + np.random.rand() + random.random()), Y[index]


class Pairs(Sequence):
    def __len__(self):
        return 10

    def __getitem__(self, index):
        return X[2 * index : 2 * index + 2] + np.random.rand(), Y[2 * index : 2 * index + 2]


class Counting:
    """An iterable that knows where it is."""

    def __init__(self):
        self.position = 0

    def __iter__(self):
        while self.position < 10:
            index, self.position = 2 * self.position, self.position + 1
            yield X[index : index + 2], Y[index : index + 2]
        self.position = 0

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = state["position"]


class StatefulLoader(DataLoader):
    """Knows where it is, as torchdata's loader does."""

    position = 0
    loaded = 0

    def __iter__(self):
        start, self.loaded = self.loaded, 0
        for self.position, batch in enumerate(super().__iter__(), 1):
            if self.position > start:
                yield batch
        self.position = 0

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.loaded = state["position"]


FORMS: dict[str, Any] = {
    "arrays": lambda: (X, Y, {"batch_size": 2, "shuffle": True}),
    "arrays by batch": lambda: (X, Y, {"batch_size": 2, "shuffle": "batch"}),
    "dataset": lambda: (Noisy(), None, {"batch_size": 2, "shuffle": True}),
    "dataset in workers": lambda: (Noisy(), None, {"batch_size": 2, "shuffle": True, "loader_config": LoaderConfig(2)}),
    "sequence": lambda: (Pairs(), None, {"shuffle": True}),
    "loader": lambda: (DataLoader(Noisy(), 2, shuffle=True), None, {}),
    "loader with a generator": lambda: (
        DataLoader(Noisy(), 2, shuffle=True, generator=torch.Generator().manual_seed(3)),
        None,
        {},
    ),
    "loader in order": lambda: (DataLoader(TensorDataset(torch.tensor(X), torch.tensor(Y)), 2), None, {}),
    "loader with workers": lambda: (DataLoader(Noisy(), 2, shuffle=True, num_workers=2), None, {}),
    "loader with a state": lambda: (StatefulLoader(TensorDataset(torch.tensor(X), torch.tensor(Y)), 2), None, {}),
    "iterable with a state": lambda: (Counting(), None, {}),
}


def batches_of(form, steps=None):
    x, y, options = FORMS[form]()
    adapter = get_data_adapter(x, y, None, BatchSpec(torch.device("cpu"), torch.float32))
    return EpochIterator(adapter.batches(**options), steps, epochs=5)


def read(batches, start=(0, 0), stop=(5, 0)):
    """Return the sums of the batches from one position to another, and the state there."""
    sums = []
    for epoch in batches.epochs(range(start[0], 5), start[1]):
        first = start[1] if epoch == start[0] else 0
        if (epoch, first) == stop:
            break
        for step, batch in enumerate(batches.epoch(epoch, first), first):
            sums.append(float(batch.inputs.double().sum()))
            if (epoch, step + 1) == stop:
                return sums, (batches.state_dict(is_mid_epoch=True), random_state())
        if (epoch + 1, 0) == stop:
            break
    return sums, (batches.state_dict(), random_state())


def seed():
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


@pytest.mark.parametrize("steps", [None, 4, 5, 12])
@pytest.mark.parametrize("position", [(1, 3), (2, 0)])
@pytest.mark.parametrize("form", FORMS)
def test_batches_go_on_where_they_were(form, position, steps):
    if steps and form == "loader with workers":
        pytest.skip("one scenario with workers of a loader is enough")
    seed()
    whole, _ = read(batches_of(form, steps), stop=(4, 0))
    seed()
    first, (state, generators) = read(batches_of(form, steps), stop=position)
    seed()
    torch.rand(7)
    batches = batches_of(form, steps)
    assert batches.is_resumable
    batches.load_state_dict(state)
    restore_random_state(generators)
    second, _ = read(batches, position, stop=(4, 0))
    assert first + second == whole


def test_what_cannot_be_taken_up_says_so():
    batch_spec = BatchSpec(torch.device("cpu"), torch.float32)
    generator = ((X, Y) for _ in range(3))
    assert not EpochIterator(get_data_adapter(generator, None, None, batch_spec).batches()).is_resumable

    class Reshuffled(Pairs):
        def on_epoch_end(self):
            """Change."""

    assert not EpochIterator(get_data_adapter(Reshuffled(), None, None, batch_spec).batches()).is_resumable
