import mmap

import numpy as np
import pytest
import torch

from torchfit._data.adapters import lazy_arrays
from torchfit._data.adapters.dispatch import get_data_adapter
from torchfit._data.adapters.lazy_arrays import DiskArray, is_on_disk


@pytest.fixture(params=["float32", "float64", "int16"])
def memory_map(request, tmp_path):
    array = np.memmap(tmp_path / "x.dat", dtype=request.param, mode="w+", shape=(50, 3))
    array[:] = np.arange(150).reshape(50, 3)
    return array


class SlicesOnly:
    """Reads slices and ascending rows, as HDF5 does, and counts the rows."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.rows_read = array, array.shape, array.dtype, 0

    def __len__(self):
        return len(self.array)

    def __getitem__(self, rows):
        if not isinstance(rows, slice):
            assert (np.diff(rows) > 0).all()
        self.rows_read += len(self.array[rows])
        return self.array[rows]


def test_memory_maps_views_of_them_and_files_are_on_disk(memory_map):
    assert is_on_disk(memory_map)
    assert is_on_disk(memory_map[10:])
    assert is_on_disk(np.asarray(memory_map))
    assert is_on_disk(SlicesOnly(np.zeros((4, 2))))


@pytest.mark.parametrize("value", [np.zeros(3), torch.zeros(3), [1, 2], "text"])
def test_arrays_in_memory_are_not_on_disk(value):
    assert not is_on_disk(value)


@pytest.mark.parametrize("shuffle", [False, True, "batch"])
def test_batches_are_those_of_the_array_in_memory(memory_map, shuffle, batch_spec):
    on_disk, in_memory = (
        get_data_adapter(x, np.arange(50), None, batch_spec) for x in (memory_map, np.array(memory_map))
    )
    one, other = on_disk.batches(8, shuffle=shuffle), in_memory.batches(8, shuffle=shuffle)
    other.seed = one.seed
    for found, expected in zip(one.epoch(3), other.epoch(3), strict=True):
        assert found.inputs.dtype == expected.inputs.dtype
        torch.testing.assert_close(found.inputs, expected.inputs)
        assert found.targets.tolist() == expected.targets.tolist()


def test_only_the_rows_of_a_batch_are_read(batch_spec):
    file = SlicesOnly(np.zeros((1000, 2)))
    batches = get_data_adapter(file, None, None, batch_spec).batches(10, shuffle=True)
    next(iter(batches.epoch(0)))
    assert file.rows_read == 10


def test_hdf5(tmp_path, batch_spec):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = np.arange(20.0)[:, None]
        batches = get_data_adapter(file["x"], file["x"], None, batch_spec).batches(6, shuffle=True)
        rows = torch.cat([batch.inputs for batch in batches.epoch(0)])
    assert sorted(rows.flatten().tolist()) == list(range(20))


def test_splitting_reads_nothing(batch_spec):
    file = SlicesOnly(np.arange(20.0)[:, None])
    first, last = get_data_adapter(file, None, None, batch_spec).split(0.25)
    assert file.rows_read == 0
    assert next(last.batches(3).epoch(0)).inputs.flatten().tolist() == [15, 16, 17]
    assert first.batches().samples == 15


def test_class_weights_are_looked_up_for_each_batch(batch_spec):
    labels = SlicesOnly(np.array([0, 1, 1, 1]))
    adapter = get_data_adapter(np.zeros(4), labels, None, batch_spec).with_class_weight("balanced")
    assert next(adapter.batches(2).epoch(0)).sample_weight.tolist() == pytest.approx([2.0, 2 / 3])


def test_text_in_a_file_is_refused(batch_spec):
    with pytest.raises(ValueError, match="`x` must hold numbers"):
        get_data_adapter(SlicesOnly(np.array(["a", "b"])), None, None, batch_spec)


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="the system cannot release mapped pages")
def test_mapped_pages_are_released(memory_map, monkeypatch):
    monkeypatch.setattr(lazy_arrays, "_MAX_MAPPED_BYTES", 0)
    rows = DiskArray("x", memory_map, torch.float32)
    expected = rows.read(slice(0, 50)).clone()
    assert torch.equal(rows.read(slice(0, 50)), expected)


def test_a_private_map_keeps_what_was_written_to_it(tmp_path, monkeypatch):
    np.zeros(50, "float32").tofile(tmp_path / "x.dat")
    private = np.memmap(tmp_path / "x.dat", "float32", mode="c")
    private[:] = 1
    monkeypatch.setattr(lazy_arrays, "_MAX_MAPPED_BYTES", 0)
    rows = DiskArray("x", private, torch.float32)
    assert rows.read(slice(0, 50)).sum() == rows.read(slice(0, 50)).sum() == 50
