"""`auto_shard_dataset=False`: each process passes data of its own."""

import numpy as np
import pytest
from torch.utils.data import DataLoader, TensorDataset

import torchfit
from tests.distributed.cases import LABELS, WEIGHTS, X, compiled, network, trained
from tests.distributed.compare import assert_equal, assert_same
from torchfit import distribution

PARTS = slice(0, 57), slice(57, 73)  # Eight batches of eight rows, the last one with one, and two.


class Joined(torchfit.utils.Sequence):
    """The batches of both processes, one after the other."""

    def __init__(self):
        super().__init__()
        first, second = PARTS
        starts = range(0, 57, 8)
        self.rows = [np.r_[first][start : start + 8] for start in starts]
        self.rows = [np.r_[rows, np.r_[second][start : start + 8]] for rows, start in zip(self.rows, starts)]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        rows = self.rows[index]
        return X[rows], LABELS[rows], WEIGHTS[rows]


def with_own_data(kind="arrays"):
    distribution.set_distribution(distribution.DataParallel(auto_shard_dataset=False))
    try:
        own = PARTS[distribution.rank()]
        x, y, weights = X[own], LABELS[own], WEIGHTS[own]
        model = compiled(network())
        if kind == "arrays":
            found = trained(model, x, y, batch_size=8, shuffle=False, sample_weight=weights)
        else:
            import torch

            batches = DataLoader(TensorDataset(*map(torch.from_numpy, (x, y, weights))), batch_size=8)
            found = trained(model, batches, None, batch_size=None)
        found["evaluated"] = model.evaluate(x, y, batch_size=8, verbose=0)
        return found, model.predict(x)
    finally:
        distribution.set_distribution(distribution.DataParallel())


def with_all_data():
    model = compiled(network())
    found = trained(model, Joined(), None, batch_size=None, shuffle=False)
    rows = np.r_[PARTS]
    found["evaluated"] = model.evaluate(X[rows], LABELS[rows], verbose=0)
    return found, [model.predict(X[part]) for part in PARTS]


@pytest.mark.parametrize("kind", ["arrays", "loader"])
def test_own_data(pools, kind):
    expected, predictions = with_all_data()
    found = pools(2).run(with_own_data, kind)
    for (numbers, own), of_rows in zip(found, predictions):
        assert_same(numbers, expected, 1e-6)
        assert_equal(numbers, found[0][0])
        assert_same(own, of_rows, 1e-6)


def balanced():
    distribution.set_distribution(distribution.DataParallel(auto_shard_dataset=False))
    try:
        compiled(network()).fit(X, LABELS, class_weight="balanced")
    except ValueError as error:
        return str(error)
    finally:
        distribution.set_distribution(distribution.DataParallel())


def test_balanced_class_weights_are_refused(pools):
    for message in pools(2).run(balanced):
        assert message.startswith('`class_weight="balanced"` counts the labels of this process alone')
