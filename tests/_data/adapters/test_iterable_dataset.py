import warnings

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from torchfit._data.adapters.dispatch import get_data_adapter


class Stream(IterableDataset):
    def __iter__(self):
        yield from ((float(number), -number) for number in range(5))


def test_iterable_datasets(batches_of):
    assert batches_of(Stream(), batch_size=3) == [([0, 1, 2], [0, -1, -2]), ([3, 4], [-3, -4])]


def test_iterable_datasets_give_every_epoch_anew(batch_spec):
    batches = get_data_adapter(Stream(), None, None, batch_spec).batches(3)
    assert [len(list(batches.epoch(epoch))) for epoch in range(3)] == [2, 2, 2]
    assert next(batches.epoch(0, start=1)).inputs.tolist() == [3, 4]


def test_an_exception_in_a_stream_tells_the_sample(batches_of):
    class Broken(IterableDataset):
        def __iter__(self):
            yield 1.0
            raise OSError("disk gone")

    with pytest.raises(OSError, match=r"(?s)disk gone.*sample 1 of the iterable Dataset"):
        batches_of(Broken())


class Items(IterableDataset):
    """Yields what it is made of, and says some length or none."""

    def __init__(self, items, length=None):
        self.items, self.length = items, length

    def __iter__(self):
        return iter(self.items)

    def __len__(self):
        if self.length is None:
            raise TypeError("no length")
        return self.length


@pytest.mark.parametrize("length", [None, 0, 2, 5, 9])
def test_a_length_is_an_estimate(length, batches_of, batch_spec):
    items = Items([1.0, 2.0, 3.0, 4.0, 5.0], length)
    assert batches_of(items, batch_size=2) == [([1, 2],), ([3, 4],), ([5],)]
    batches = get_data_adapter(items, None, None, batch_spec).batches(2)
    assert (batches.steps, batches.samples) == (-(-length // 2) if length else None, None)


BATCH = (torch.zeros(8, 4), torch.zeros(8))


def test_whole_batches_are_noticed(batches_of):
    with pytest.warns(UserWarning, match=r"as many targets as rows.*DataLoader\(dataset, batch_size=None\)"):
        batches_of(Items([BATCH, BATCH]))


@pytest.mark.parametrize("sample", [(torch.zeros(4), torch.zeros(4)), (torch.zeros(8, 4), 1.0), torch.zeros(8, 4)])
def test_samples_are_no_batches(sample, batches_of):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batches_of(Items([sample, sample]))


def test_batches_of_several_sizes_are_refused_with_the_way_out(batches_of):
    items = Items([torch.zeros(8, 4), torch.zeros(3, 4)])
    with pytest.raises(ValueError, match=r"cannot be joined .*DataLoader\(dataset, batch_size=None\)"):
        batches_of(items)
    assert [len(x) for (x,) in batches_of(DataLoader(items, batch_size=None))] == [8, 3]
