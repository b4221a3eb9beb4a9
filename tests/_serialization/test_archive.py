import hashlib
import os
import pickle
import zipfile
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.support import Evil
from torchfit._serialization import archive, files
from torchfit._serialization.zip_files import append_checksum

CONTENT = {"values": torch.arange(5.0), "nested": [1, (2.5, None, True)], 3: "text"}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "archive"


def test_round_trip(path):
    archive.write(path, CONTENT)
    found = archive.read(path)
    assert found["values"].tolist() == [0, 1, 2, 3, 4]
    assert (found["nested"], found[3]) == ([1, (2.5, None, True)], "text")


def test_torch_reads_it(path):
    archive.write(path, CONTENT)
    assert torch.load(path)["nested"] == CONTENT["nested"]


def test_reads_what_torch_wrote(path):
    torch.save(CONTENT, path)
    assert archive.read(path)["nested"] == CONTENT["nested"]


def test_remote(path):
    archive.write("memory://archive", CONTENT)
    assert archive.read("memory://archive")[3] == "text"


def test_shared_memory_stays_shared(path):
    whole = torch.arange(6.0)
    archive.write(path, archive.to_host([whole, whole[2:4]], copy=True))
    whole, part = archive.read(path)
    part.zero_()
    assert whole.tolist() == [0, 1, 0, 0, 4, 5]


def test_copies_do_not_follow_the_original():
    original = torch.zeros(2)
    copy = archive.to_host(original, copy=True)
    original.add_(1)
    assert copy.tolist() == [0, 0]


def test_versions_of_layers_are_kept(path):
    archive.write(path, nn.BatchNorm1d(2).state_dict())
    assert archive.read(path)._metadata == {"": {"version": 2}}


@pytest.mark.parametrize("value", [np.zeros(2), {1, 2}, Evil("nothing"), print])
def test_only_plain_data_is_written(path, value):
    with pytest.raises(TypeError, match=r"Received at \['outer'\]\[0\]"):
        archive.write(path, {"outer": [value]})
    assert not path.exists()


def refused(path):
    with pytest.raises(ValueError, match=r"damaged|refused") as caught:
        archive.read(path)
    return str(path) in str(caught.value)


def test_every_flipped_bit_is_noticed(path):
    archive.write(path, {"values": torch.arange(5.0)})
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        changed = bytearray(whole)
        changed[position] ^= 1 << position % 8
        path.write_bytes(changed)
        assert refused(path), position


def test_every_flipped_bit_of_the_end_is_noticed(path):
    archive.write(path, {"values": torch.arange(5.0)})
    whole = path.read_bytes()
    for position in range(len(whole) - 120, len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 1
        path.write_bytes(changed)
        assert refused(path), position


def test_truncated_files_are_refused(path):
    archive.write(path, {"values": torch.arange(5.0)})
    whole = path.read_bytes()
    for size in [0, 1, 2, *range(3, len(whole), 41), len(whole) - 1]:
        path.write_bytes(whole[:size])
        assert refused(path), size


def test_damage_in_files_of_torch_is_noticed(path):
    torch.save({"values": torch.full((1000,), 0.5)}, path)
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)
    assert refused(path)


def save_zip(value, path):
    torch.save({"a": value}, path)


def save_legacy(value, path):
    torch.save({"a": value}, path, _use_new_zipfile_serialization=False)


def save_pickle(value, path):
    path.write_bytes(pickle.dumps(value))


def save_sealed(value, path):
    files.write_atomically(path, append_checksum(archive._TorchSaved({"a": value}).chunks()))


@pytest.mark.parametrize("save", [save_zip, save_legacy, save_pickle, save_sealed])
def test_malicious_files_run_nothing(path, tmp_path, save):
    witness = tmp_path / "witness"
    save(Evil(witness), path)
    assert refused(path)
    assert not witness.exists()


def test_the_refusal_names_what_was_asked_for(path, tmp_path):
    save_sealed(Evil(tmp_path / "witness"), path)
    with pytest.raises(ValueError, match=r"asks for (posix|nt)\.system"):
        archive.read(path)


def test_modules_that_were_pickled_whole_are_refused(path):
    torch.save(nn.Linear(1, 1), path)
    with pytest.raises(ValueError, match=r"asks for torch\.nn\.modules\.linear\.Linear"):
        archive.read(path)


