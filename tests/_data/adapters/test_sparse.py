import numpy as np
import pytest
import torch

from torchfit._data.adapters.dispatch import get_data_adapter
from torchfit._data.adapters.lazy_arrays import SparseArray, is_sparse

scipy_sparse = pytest.importorskip("scipy.sparse")

ROWS = np.where(np.arange(60).reshape(12, 5) % 3 == 0, np.arange(60.0).reshape(12, 5), 0)
KINDS = {
    "csr matrix": scipy_sparse.csr_matrix,
    "csc matrix": scipy_sparse.csc_matrix,
    "coo matrix": scipy_sparse.coo_matrix,
    "dok matrix": scipy_sparse.dok_matrix,
    "csr array": scipy_sparse.csr_array,
    "coo array": scipy_sparse.coo_array,
    "coo tensor": lambda rows: torch.tensor(rows).to_sparse(),
    "csr tensor": lambda rows: torch.tensor(rows).to_sparse_csr(),
}
pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")


@pytest.mark.parametrize("shuffle", [False, True, "batch"])
@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_those_of_the_dense_array(kind, shuffle, batch_spec):
    sparse, dense = (
        get_data_adapter(x, np.arange(12), None, batch_spec).batches(5, shuffle=shuffle)
        for x in (KINDS[kind](ROWS), ROWS)
    )
    dense.seed = sparse.seed
    for found, expected in zip(sparse.epoch(1), dense.epoch(1), strict=True):
        torch.testing.assert_close(found.inputs, expected.inputs)
        assert found.targets.tolist() == expected.targets.tolist()


def test_dtypes(batch_spec):
    for given, expected in (("float64", torch.float32), ("int16", torch.int16), ("bool", torch.bool)):
        adapter = get_data_adapter(scipy_sparse.csr_matrix(ROWS.astype(given)), None, None, batch_spec)
        assert next(adapter.batches().epoch(0)).inputs.dtype == expected


def test_the_last_rows_are_split_off(batch_spec):
    first, last = get_data_adapter(scipy_sparse.csc_matrix(ROWS), None, None, batch_spec).split(0.25)
    assert next(last.batches().epoch(0)).inputs.tolist() == ROWS[9:].tolist()
    assert first.batches().samples == 9


def test_only_the_rows_of_a_batch_become_dense():
    wide = scipy_sparse.csr_matrix(([1.0], ([11], [999_999])), shape=(100_000, 1_000_000))
    assert SparseArray("x", wide, torch.float32).read(slice(10, 12)).shape == (2, 1_000_000)


def test_entries_that_occur_twice_are_added_up():
    twice = scipy_sparse.coo_matrix(([1.0, 2.0], ([0, 0], [1, 1])), shape=(1, 2))
    assert SparseArray("x", twice, None).read(slice(0, 1)).tolist() == [[0, 3]]
    indices, values = torch.tensor([[0, 0], [1, 1]]), torch.tensor([1.0, 2.0])
    twice = torch.sparse_coo_tensor(indices, values, (1, 2), check_invariants=True)
    assert SparseArray("x", twice, None).read(slice(0, 1)).tolist() == [[0, 3]]


def test_tensors_of_more_axes():
    cube = torch.arange(24.0).reshape(2, 3, 4)
    assert torch.equal(SparseArray("x", cube.to_sparse(), None).read(np.array([1, 0])), cube.flip(0))


def test_sparse_targets_are_weighted_by_class_batch_by_batch(batch_spec):
    one_hot = scipy_sparse.csr_matrix(np.eye(3)[[0, 1, 2, 1]])
    adapter = get_data_adapter(np.zeros(4), one_hot, None, batch_spec).with_class_weight("balanced")
    weights = [batch.sample_weight.tolist() for batch in adapter.batches(2).epoch(0)]
    assert weights == [pytest.approx([4 / 3, 2 / 3]), pytest.approx([4 / 3, 2 / 3])]


@pytest.mark.parametrize("value", [np.zeros(3), torch.zeros(3), [1, 2], {"a": 1}, "text"])
def test_what_is_not_sparse(value):
    assert not is_sparse(value)
