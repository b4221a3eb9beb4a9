import numpy as np
import pytest
import torch

from torchfit._data.adapters.arrays import ArrayBatches
from torchfit._data.adapters.dispatch import get_data_adapter
from torchfit._data.sampling import shuffled_batches, shuffled_rows


def test_batches_keep_the_order_of_the_data(batches_of):
    assert batches_of(np.arange(5.0), np.arange(5), batch_size=2) == [
        ([0, 1], [0, 1]),
        ([2, 3], [2, 3]),
        ([4], [4]),
    ]


def test_batch_size_is_32_by_default(batches_of):
    assert [len(x) for (x,) in batches_of(np.zeros((70, 2)))] == [32, 32, 6]


def test_nests_keep_their_structure(batches_of):
    x = {"a": np.arange(2.0), "b": (np.arange(2), [10.0, 20.0])}
    assert batches_of(x, batch_size=1) == [
        ({"a": [0.0], "b": ([0], [10.0])},),
        ({"a": [1.0], "b": ([1], [20.0])},),
    ]


def test_floats_become_the_dtype_of_the_module_and_integers_stay(batch_spec):
    parts = get_data_adapter(np.zeros(3), np.zeros(3, "int64"), np.ones(3, "int32"), batch_spec).parts
    assert [part.dtype for part in parts] == [torch.float32, torch.int64, torch.float32]


def test_shuffling_is_a_function_of_seed_and_epoch():
    one, other = (ArrayBatches((torch.arange(20),), 4, shuffled_rows) for _ in range(2))
    other.seed = one.seed
    assert rows(one, 0) == rows(other, 0) != rows(one, 1)
    assert sorted(rows(one, 0)) == list(range(20))


@pytest.mark.parametrize("order", [None, shuffled_rows, shuffled_batches])
def test_an_epoch_may_begin_at_any_batch(order):
    batches = ArrayBatches((torch.arange(11),), 3, order)
    assert rows(batches, 5, start=2) == rows(batches, 5)[6:]
    assert list(batches.epoch(5, start=4)) == []


def test_shuffling_by_batch_keeps_neighbours_together():
    batches = ArrayBatches((torch.arange(10),), 4, shuffled_batches)
    chunks = [batch.inputs.tolist() for batch in batches.epoch(0)]
    assert sorted(chunks[:2]) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert chunks[2] == [8, 9]


def test_the_number_of_steps_and_samples_is_known(batch_spec):
    batches = get_data_adapter(np.zeros((10, 1)), None, None, batch_spec).batches(4)
    assert (batches.steps, batches.samples, batches.is_resumable) == (3, 10, True)


def test_a_list_of_numbers_is_one_array(batches_of):
    assert batches_of([1.0, 2.0], [0, 1]) == [([1.0, 2.0], [0, 1])]


def rows(batches, epoch, start=0):
    return [row for batch in batches.epoch(epoch, start) for row in batch.inputs.tolist()]
