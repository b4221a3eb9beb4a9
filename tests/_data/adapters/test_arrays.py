import sys
from typing import Any

import numpy as np
import pytest
import torch

from torchfit._data.adapters.arrays import BLOCK_BYTES, ArrayBatches
from torchfit._data.adapters.dispatch import get_data_adapter
from torchfit._data.epoch_iterator import shuffled_batches, shuffled_rows


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
    adapter: Any = get_data_adapter(np.zeros(3), np.zeros(3, "int64"), np.ones(3, "int32"), batch_spec)
    parts = adapter.parts
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


# -- steps that write into a batch -------------------------------------------------------------------------------------


def batches_of_rows(features, order=None, batch_size=4):
    """Return 12 rows in batches of 4; with many features, a batch is larger than what is always copied."""
    x = torch.arange(12.0)[:, None].expand(-1, features).contiguous()
    return x, ArrayBatches((x, torch.arange(12.0)), batch_size, order)


SMALL, LARGE = 1, BLOCK_BYTES // 8


@pytest.mark.parametrize("order", [None, shuffled_rows, shuffled_batches])
@pytest.mark.parametrize("features", [SMALL, LARGE])
def test_what_a_step_writes_does_not_reach_the_data(features, order):
    x, batches = batches_of_rows(features, order)
    for epoch in range(2):
        for batch in batches.epoch(epoch):
            batch.inputs.zero_()
            batch.targets.fill_(-1)
    assert x[:, 0].tolist() == list(range(12))
    assert sorted(row for batch in batches.epoch(2) for row in batch.targets.tolist()) == list(range(12))


def test_batches_that_are_drawn_ahead_are_guarded_as_well():
    x, batches = batches_of_rows(LARGE)
    for batch in list(batches.epoch(0)):
        batch.inputs.zero_()
    assert x[:, 0].tolist() == list(range(12))


def test_large_batches_are_views_once_a_step_wrote_into_none():
    x, batches = batches_of_rows(LARGE)
    found = [batch.inputs.data_ptr() == x[4 * step].data_ptr() for step, batch in enumerate(batches.epoch(0))]
    assert found == [False, False, True]
    assert all(batch.inputs.data_ptr() == x[4 * step].data_ptr() for step, batch in enumerate(batches.epoch(1)))
    assert batches.yields_views


def test_a_late_write_is_reported_and_batches_are_copied_from_then_on():
    x, batches = batches_of_rows(LARGE)
    list(map(len, batches.epoch(0)))
    epoch = batches.epoch(1)
    next(epoch).inputs[:, 0] = -1
    with pytest.warns(UserWarning, match="wrote into a batch in place, after steps that did not"):
        next(epoch).inputs[:, 0] = -1
    assert x[4:, 0].tolist() == list(range(4, 12))
    assert not batches.yields_views


def test_an_example_is_a_copy():
    x, batches = batches_of_rows(SMALL)
    batches.peek().inputs.zero_()
    assert x[3] == 3


def test_inference_tensors_are_copied():
    with torch.inference_mode():
        x = torch.ones(8, LARGE)
    batches = ArrayBatches((x,), 4)
    for batch in batches.epoch(0):
        batch.inputs.zero_()
    assert x.min() == 1


def test_a_batch_size_beyond_the_data(batches_of):
    assert batches_of(np.arange(3.0), batch_size=sys.maxsize, shuffle=False) == [([0, 1, 2],)]


@pytest.mark.parametrize("y", [list(torch.tensor([0, 1])), [np.int64(0), np.int64(1)], list(np.array([False, True]))])
def test_lists_of_numbers_of_torch_and_numpy(y, batches_of):
    assert batches_of([1.0, 2.0], y) == [([1.0, 2.0], [0, 1])]


def test_messages_about_lengths_are_short_and_say_how_to_stack(batch_spec):
    samples = [torch.ones(8) for _ in range(300)]
    with pytest.raises(ValueError, match=r"`y` has 300 \(and 296 more\)\. .* stack 300 samples") as caught:
        get_data_adapter(samples, np.zeros(300), None, batch_spec)
    assert len(str(caught.value)) < 300
