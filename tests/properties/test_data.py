"""What holds for any data: every sample once, in order, with its own weight, whatever form the data come in."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, StackDataset, TensorDataset

from torchfit import Model
from torchfit._data.adapters.dispatch import get_data_adapter
from torchfit._data.convert import BatchSpec
from torchfit._data.epoch_iterator import EpochIterator
from torchfit._data.workers import LoaderConfig
from torchfit._utils import tree
from torchfit.utils import Sequence

BATCH_SPEC = BatchSpec(torch.device("cpu"))
DTYPES = ["float32", "float64", "float16", "int64", "int32", "uint8", "uint16", "bool"]
# No lists here: inside other lists, lists of numbers are one array.
KINDS = [np.asarray, torch.from_numpy, pd.Series, pd.DataFrame]

sizes = st.integers(1, 40)
batch_sizes = st.integers(1, 45)
shuffles = st.sampled_from([False, True, "batch"])


@st.composite
def leaves(draw, rows):
    """Draw an array whose first column tells its row, and its form; bools and bytes tell it modulo their range."""
    dtype, kind = draw(st.sampled_from(DTYPES)), draw(st.sampled_from(KINDS))
    if kind is pd.Series or kind is torch.from_numpy or kind is pd.DataFrame:
        dtype = dtype if dtype not in ("float16", "uint16") else "float32"
    array = np.arange(rows).astype(dtype)
    if kind is pd.DataFrame:
        return pd.DataFrame({"row": array, "again": array})
    if kind is not pd.Series and draw(st.booleans()):
        array = np.stack([array, array], axis=1)
    return kind(array)


def nests(rows):
    return st.recursive(
        leaves(rows),
        lambda parts: st.one_of(
            st.dictionaries(st.sampled_from("abcd"), parts, min_size=1, max_size=3),
            st.tuples(parts, parts),
            st.lists(parts, min_size=2, max_size=2),
        ),
        max_leaves=4,
    )


def first_column(leaf):
    return leaf.reshape(len(leaf), -1)[:, 0].to(torch.float64)


@settings(max_examples=60, deadline=None)
@given(st.data(), sizes, batch_sizes, shuffles)
def test_every_sample_comes_once_with_its_own_targets_and_weight(data, rows, batch_size, shuffle):
    x, y, weight = data.draw(nests(rows)), data.draw(leaves(rows)), np.arange(rows)
    batches = get_data_adapter(x, y, weight, BATCH_SPEC).batches(batch_size, shuffle=shuffle)
    seen = []
    for batch in batches.epoch(data.draw(st.integers(0, 3))):
        numbers = batch.sample_weight.to(torch.int64)
        seen += numbers.tolist()
        for leaf in tree.leaves((batch.inputs, batch.targets)):
            expected = numbers.to(leaf.dtype).to(torch.float64)
            assert torch.equal(first_column(leaf), expected)
    assert sorted(seen) == list(range(rows))
    assert shuffle or seen == list(range(rows))


@settings(max_examples=30, deadline=None)
@given(sizes, batch_sizes, shuffles, st.integers(0, 5), st.data())
def test_an_epoch_entered_in_the_middle_goes_on_as_if_it_had_not_been_left(rows, batch_size, shuffle, epoch, data):
    batches = get_data_adapter(np.arange(rows), None, None, BATCH_SPEC).batches(batch_size, shuffle=shuffle)
    whole = [batch.inputs.tolist() for batch in batches.epoch(epoch)]
    start = data.draw(st.integers(0, len(whole)))
    assert [batch.inputs.tolist() for batch in batches.epoch(epoch, start)] == whole[start:]


@settings(max_examples=40, deadline=None)
@given(sizes, batch_sizes, st.integers(1, 12), st.integers(1, 4))
def test_steps_cut_one_stream_into_epochs(rows, batch_size, steps, epochs):
    whole = [
        batch.inputs.tolist()
        for batch in get_data_adapter(stream(rows, batch_size), None, None, BATCH_SPEC).batches().epoch(0)
    ]
    batches = EpochIterator(
        get_data_adapter(stream(rows, batch_size), None, None, BATCH_SPEC).batches(), steps, epochs=epochs
    )
    dry = []
    batches.on_exhausted = lambda: dry.append(True)
    found = []
    with pytest.warns(UserWarning, match="ran out") if steps * epochs > len(whole) else no_warning():
        for epoch in batches.epochs(range(epochs)):
            found += [batch.inputs.tolist() for batch in batches.epoch(epoch)]
            if dry:
                break
    assert found == whole[: steps * epochs]
    assert bool(dry) == (steps * epochs > len(whole))


def no_warning():
    return pytest.MonkeyPatch.context()


def stream(rows, batch_size):
    return (torch.arange(rows)[first : first + batch_size] for first in range(0, rows, batch_size))


class Samples(Dataset):
    def __init__(self, *arrays):
        self.arrays = arrays

    def __len__(self):
        return len(self.arrays[0])

    def __getitem__(self, index):
        return tuple(array[index] for array in self.arrays)


class Streamed(Samples, IterableDataset):
    def __iter__(self):
        return (self[index] for index in range(len(self)))


class Batched(Sequence):
    def __init__(self, batch_size, *arrays):
        super().__init__()
        self.batch_size, self.arrays = batch_size, arrays

    def __len__(self):
        return -(-len(self.arrays[0]) // self.batch_size)

    def __getitem__(self, index):
        rows = slice(index * self.batch_size, (index + 1) * self.batch_size)
        return tuple(array[rows] for array in self.arrays)


FORMS = {
    "arrays": lambda size, x, y, w: (x, y, w, size),
    "tensors": lambda size, x, y, w: (*map(torch.from_numpy, (x, y, w)), size),
    "lists": lambda size, x, y, w: (x.tolist(), y.tolist(), w.tolist(), size),
    "frames": lambda size, x, y, w: (pd.DataFrame(x), pd.DataFrame(y), pd.Series(w), size),
    "tensor dataset": lambda size, *arrays: (TensorDataset(*map(torch.from_numpy, arrays)), None, None, size),
    "stack dataset": lambda size, *arrays: (StackDataset(*arrays), None, None, size),
    "dataset": lambda size, *arrays: (Samples(*arrays), None, None, size),
    "iterable dataset": lambda size, *arrays: (Streamed(*arrays), None, None, size),
    "loader": lambda size, *arrays: (DataLoader(Samples(*arrays), size), None, None, None),
    "sequence": lambda size, *arrays: (Batched(size, *arrays), None, None, None),
    "generator": lambda size, *arrays: (iter(list(Batched(size, *arrays))), None, None, None),
    "function": lambda size, *arrays: (lambda: iter(list(Batched(size, *arrays))), None, None, None),
}


@pytest.mark.parametrize("loader_config", [LoaderConfig(), LoaderConfig(workers=3)])
@pytest.mark.parametrize("form", FORMS)
def test_batches_do_not_depend_on_the_form(form, loader_config):
    x, y, weight = np.random.rand(11, 3), np.arange(11.0)[:, None], np.random.rand(11)
    if loader_config.threads and form in ("dataset", "iterable dataset", "stack dataset", "loader"):
        loader_config = LoaderConfig()  # Theirs are processes, which tests/_data covers.
    *parts, batch_size = FORMS[form](4, x, y, weight)
    found = list(get_data_adapter(*parts, BATCH_SPEC).batches(batch_size, loader_config=loader_config).epoch(0))  # type: ignore[call-arg]
    expected = list(get_data_adapter(x, y, weight, BATCH_SPEC).batches(4).epoch(0))
    assert len(found) == len(expected)
    for one, other in zip(found, expected):
        assert [part.dtype for part in one] == [torch.float32] * 3
        for part, wanted in zip(one, other):
            torch.testing.assert_close(part, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("form", FORMS)
def test_results_do_not_depend_on_the_form(form):
    x, y, weight = np.random.rand(22, 3), np.random.rand(22, 1), np.random.rand(22)

    def results(form):
        torch.manual_seed(0)
        model = Model(nn.Linear(3, 1))
        model.compile("sgd", "mse", weighted_metrics=["mae"])
        arguments = FORMS[form]
        x_, y_, weight_, batch_size = arguments(4, x, y, weight)
        history = model.fit(x_, y_, batch_size, sample_weight=weight_, shuffle=False, verbose=0).history
        x_, y_, weight_, batch_size = arguments(4, x, y, weight)
        scores = model.evaluate(x_, y_, batch_size, sample_weight=weight_, verbose=0)
        x_, _, _, batch_size = arguments(4, x, y, weight)
        return history["loss"], scores, model.predict(x_, batch_size)

    for found, expected in zip(results(form), results("arrays")):
        np.testing.assert_allclose(found, expected, rtol=1e-6)
