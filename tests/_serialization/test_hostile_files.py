"""Small files that ask for much time or memory are refused at once, before they get it."""

import io
import pickle
import struct
import tracemalloc
import zipfile
from typing import Any

import pytest
import torch
from torch import nn

from torchfit._serialization import archive
from torchfit._serialization.tensor_pickle import MAX_DEPTH, RefusedError, check_tree, is_too_deep
from torchfit._serialization.zip_files import append_checksum, iter_zip

PROTOCOL = b"\x80\x02"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file"


def write_pickle(path, data, storages=()):
    parts = [("archive/data.pkl", data), ("archive/byteorder", b"little")]
    parts += [(f"archive/data/{number}", storage) for number, storage in enumerate(storages)]
    path.write_bytes(b"".join(append_checksum(iter_zip(parts))))


def refusal(path):
    with pytest.raises(ValueError, match=r"refused|damaged") as caught:
        archive.read(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def shared_lists(levels):
    shared: list[Any] = [1]
    for _ in range(levels):
        shared = [shared, shared]
    return shared


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}])
@pytest.mark.parametrize("beside", [None, torch.eye(2).to_sparse()], ids=["", "beside what torch reads"])
def test_lists_that_are_shared_again_and_again(path, options, beside):
    torch.save([shared_lists(60), beside], path, **options)
    assert "repeats itself too often" in refusal(path)


def test_what_is_shared_within_reason_is_read(path):
    torch.save({"groups": [{"betas": (0.9, 0.99)}] * 1000, "lists": shared_lists(10)}, path)
    assert archive.read(path)["lists"] == shared_lists(10)


def test_lists_in_lists(path):
    write_pickle(path, PROTOCOL + b"]" * 100_000 + b"a" * 99_999 + b".")
    assert "nested too deeply" in refusal(path)


def nested_lists(depth):
    content = []
    for _ in range(depth):
        content = [content]
    return content


class Written:
    def chunks(self):
        return iter([b"all"])


def test_as_deep_as_the_writer_can(path):
    archive.prepare_write(path, nested_lists(250))()
    assert archive.read(path) == nested_lists(250)


@pytest.mark.parametrize("write", [archive.write, archive.prepare_write])
def test_deeper_than_the_writer_can(path, write):
    with pytest.raises(TypeError, match="nested too deeply for a file"):
        write(path, nested_lists(MAX_DEPTH))


@pytest.mark.parametrize("depth", [999, 1000, 3000])
def test_what_is_written_can_be_read_however_deep_pickle_goes(path, depth, monkeypatch):
    """Pickle goes deeper from Python 3.12 on; here it writes nothing, so that all versions are tested."""
    monkeypatch.setattr(archive, "TensorPickle", lambda content: Written())
    if depth < MAX_DEPTH:
        archive.write(path, nested_lists(depth))
    else:
        with pytest.raises(TypeError, match="nested too deeply for a file"):
            archive.write(path, nested_lists(depth))


@pytest.mark.parametrize("write", [archive.write, archive.prepare_write])
def test_what_contains_itself_is_not_written(path, write):
    content = {"a": []}
    content["a"].append((content,))
    with pytest.raises(TypeError, match="or contains itself"):
        write(path, content)
    assert not path.exists()


@pytest.mark.parametrize("write", [archive.write, archive.prepare_write])
def test_a_tensor_alone_has_no_depth(path, write):
    (write(path, torch.ones(())) or bool)()
    assert archive.read(path) == 1


def test_what_is_shared_is_looked_at_once_on_each_level():
    shared: list[Any] = [0]
    for _ in range(40):
        shared = [shared, shared]
    assert not is_too_deep(shared)


def test_a_list_that_contains_itself(path):
    write_pickle(path, PROTOCOL + b"]q\0h\0a.")
    assert "contains itself" in refusal(path)


def test_keys_of_one_hash(path):
    number = b"\x8a\x0a"  # an integer of ten bytes
    items = b"".join(number + (n * (2**61 - 1)).to_bytes(10, "little") + b"N" for n in range(1, 50_000))
    write_pickle(path, PROTOCOL + b"}(" + items + b"u.")
    assert "a key of type int" in refusal(path)


@pytest.mark.parametrize("key", [b"]", b"}", b"(]t", b"ccollections\nOrderedDict\n"])
def test_keys_that_are_no_plain_data(path, key):
    write_pickle(path, PROTOCOL + b"}" + key + b"Ns.")
    refusal(path)


BOMBS = {
    "bytearray by its class": b"cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.",
    "bytearray by an instruction": b"\x96" + struct.pack("<Q", 1 << 33) + b".",
    "tensor by its class": b"ctorch\nTensor\nJ\xff\xff\xff\x7f\x85R.",
    "bytes": b"\x8e" + struct.pack("<Q", 1 << 40) + b".",
    "string": b"X" + struct.pack("<L", 1 << 31) + b".",
    "integer": b"\x8b" + struct.pack("<i", 1 << 30) + b".",
    "negative size": b"\x8b" + struct.pack("<i", -50) + b".",
}


@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS)
def test_sizes_without_contents(path, data):
    write_pickle(path, PROTOCOL + data)
    refusal(path)
    path.write_bytes(PROTOCOL + data)
    refusal(path)


def test_memory_for_a_far_memo_is_not_taken(path):
    write_pickle(path, PROTOCOL + b"}r\xff\xff\xff\xff.")
    assert archive.read(path) == {}


