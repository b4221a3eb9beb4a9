"""BatchNorm, dropout, and every kind of data, with several processes."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset

import torchfit
from tests.distributed.cases import ROWS, X, compiled, trained


def with_layers(make, shape=(8,), **settings):
    torch.manual_seed(0)
    model = compiled(nn.Sequential(*make()), "sgd")
    return trained(model, X.reshape(ROWS, *shape), **{"batch_size": 37, **settings})  # The last batch has 2 rows.


def batch_norm_1d():
    return with_layers(lambda: [nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)])


def batch_norm_2d():
    norm = nn.BatchNorm2d(4, momentum=None)
    return with_layers(lambda: [nn.Conv2d(2, 4, 2), norm, nn.ReLU(), nn.Flatten(), nn.Linear(4, 3)], (2, 2, 2))


def batch_norm_without_weights():
    return with_layers(lambda: [nn.BatchNorm1d(8, affine=False, track_running_stats=False), nn.Linear(8, 3)])


@pytest.mark.parametrize("function", [batch_norm_1d, batch_norm_2d, batch_norm_without_weights])
def test_batch_norm_sees_the_whole_batch(everywhere, function):
    everywhere(function, sizes=(2, 3))


def dropout():
    found = with_layers(lambda: [nn.Linear(8, 16), nn.Dropout(0.5, inplace=True), nn.Dropout(0.2), nn.Linear(16, 3)])
    return found, torch.rand(2).tolist()


def dropout_of_channels():
    return with_layers(lambda: [nn.Conv1d(2, 6, 2), nn.Dropout1d(0.5), nn.Flatten(), nn.Linear(18, 3)], (2, 4))


class Noise(nn.Module):
    """Draws numbers in other ways, and drops in a layout where rows are not the first axis in memory."""

    def __init__(self):
        super().__init__()
        self.layer, self.attention = nn.Linear(4, 4), nn.MultiheadAttention(4, 2, dropout=0.3, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.layer(x) + 0.1 * torch.randn_like(x)
        x = x + self.attention(x, x, x)[0]
        x = F.dropout(x.transpose(0, 1).contiguous().transpose(0, 1), 0.5, self.training)
        if self.training:
            x = x * torch.bernoulli(torch.full_like(x, 0.9)) + 0.01 * torch.rand(x.shape)
        return self.head(x.mean(1))


def noise():
    return with_layers(lambda: [Noise()], (2, 4), batch_size=16)


@pytest.mark.parametrize("function", [dropout, dropout_of_channels, noise])
def test_random_numbers_are_those_of_one_process(everywhere, function):
    everywhere(function, sizes=(2, 3))


# -- data --------------------------------------------------------------------------------------------------


class Rows(nn.Module):
    """Adds up the numbers of the rows that it was trained on."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen = []

    def forward(self, x):
        self.seen += x[:, 0].long().tolist()
        return self.weight * x


class Numbers(Dataset):
    def __len__(self):
        return ROWS

    def __getitem__(self, index):
        return torch.tensor([float(index)]), torch.tensor([0.0])


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(torch.tensor([float(index)]), torch.tensor([0.0])) for index in range(ROWS)])


class Batches(torchfit.utils.Sequence):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        x = numbers()[index * 16 : (index + 1) * 16]
        return x, 0 * x


def numbers():
    return np.arange(ROWS, dtype="float32")[:, None]


def generator():
    order = np.random.permutation(ROWS)
    for start in range(0, ROWS, 16):
        x = numbers()[order[start : start + 16]]
        yield x, 0 * x


SOURCES = {
    "arrays": lambda: (numbers(), 0 * numbers()),
    "Dataset": lambda: (Numbers(),),
    "loader": lambda: (DataLoader(Numbers(), 16, shuffle=True),),
    "loader with workers": lambda: (DataLoader(Numbers(), 16, shuffle=True, num_workers=2),),
    "Sequence": lambda: (Batches(),),
    "generator": lambda: (generator(),),
    "function": lambda: (generator,),
    "iterable Dataset": lambda: (Stream(),),
}


def rows_seen(source, folder, **settings):
    """Return the rows that this process trained on in one epoch, and the loss."""
    data = SOURCES[source]() if source != "memmap" else mapped(folder)
    module = Rows()
    model = compiled(module, "sgd", "mse", [])
    torch.manual_seed(0)
    np.random.seed(0)
    if source in ("arrays", "Dataset", "memmap", "iterable Dataset"):
        settings["batch_size"] = 16
    history = model.fit(*data, epochs=1, verbose=0, **settings).history
    own = torchfit.distribution.rank(), torchfit.distribution.world_size()
    return module.seen, history["loss"], own


def mapped(folder):
    path = f"{folder}/rows.npy"
    return np.load(path, mmap_mode="r"), 0 * numbers()


@pytest.mark.parametrize("source", [*SOURCES, "memmap"])
def test_every_row_counts_once(pools, source, tmp_path):
    np.save(tmp_path / "rows.npy", numbers())
    _, loss, _ = rows_seen(source, tmp_path)
    found = pools(3).run(rows_seen, source, tmp_path)
    borrowed = sum(len(seen) for seen, _, _ in found) - ROWS
    assert borrowed == 2  # The last batch has one row: the other two processes run it as well, and do not count it.
    assert set().union(*(seen for seen, _, _ in found)) == set(range(ROWS))
    assert [other for _, other, _ in found] == [pytest.approx(loss, rel=1e-6)] * 3


def test_workers_read_the_rows_of_their_process(pools, tmp_path):
    found = pools(3).run(rows_seen, "Dataset", tmp_path, workers=2)
    assert set().union(*(seen for seen, _, _ in found)) == set(range(ROWS))
    assert max(len(seen) for seen, _, _ in found) < ROWS / 2
