from collections import UserDict, namedtuple
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pack_sequence

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
    kind = namedtuple("Example", names.split())
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
    packed = pack_sequence([torch.zeros(2), torch.zeros(1)])
    assert read((packed, torch.zeros(2))).inputs.data.tolist() == [0, 0, 0]
    assert read(packed).inputs.batch_sizes.tolist() == [2, 1]


def test_frames_are_taken_apart_by_input():
    read = BatchConverter(BatchSpec(torch.device("cpu"), input_names=["b", "a"]))
    assert read(pd.DataFrame({"a": [1.0], "b": [2.0]})).inputs["b"].tolist() == [[2]]


def test_targets_are_left_aside_where_only_inputs_matter():
    read = BatchConverter(BatchSpec(torch.device("cpu"), inputs_only=True))
    assert len(read((torch.zeros(1), ["text"]))) == 1


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (torch.zeros(0, 2), "a batch without samples"),
        ((np.zeros((0, 2)), np.zeros(0)), "a batch without samples"),
        ((None, torch.zeros(1)), "`x` is None"),
        (pd.DataFrame({"a": [1.0], "b": ["text"]}), r"hold no numbers: 'b'"),
        ([torch.zeros(3)] * 4, r"For one list of samples, yield \(samples,\)"),
    ],
)
def test_what_is_no_batch_is_refused(raw, message, read):
    with pytest.raises(ValueError, match=message):
        read(raw)


# -- batches pass as the user made them --------------------------------------------------------------------------------


def test_parts_may_have_any_first_axis(read):
    batch = read(((torch.arange(9), torch.tensor([0, 2, 5])), torch.zeros(3)))
    assert [len(part) for part in (*batch.inputs, batch.targets)] == [9, 3, 3]
    assert read((torch.zeros(7, 2), torch.zeros(14))).inputs.shape == (7, 2)


def test_a_part_may_be_empty(read):
    images, boxes = [torch.zeros(3, 4, 4), torch.zeros(3, 2, 2)], [torch.zeros(0, 4), torch.zeros(2, 4)]
    assert [len(part) for part in read((images, boxes)).targets] == [0, 2]


@pytest.mark.parametrize(
    "value", ["a.png", b"text", 3, 2.5, True, np.float32(2), np.array(["a"]), pd.Series(["a"]), [[1, 2], [3]], object()]
)
def test_what_is_no_array_stays_as_it_is(value, read):
    batch = read(({"image": torch.zeros(1), "other": value}, torch.zeros(1)))
    assert batch.inputs["other"] is value or type(batch.inputs["other"]) is list
    assert list(batch.inputs["other"]) == list(value) if isinstance(value, list) else True


def test_lists_of_text_and_of_records(read):
    records = [{"boxes": torch.zeros(2, 4), "size": [480, 640], "name": "a.png"}, {"boxes": torch.zeros(0, 4)}]
    batch = read((["a", "b"], records))
    assert batch.inputs == ["a", "b"]
    assert (batch.targets[0]["size"], batch.targets[0]["name"]) == ([480, 640], "a.png")


def test_lists_of_numbers_are_arrays(read):
    batch = read(({"ids": [[1, 2], [3, 4]]}, (0, 1)))
    assert batch.inputs["ids"].tolist() == [[1, 2], [3, 4]]
    assert batch.targets.tolist() == [0, 1]


def test_tensors_without_axes(read):
    batch = read(((torch.zeros(2, 3), torch.tensor(0.5, dtype=torch.float64)), np.array(1)))
    assert (batch.inputs[1].shape, batch.inputs[1].dtype) == ((), torch.float32)
    assert batch.targets.item() == 1


class Graph:
    def __init__(self, x):
        self.x, self.device = x, None

    def to(self, device):
        self.device = device
        return self

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return self.x[index]


def test_objects_of_users_are_moved_as_a_whole(read):
    graph = Graph(torch.zeros(2))
    assert read((graph, torch.zeros(2))).inputs is graph
    assert read(graph).inputs is graph
    assert graph.device == torch.device("cpu")


def test_a_method_of_that_name_is_not_needed(read):
    class Plain:
        to = "nowhere"

    plain = Plain()
    assert read(({"a": torch.zeros(1), "b": plain}, torch.zeros(1))).inputs["b"] is plain


def test_sparse_tensors_stay_sparse_and_matrices_become_dense(read):
    scipy_sparse = pytest.importorskip("scipy.sparse")
    batch = read((torch.eye(2).to_sparse(), scipy_sparse.csr_matrix(np.eye(2))))
    assert batch.inputs.is_sparse
    assert batch.targets.tolist() == [[1, 0], [0, 1]]


def test_none_is_a_part_like_any_other(read):
    assert len(read((torch.zeros(1), None))) == 2
    assert read((torch.zeros(1), (None, torch.zeros(1)))).targets[0] is None
    assert read((torch.zeros(1), (torch.zeros(1), None))).targets[1] is None


def test_nothing_is_dropped_when_the_structure_changes(read):
    one, two = torch.zeros(1), torch.ones(1)
    for targets in ({"a": one}, {"a": one, "b": two}, {"b": two}, {"b": None, "a": one}):
        assert read((one, targets)).targets == targets
    for inputs in ([one], [one, two], [one, "text"], [one, None]):
        assert read((inputs, one)).inputs == inputs


def test_many_structures_are_not_all_remembered(read):
    for count in range(1, 200):
        assert len(read(([torch.zeros(1)] * count, torch.zeros(1))).inputs) == count
    assert len(read._plans) <= 64


@dataclass
class Checked:
    x: torch.Tensor
    rows: int = field(init=False)

    def __post_init__(self):
        self.rows = len(self.x)


def test_dataclasses_that_build_themselves(read):
    assert read((Checked(np.zeros(2)), torch.zeros(2))).inputs.x.dtype == torch.float32  # type: ignore[arg-type]


def test_tensors_that_need_gradients_get_their_own(read):
    x = torch.zeros(2, requires_grad=True)
    batch = read((x, x * 2))
    assert batch.inputs.requires_grad
    assert not batch.targets.requires_grad
    batch.inputs.sum().backward()
    assert x.grad is None


# -- the user's data stay as they are ----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [np.zeros, torch.zeros, lambda n: pack_sequence([torch.zeros(n)])])
def test_a_step_may_write_into_a_batch(make, read):
    x = make(3)
    inputs = read(({"x": x}, torch.zeros(3))).inputs["x"]
    (inputs.data if isinstance(inputs, PackedSequence) else inputs).add_(1)
    assert float((x.data if isinstance(x, PackedSequence) else x).sum()) == 0


def test_batches_that_nobody_else_holds_are_not_copied(batch_spec):
    x = torch.zeros(3)
    assert BatchConverter(batch_spec, is_fresh=True)(x).inputs is x