def storage(numel, kind=b"ctorch\nFloatStorage\n", key=b"0"):
    """Return the instructions that load a storage, with its number of elements."""
    return b"(X\7\0\0\0storage" + kind + b"X\1\0\0\0" + key + b"X\3\0\0\0cpuJ" + struct.pack("<i", numel) + b"tQ"


def tensor(storage, offset, size, stride):
    """Return the instructions that build a tensor."""
    numbers = [b"(" + b"".join(b"J" + struct.pack("<i", number) for number in row) + b"t" for row in (size, stride)]
    place = b"J" + struct.pack("<i", offset)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + place + b"".join(numbers) + b"\x89NtR"


def test_tensors_are_read_from_instructions(path):
    write_pickle(path, PROTOCOL + tensor(storage(4), 1, [3], [1]) + b".", [struct.pack("<4f", 1, 2, 3, 4)])
    assert archive.read(path).tolist() == [2, 3, 4]


PLACES = {
    "too long": (0, [5], [1]),
    "too far": (2, [3], [1]),
    "with large steps": (0, [3], [2]),
    "negative offset": (-1, [3], [1]),
    "negative size": (0, [-3], [1]),
    "negative stride": (3, [3], [-1]),
    "other number of strides": (0, [2, 2], [1]),
    "expanded": (0, [2**31 - 1, 2**20], [0, 0]),
    "too many axes": (0, [1] * 65, [1] * 65),
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_tensors_that_do_not_fit_into_their_storages(path, place):
    write_pickle(path, PROTOCOL + tensor(storage(4), *place) + b".", [bytes(16)])
    assert "tensor" in refusal(path)


@pytest.mark.parametrize("numel", [3, 5, 2**31 - 1, -1, 0])
def test_storages_of_another_size_than_they_say(path, numel):
    write_pickle(path, PROTOCOL + tensor(storage(numel), 0, [1], [1]) + b".", [bytes(16)])
    refusal(path)


def test_tensors_that_are_expanded_a_little(path):
    torch.save(torch.ones(1).expand(1000), path)
    assert archive.read(path).shape == (1000,)


def test_many_tensors_that_are_expanded_a_lot(path):
    torch.save([torch.ones(1).expand(4_000_000) for _ in range(20)], path)
    assert "much larger than their storages" in refusal(path)


@pytest.mark.parametrize("numel", [4, 2**31 - 1])
def test_files_of_old_versions_that_are_shorter_than_they_say(path, numel):
    torch.save(torch.zeros(3), path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    assert data.count(b"K\3N") == 1
    path.write_bytes(data.replace(b"K\3N", b"J" + struct.pack("<i", numel) + b"N"))
    refusal(path)


def test_compressed_parts(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", pickle.dumps({}, 2))
        file.writestr("archive/data/0", bytes(1 << 24))
    assert "'archive/data.pkl' is compressed or encrypted" in refusal(path)


def overlapping(data):
    """Make the second part of a zip file begin within the first."""
    start = data.index(b"PK\1\2", data.index(b"PK\1\2") + 4)
    return data[: start + 42] + struct.pack("<L", 10) + data[start + 46 :]


def test_parts_that_overlap(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps({}, 2))
        file.writestr("archive/data/0", bytes(100))
    path.write_bytes(overlapping(path.read_bytes()))
    assert "damaged" in refusal(path)


def test_parts_of_one_name(path):
    data = pickle.dumps({}, 2)
    parts = [("archive/data.pkl", data), ("archive/data.pkl", data)]
    path.write_bytes(b"".join(append_checksum(iter_zip(parts))))
    assert "lists other parts than it says" in refusal(path)


@pytest.mark.parametrize("before", [b"", b"something else"])
def test_what_stands_before_a_zip_file(path, before):
    buffer = io.BytesIO()
    torch.save({"a": 1}, buffer)
    path.write_bytes(before + buffer.getvalue())
    assert archive.read(path) == {"a": 1} if not before else refusal(path)


def test_other_zip_files(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/other", b"")
    assert "another kind of zip file" in refusal(path)


def test_names_in_a_refusal_are_escaped(path):
    write_pickle(path, PROTOCOL + "cevil\x1b[31m\u202e\nname\n.".encode())
    assert r"asks for evil\x1b[31m\u202e.name" in refusal(path)


def test_what_the_user_allows_is_left_to_torch(path):
    torch.save({"linear": nn.Linear}, path)
    refusal(path)
    with torch.serialization.safe_globals([nn.Linear]):
        refusal(path)  # It is still no plain data.


@pytest.mark.parametrize("content", [{}, [], (), None, 1, "text", {"a": [1, (2.5, {3: b""})]}, torch.zeros(1)])
def test_trees_of_plain_data(content):
    check_tree(content, limit=20)


@pytest.mark.parametrize("content", [object(), [object()], {"a": print}, (int,)])
def test_trees_of_other_things(content):
    with pytest.raises(RefusedError, match="neither a tensor nor plain data"):
        check_tree(content, limit=20)


def test_a_tree_may_have_so_many_nodes_and_no_more():
    content = [[1, 2], [3, 4]]
    check_tree(content, limit=7)
    with pytest.raises(RefusedError):
        check_tree(content, limit=6)


def test_large_files_of_another_kind_are_not_read(path):
    with open(path, "wb") as file:
        file.truncate(1 << 28)
    tracemalloc.start()
    try:
        assert "does not start as a file of torch does" in refusal(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