def test_a_variable_cannot_turn_safety_off(path, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    save_zip(Evil(tmp_path / "witness"), path)
    assert refused(path)
    assert not (tmp_path / "witness").exists()


def test_a_missing_file_is_named(path):
    with pytest.raises(FileNotFoundError, match=str(path)):
        archive.read(path)


@pytest.mark.parametrize("unusual", [torch.zeros(2, dtype=torch.complex64), torch.eye(2).to_sparse()])
def test_every_flipped_bit_of_what_torch_wrote_for_us_is_noticed(path, unusual):
    archive.write(path, {"values": torch.arange(5.0), "unusual": unusual})
    whole = path.read_bytes()
    assert torch.equal(archive.read(path)["unusual"].to_dense(), unusual.to_dense())
    for position in range(0, len(whole), 7):
        changed = bytearray(whole)
        changed[position] ^= 1 << position % 8
        path.write_bytes(changed)
        assert refused(path), position


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
@pytest.mark.parametrize("small", [0, 2**24])
def test_what_is_written_later_does_not_follow_the_original(path, dtype, small, monkeypatch):
    monkeypatch.setattr(archive, "_SMALL", small)
    values = torch.zeros(3, dtype=dtype)
    finish = archive.prepare_write(path, {"values": values})
    values.add_(1)
    assert not path.exists()
    finish()
    assert archive.read(path)["values"].tolist() == [0, 0, 0]
    assert os.listdir(path.parent) == [path.name]


def write_at_once(path, content):
    archive.prepare_write(path, content)()


writes = pytest.mark.parametrize("write", [archive.write, write_at_once])


@writes
def test_plain_tensors_need_no_help_of_torch(path, monkeypatch, write):
    monkeypatch.setattr(torch, "save", None)
    kinds = (
        torch.float64,
        torch.bfloat16,
        torch.float16,
        torch.int64,
        torch.int32,
        torch.int8,
        torch.uint8,
        torch.bool,
    )
    content: dict[str, Any] = {
        "kinds": [torch.ones(2, dtype=kind) for kind in kinds],
        "column": torch.eye(3)[:, 1],
        "empty": torch.ones(0),
    }
    write(path, {**content, "parameter": nn.Parameter(torch.ones(1)), "bytes": b"some", "dtype": torch.int8})
    found = archive.read(path)
    assert all(torch.equal(*pair) for pair in zip(found["kinds"], content["kinds"], strict=True))
    assert (found["column"].tolist(), found["column"].stride(), len(found["empty"])) == ([0, 1, 0], (3,), 0)
    assert (found["bytes"], found["dtype"], found["parameter"].requires_grad) == (b"some", torch.int8, False)


@writes
def test_it_is_a_zip_file_that_may_be_mapped_to_memory(path, write):
    write(path, {"first": torch.ones(3, dtype=torch.int8), "second": torch.arange(5.0)})
    with zipfile.ZipFile(path) as parts:
        assert parts.testzip() is None
        assert parts.namelist()[:2] == ["archive/data.pkl", "archive/byteorder"]
    mapped = torch.load(path, mmap=True)["second"]
    assert (mapped.tolist(), mapped.data_ptr() % 64) == ([0, 1, 2, 3, 4], 0)


@pytest.mark.parametrize("safely", [True, False])
def test_torch_reads_what_was_written_later(path, safely):
    content = {"first": torch.ones(3, dtype=torch.int8), "second": [torch.arange(5.0), 7], "bytes": b"some"}
    write_at_once(path, content)
    found = torch.load(path, weights_only=safely)
    assert (found["first"].tolist(), found["second"][0].tolist()) == ([1, 1, 1], [0, 1, 2, 3, 4])
    assert (found["second"][1], found["bytes"]) == (7, b"some")


def test_nothing_but_plain_data_is_written_later(path):
    write_at_once(path, {"values": 2**80, "none": None, "nest": (1.5, ["text", {"deep": ()}])})
    assert archive.read(path) == {"values": 2**80, "none": None, "nest": (1.5, ["text", {"deep": ()}])}


def test_what_shares_memory_shares_it_still_and_nothing_else_does(path):
    base = torch.arange(12.0)
    ones = torch.ones(5)
    write_at_once(path, {"base": base, "part": base[2:4], "rows": base.view(3, 4).t(), "other": ones, "again": ones})
    found = archive.read(path)
    found["base"][2] = 50
    assert found.pop("again") is found["other"]
    assert (found["part"].tolist(), found["rows"][2, 0].item(), found["other"].tolist()) == ([50, 3], 50, [1] * 5)
    sizes = {name: tensor.untyped_storage().nbytes() for name, tensor in found.items()}
    assert sizes == {"base": 48, "part": 48, "rows": 48, "other": 20}


def test_parameters_that_torch_wrote_from_one_storage_are_read(path):
    flat = torch.arange(40.0)
    torch.save({"first": nn.Parameter(flat[:20]), "second": nn.Parameter(flat[20:])}, path)
    found = archive.read(path)
    assert (found["first"].tolist(), found["second"].tolist()) == (list(range(20)), list(range(20, 40)))
    assert all(type(parameter) is nn.Parameter and parameter.requires_grad for parameter in found.values())


def test_files_sealed_over_all_their_bytes_are_read(path):
    torch.save(CONTENT, path)
    start = path.read_bytes()[:-2] + (80).to_bytes(2, "little") + b"torchfit sha256 "
    path.write_bytes(start + hashlib.sha256(start).hexdigest().encode())
    assert archive.read(path)[3] == "text"
    changed = bytearray(path.read_bytes())
    changed[100] ^= 1
    path.write_bytes(changed)
    assert refused(path)
