from collections import UserDict, namedtuple

import numpy as np
import pandas as pd
import pytest
import torch

from torchfit._data.batch_converter import BatchConverter, unpack
from torchfit._data.convert import BatchSpec


@pytest.fixture
def read(batch_spec):
    return BatchConverter(batch_spec)


@pytest.mark.parametrize(
    ("raw", "parts"),
    [
        (1, (1,)),
        ((1,), (1,)),
        ((1, 2), (1, 2)),
        ([1, "y", 3], (1, "y", 3)),
        ({"x": 1, "y": 2}, ({"x": 1, "y": 2},)),
        ([1.0, 2.0], ([1.0, 2.0],)),
    ],
)
def test_tuples_are_taken_apart_and_all_else_is_x(raw, parts):
    assert unpack(raw) == parts


@pytest.mark.parametrize("names", ["y x", "x y z"])
def test_named_tuples_are_refused_with_the_remedy(names):
    kind = namedtuple("Example", names)
    with pytest.raises(ValueError, match=r"named tuple, Example.*yield a plain tuple"):
        unpack(kind(*range(len(names.split()))))


@pytest.mark.parametrize("raw", [(), (1, 2, 3, 4)])
def test_tuples_of_other_lengths_are_refused(raw):
    with pytest.raises(ValueError, match=r"must give \(x,\), \(x, y\) or"):
        unpack(raw)


def test_floats_follow_the_module_and_weights_are_floats(read):
    batch = read((np.zeros(2), np.zeros(2, "int32"), np.ones(2, "int64")))
    assert [part.dtype for part in batch] == [torch.float32, torch.int32, torch.float32]


def test_nests_of_anything(read):
    batch = read(({"a": [1.0, 2.0], "b": pd.Series([3, 4])}, (torch.zeros(2), None)))
    assert batch.inputs["b"].tolist() == [[3], [4]]
    assert batch.targets[1] is None


def test_other_mappings_become_dictionaries(read):
    assert read(UserDict(ids=torch.ones(1))).inputs == {"ids": torch.ones(1)}


def test_structures_may_change_from_batch_to_batch(read):
    assert read((torch.zeros(1), torch.ones(1))).targets.tolist() == [1]
    assert read(({"a": torch.zeros(1)}, torch.ones(1))).inputs["a"].tolist() == [0]
    assert len(read(torch.zeros(1))) == 1


def test_objects_that_can_be_moved_are_moved(read):
    packed = torch.nn.utils.rnn.pack_sequence([torch.zeros(2), torch.zeros(1)])
    assert read((packed, torch.zeros(2))).inputs.data.tolist() == [0, 0, 0]


def test_frames_are_taken_apart_by_input():
    read = BatchConverter(BatchSpec(torch.device("cpu"), input_names=["b", "a"]))
    assert read(pd.DataFrame({"a": [1.0], "b": [2.0]})).inputs["b"].tolist() == [[2]]


def test_targets_are_left_aside_where_only_inputs_matter():
    read = BatchConverter(BatchSpec(torch.device("cpu"), inputs_only=True))
    assert len(read((torch.zeros(1), ["text"]))) == 1


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ((torch.zeros(2), torch.zeros(3)), r"differ in their number of samples: \[2, 3\]"),
        ((np.zeros(2), torch.zeros(3)), r"differ in their number of samples: \[2, 3\]"),
        (torch.zeros(0, 2), "a batch without samples"),
        ((None, torch.zeros(1)), "`x` is None"),
        ((np.array(["a"]), torch.zeros(1)), "`x` must hold numbers"),
        (({"a": torch.zeros(1)}, {"b": ["c"]}), r"`y\['b'\]\[0\]` must hold numbers"),
    ],
)
def test_what_is_no_batch_is_refused(raw, message, read):
    with pytest.raises(ValueError, match=message):
        read(raw)
