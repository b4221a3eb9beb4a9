from typing import Any

import numpy as np
import pytest

from torchfit._data.adapters.dispatch import get_data_adapter
from torchfit._data.epoch_iterator import EpochIterator
from torchfit._data.workers import LoaderConfig
from torchfit.utils import PyDataset, Sequence

READERS = [LoaderConfig(), LoaderConfig(workers=3), LoaderConfig(workers=2, use_multiprocessing=True)]


class Numbers(Sequence):
    def __init__(self, length=6):
        self.length, self.begun, self.ended = length, 0, 0

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return np.array([2.0 * index, 2.0 * index + 1]), np.array([index, index])

    def on_epoch_begin(self):
        self.begun += 1

    def on_epoch_end(self):
        self.ended += 1


class Failing(Numbers):
    def __getitem__(self, index):
        raise OSError("disk gone")


class Growing(Numbers):
    def on_epoch_end(self):
        self.length += 1


def test_sequence_is_the_older_name():
    assert Sequence is PyDataset


@pytest.mark.parametrize("loader_config", READERS)
def test_batches_come_in_order_however_they_are_read(loader_config, batches_of):
    assert batches_of(Numbers(2), loader_config=loader_config) == [([0, 1], [0, 0]), ([2, 3], [1, 1])]


@pytest.mark.parametrize("loader_config", READERS)
def test_shuffling_changes_the_order_of_batches_from_epoch_to_epoch(loader_config, batch_spec):
    batches = get_data_adapter(Numbers(), None, None, batch_spec).batches(shuffle=True, loader_config=loader_config)
    first, second = ([batch.targets[0].item() for batch in batches.epoch(epoch)] for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(6))
    assert first != second
    assert [batch.targets[0].item() for batch in batches.epoch(1, start=4)] == second[4:]


@pytest.mark.parametrize("loader_config", READERS)
def test_an_exception_keeps_its_type_and_tells_the_index(loader_config, batches_of):
    with pytest.raises(OSError, match=r"(?s)disk gone.*batch 0 of the Sequence"):
        batches_of(Failing(), loader_config=loader_config)


@pytest.mark.parametrize("loader_config", READERS)
def test_what_on_epoch_end_changes_is_seen_in_the_next_epoch(loader_config, batch_spec):
    batches = EpochIterator(get_data_adapter(Growing(2), None, None, batch_spec).batches(loader_config=loader_config))
    assert [len(list(batches.epoch(epoch))) for epoch in range(3)] == [2, 3, 4]


def test_epochs_are_told_once_each(batch_spec):
    sequence = Numbers(2)
    batches = EpochIterator(get_data_adapter(sequence, None, None, batch_spec).batches())
    for epoch in range(3):
        list(batches.epoch(epoch))
    assert (sequence.begun, sequence.ended) == (3, 3)


def test_epochs_of_fewer_steps_end_as_well(batch_spec):
    sequence = Numbers(4)
    batches = EpochIterator(get_data_adapter(sequence, None, None, batch_spec).batches(), 2, epochs=3)
    for epoch in range(3):
        list(batches.epoch(epoch))
    assert sequence.ended == 3


def test_its_own_settings_hold_unless_fit_has_others(batch_spec):
    sequence = PyDataset(workers=3, max_queue_size=2)
    adapter: Any = get_data_adapter(sequence, None, None, batch_spec)
    assert adapter.batches().loader_config == LoaderConfig(3, False, 2)
    assert adapter.batches(loader_config=LoaderConfig(4)).loader_config == LoaderConfig(4)


def test_without_length_it_goes_on_until_index_error(batches_of, batch_spec):
    class Endless(PyDataset):
        def __getitem__(self, index):
            return [[1.0], [2.0], [3.0]][index]

    assert batches_of(Endless()) == [([1],), ([2],), ([3],)]
    assert get_data_adapter(Endless(), None, None, batch_spec).batches().steps is None


def test_a_sequence_that_cannot_be_sent_to_processes_runs_in_threads(batches_of):
    class Local(Numbers):
        lock = __import__("threading").Lock()

    assert len(batches_of(Local(), loader_config=LoaderConfig(workers=2))) == 6


def test_sequences_of_keras(batches_of):
    keras = pytest.importorskip("keras")

    class Theirs(keras.utils.PyDataset):  # type: ignore[name-defined]
        def __len__(self):
            return 1

        def __getitem__(self, index):
            return np.ones(1), np.zeros(1)

    assert batches_of(Theirs()) == [([1], [0])]


def test_a_loop_by_hand_ends():
    assert [int(y[0]) for _, y in Numbers(3)] == [0, 1, 2]
