import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from torchfit._data.adapters.arrays import ArrayBatches
from torchfit._data.adapters.dispatch import get_data_adapter
from torchfit._data.workers import LoaderConfig

PROCESSES = LoaderConfig(workers=2, use_multiprocessing=True)


class Squares(Dataset):
    def __init__(self, length=7):
        self.length = length
        self.targets = [0] * length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return np.float64(index), index**2


class Failing(Squares):
    def __getitem__(self, index):
        if index == 5:
            raise KeyError("no such picture")
        return super().__getitem__(index)


class Stream(IterableDataset):
    def __iter__(self):
        yield from ((float(number), -number) for number in range(5))


class Random(Squares):
    def __getitem__(self, index):
        return torch.rand(()), float(np.random.rand())


def test_samples_are_collated(batches_of):
    assert batches_of(Squares(), batch_size=4) == [([0, 1, 2, 3], [0, 1, 4, 9]), ([4, 5, 6], [16, 25, 36])]


def test_workers_give_the_same_batches(batches_of):
    assert batches_of(Squares(), batch_size=4, loader_config=PROCESSES) == batches_of(Squares(), batch_size=4)


def test_workers_stay_from_epoch_to_epoch(batch_spec):
    batches = get_data_adapter(Squares(), None, None, batch_spec).batches(4, shuffle=True, loader_config=PROCESSES)
    assert [sorted(x for batch in batches.epoch(epoch) for x in batch.inputs.tolist()) for epoch in (0, 1)] == [
        list(range(7)),
        list(range(7)),
    ]


def test_an_epoch_may_begin_at_any_batch(batch_spec):
    batches = get_data_adapter(Squares(20), None, None, batch_spec).batches(3, shuffle=True)
    whole = [batch.inputs.tolist() for batch in batches.epoch(2)]
    assert [batch.inputs.tolist() for batch in batches.epoch(2, start=4)] == whole[4:]


def test_randomness_in_workers_is_that_of_the_batch_whatever_the_number_of_workers(batch_spec):
    found = []
    for workers in (1, 2):
        loader_config = LoaderConfig(workers, use_multiprocessing=True)
        batches = get_data_adapter(Random(8), None, None, batch_spec).batches(2, loader_config=loader_config)
        batches.seed = 1
        found.append([(batch.inputs.tolist(), batch.targets.tolist()) for batch in batches.epoch(0)])
    assert found[0] == found[1]
    assert len({value for batch in found[0] for value in batch[0]}) == 8


def test_randomness_in_workers_changes_from_epoch_to_epoch(batch_spec):
    batches = get_data_adapter(Random(4), None, None, batch_spec).batches(4, loader_config=PROCESSES)
    assert next(batches.epoch(0)).inputs.tolist() != next(batches.epoch(1)).inputs.tolist()


@pytest.mark.parametrize("loader_config", [None, PROCESSES])
def test_an_exception_keeps_its_type_and_tells_the_index(loader_config, batches_of):
    with pytest.raises(KeyError, match=r"no such picture.*sample 5 of the Dataset"):
        batches_of(Failing(), batch_size=2, loader_config=loader_config)


def test_a_dataset_whose_length_lies(batches_of):
    class Lying(Squares):
        def __getitem__(self, index):
            return [1.0, 2.0][index]

    with pytest.raises(IndexError, match="sample 2 of the Dataset, whose length is 7"):
        batches_of(Lying())


def test_samples_of_different_shapes_are_refused(batches_of):
    class Ragged(Squares):
        def __getitem__(self, index):
            return torch.zeros(index + 1)

    with pytest.raises(ValueError, match=r"cannot be joined into a batch.*collate_fn"):
        batches_of(Ragged())


def test_a_dataset_of_tensors_is_taken_as_arrays(batch_spec):
    dataset = TensorDataset(torch.arange(6.0), torch.arange(6))
    adapter = get_data_adapter(Subset(dataset, [4, 2]), None, None, batch_spec)
    assert isinstance(adapter.batches(), ArrayBatches)
    assert [part.tolist() for part in next(adapter.batches().epoch(0))] == [[4, 2], [4, 2]]


def test_the_last_samples_are_split_off(batch_spec):
    first, last = get_data_adapter(Squares(10), None, None, batch_spec).split(0.3)
    assert next(last.batches().epoch(0)).inputs.tolist() == [7, 8, 9]
    assert first.batches().samples == 7


def test_labels_that_a_dataset_shows_can_be_balanced(batch_spec):
    dataset = Squares(4)
    dataset.targets = [0, 1, 4, 9]
    adapter = get_data_adapter(dataset, None, None, batch_spec).with_class_weight("balanced")
    assert next(adapter.batches().epoch(0)).sample_weight.tolist() == [1, 1, 1, 1]


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

    with pytest.raises(OSError, match=r"disk gone \(sample 1 of the iterable Dataset"):
        batches_of(Broken())


def test_objects_with_indices_and_length_are_datasets(batches_of):
    class Duck:
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return float(index), index

    assert batches_of(Duck()) == [([0, 1, 2], [0, 1, 2])]
