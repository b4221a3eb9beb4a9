"""Reads and writes files of tensors and plain data, in the format of `torch.save` with a checksum.

`torch.load` ignores the checksum. Files written by torch have none. The README of this package describes the format.
"""

import hashlib
import io
import os
import re
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from torchfit._serialization.files import PathLike, open_read, resolve_target, write_atomically, write_target
from torchfit._serialization.tensor_pickle import (
    RefusedError,
    SingleStoragePickle,
    TensorPickle,
    UnsupportedContentError,
    bytes_of,
    is_too_deep,
    new_storage,
    unshare_storages,
)
from torchfit._serialization.tensor_unpickler import TensorUnpickler
from torchfit._serialization.zip_files import (
    CHECKSUM_TAG,
    COMMENT_SIZE,
    END_SIGNATURE,
    END_SIZE,
    Chunk,
    InvalidZipError,
    Part,
    append_checksum,
    check_contents,
    read_contents,
    read_directory,
)
from torchfit._utils import tree
from torchfit._utils.compat import module_versions
from torchfit._utils.errors import describe, printable

ByteRange = tuple[int, int]

_LEGACY_TAG = b"torchfit sha256 "
_LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the pickle of torch's magic number
_LEGACY_VERSION = 1001
_SCALAR_TYPES = (bool, int, float, str, bytes, type(None), torch.dtype)
_CHUNK = 1 << 20
_SMALL = 1 << 24  # bytes: up to this size, a snapshot is a single storage


def write(path: PathLike, content: object) -> None:
    """Write tensors and plain data, nested in dictionaries, lists and tuples, atomically.

    Raises:
        TypeError: If `content` contains anything but tensors and plain data; the message says where.
        OSError: If the file cannot be written; the message names it.
    """
    write_atomically(path, append_checksum(_to_pickle(content).chunks()))


def prepare_write(path: PathLike, content: object) -> Callable[[], None]:
    """Snapshot `content` and return a callable that writes the snapshot, e.g. from another thread.

    After a power failure the previous file may be restored.

    Raises:
        TypeError: If `content` contains anything but tensors and plain data; the message says where.
    """
    return partial(write_target, resolve_target(path), append_checksum(_snapshot(content).chunks()), durable=False)


def read(path: PathLike) -> Any:
    """Read a file that `write` or `torch.save` wrote, with all tensors on the CPU. No code in the file is ever run.

    Tensors of unusual kinds are left to `torch.load(weights_only=True)`, with the classes that the user allowed torch.
    The content is a tree of tensors and plain data, whose size and depth are bounded by the size of the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, or contains anything but tensors and plain data; the message names it.
    """
    name = os.fspath(path)
    with open_read(path) as file:
        try:
            found = _read_content(file)
            return _load_with_torch(file) if found.needs_torch else found.content
        except InvalidZipError as error:
            raise ValueError(f"The file {name!r} is damaged: {error}. Take another copy of it.") from None
        except (OSError, MemoryError):
            raise
        except RefusedError as error:
            raise ValueError(_refusal(name, str(error), error.asked_for)) from None
        except Exception as error:
            raise ValueError(_refusal(name, str(error))) from None


def to_host(content: object, copy: bool = False) -> Any:
    """Return the same structure with all tensors in host memory; tensors that share memory still do.

    Args:
        content: Dictionaries, lists and tuples of tensors and plain data.
        copy: Whether to copy tensors that are in host memory already, so that later changes have no effect.

    Raises:
        TypeError: If the content contains anything but tensors and plain data; the message says where.

    >>> to_host({"a": [torch.zeros(1), 2]})
    {'a': [tensor([0.]), 2]}
    """
    return _HostCopier(copy).copy(content, "")


class _HostCopier:
    """Copies tensors to host memory; remembers storages, so that shared ones stay shared."""

    def __init__(self, copy: bool) -> None:
        self._copy = copy
        self._copies: dict[tuple[str, int], tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def copy(self, value: object, place: str) -> Any:
        if isinstance(value, Tensor):
            return self._tensor(value, place)
        if type(value) in _SCALAR_TYPES:
            return value
        if isinstance(value, dict):
            return self._mapping(value, place)
        if isinstance(value, (list, tuple)):
            parts = [self.copy(part, f"{place}[{number}]") for number, part in enumerate(value)]
            return parts if isinstance(value, list) else tuple(parts)
        if isinstance(value, np.generic):
            return value.item()
        raise TypeError(
            f"A file holds tensors and plain data (numbers, strings, lists, dictionaries) only, so that reading it "
            f"never runs code. Received at {place or 'the top'}: {describe(value)}."
        )

    def _mapping(self, value: dict[object, object], place: str) -> dict[object, object]:
        kind = OrderedDict if isinstance(value, OrderedDict) else dict
        result = kind((self.copy(key, place), self.copy(part, f"{place}[{key!r}]")) for key, part in value.items())
        if module_versions(value) is not None:
            vars(result)["_metadata"] = module_versions(value)
        return result

    def _tensor(self, value: Tensor, place: str) -> Tensor:
        if value.device.type == "meta" or is_lazy(value):
            kind = "of a lazy layer that saw no data yet" if is_lazy(value) else "on the meta device"
            raise TypeError(f"A tensor {kind} has no values that could be saved. Received at {place}.")
        if not self._copy and value.device.type == "cpu" and value.layout is torch.strided:
            return value.detach().as_subclass(Tensor)
        if value.layout is not torch.strided or value.is_conj() or value.is_neg() or value.is_quantized:
            return value.detach().cpu().clone()
        storage = self._storage(value.untyped_storage())
        blank = torch.empty(0, dtype=value.dtype)
        return blank.set_(storage, value.storage_offset(), value.size(), value.stride())

    def _storage(self, storage: Any) -> Any:
        key = (str(storage.device), storage.data_ptr())
        if not storage.nbytes() or key not in self._copies:
            # The original is kept alive, so that no other storage can get its address.
            self._copies[key] = storage, storage.clone() if storage.device.type == "cpu" else storage.cpu()
        return self._copies[key][1]


class _TorchSaved:
    """An in-memory file written by `torch.save`."""

    def __init__(self, content: object) -> None:
        file = io.BytesIO()
        torch.save(content, file)
        self._file = file

    def copy(self) -> None:
        """Do nothing: the file is a copy already."""

    def chunks(self) -> Iterator[Chunk]:
        """Yield the bytes of the file, without the comment at its end; every second chunk is the contents of a part."""
        whole, end = self._file.getbuffer(), 0
        for part in read_directory(self._file, comment_size=0):
            stop = part.offset + part.size
            yield from (whole[end : part.offset], whole[part.offset : stop])
            end = stop
        yield bytes(whole[end:-2]) + COMMENT_SIZE.to_bytes(2, "little")


def _to_pickle(content: object) -> TensorPickle | _TorchSaved:
    with _limited_depth(content):
        try:
            return TensorPickle(content)
        except UnsupportedContentError:
            return _TorchSaved(to_host(content))


def _snapshot(content: object) -> SingleStoragePickle | TensorPickle | _TorchSaved:
    with _limited_depth(content):
        try:
            return SingleStoragePickle(content, _SMALL)
        except UnsupportedContentError:
            pass
    pickled = _to_pickle(content)
    pickled.copy()
    return pickled


@contextmanager
def _limited_depth(content: object) -> Iterator[None]:
    """Refuse what readers would refuse, and what this Python cannot pickle: up to 3.11 that is a third of it."""
    try:
        if is_too_deep(content):
            raise RecursionError
        yield
    except RecursionError:
        raise TypeError("The content is nested too deeply for a file, or contains itself.") from None


class _Content(NamedTuple):
    """The content of a file."""

    content: object
    needs_torch: bool
    """Whether only `torch.load` can read the file."""


def _read_content(file: BinaryIO) -> _Content:
    """Verify the checksums of a file, and read it."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - END_SIZE - COMMENT_SIZE, 0))
    tail = file.read()
    tag = tail[END_SIZE:-64] if tail.startswith(END_SIGNATURE) else b""
    if tag in (CHECKSUM_TAG, _LEGACY_TAG):
        parts = read_directory(file, COMMENT_SIZE)
        ranges = [(part.offset, part.size) for part in parts] if tag == CHECKSUM_TAG else []
        if _checksum(file, size - 64, ranges) != tail[-64:]:
            raise InvalidZipError("its checksum does not match its contents")
        return _read_zip(file, parts)
    if tail[-END_SIZE:].startswith(END_SIGNATURE) and tail.endswith(b"\0\0"):
        return _read_zip(file, read_directory(file, 0))
    file.seek(0)
    start = file.read(len(_LEGACY_START))
    if start.startswith(b"PK"):
        raise InvalidZipError("it ends too early, or its end was changed")
    if start != _LEGACY_START:
        raise RefusedError("it does not start as a file of torch does")
    file.seek(0)
    return _read_legacy(file.read())


def _read_zip(file: BinaryIO, parts: list[Part]) -> _Content:
    """Read the parts of a zip file, each once."""
    folder = parts[0].name.partition("/")[0] if parts else ""
    left = {part.name: part for part in parts}
    if f"{folder}/data.pkl" not in left:
        raise RefusedError("it is another kind of zip file")
    storages: dict[str, torch.UntypedStorage] = {}

    def load_storage(key: str, numel: int, dtype: torch.dtype) -> torch.UntypedStorage:
        if key not in storages:
            part = left.pop(f"{folder}/data/{key}", None)
            if part is None:
                raise RefusedError("it lacks the values of a tensor")
            storages[key] = new_storage(part.size)
            if part.size:
                read_contents(file, part, bytes_of(storages[key], writable=True))
        if storages[key].nbytes() != numel * dtype.itemsize:
            raise RefusedError("it has a tensor of another size than it says")
        return storages[key]

    unpickler = TensorUnpickler(_read_part(file, left.pop(f"{folder}/data.pkl")), load_storage)
    content = unpickler.load()
    order = left.pop(f"{folder}/byteorder", None)
    for part in left.values():
        check_contents(file, part)
    is_swapped = order is not None and _read_part(file, order) != sys.byteorder.encode()
    unshare_storages(unpickler.tensors)
    return _Content(content, unpickler.needs_torch or is_swapped)


def _read_part(file: BinaryIO, part: Part) -> bytes:
    data = bytearray(part.size)
    read_contents(file, part, memoryview(data))
    return bytes(data)


def _read_legacy(data: bytes) -> _Content:
    """Read a file of torch before 1.6: pickles, of which the last lists the storages, followed by their bytes."""
    storages: dict[str, tuple[torch.UntypedStorage, int]] = {}
    total = 0

    def load_storage(key: str, numel: int, dtype: torch.dtype) -> torch.UntypedStorage:
        nonlocal total
        if key not in storages:
            total += numel * dtype.itemsize
            if total > len(data):
                raise RefusedError("it is shorter than it says")
            storages[key] = new_storage(numel * dtype.itemsize), numel
        if storages[key][0].nbytes() != numel * dtype.itemsize:
            raise RefusedError("it has a tensor of another size than it says")
        return storages[key][0]

    unpicklers: list[TensorUnpickler] = []
    contents: list[Any] = []
    for _ in range(5):  # a magic number, the version, the machine, the content, the keys of the storages
        unpicklers.append(TensorUnpickler(data, load_storage, unpicklers[-1].position if unpicklers else 0))
        contents.append(unpicklers[-1].load())
    _, version, machine, content, keys = contents
    if unpicklers[3].needs_torch or not machine["little_endian"] or sys.byteorder != "little":
        return _Content(None, needs_torch=True)
    if version != _LEGACY_VERSION or sorted(keys) != sorted(storages):
        raise RefusedError("it has other storages than it says")
    _fill(data, unpicklers[-1].position, [storages[key] for key in keys])
    unshare_storages(unpicklers[3].tensors)
    return _Content(content, needs_torch=False)


def _fill(data: bytes, position: int, storages: Iterable[tuple[torch.UntypedStorage, int]]) -> None:
    """Copy the bytes of storages, each preceded by its number of elements."""
    for storage, numel in storages:
        start, size = position + 8, storage.nbytes()
        position = start + size
        if position > len(data) or int.from_bytes(data[start - 8 : start], "little") != numel:
            raise RefusedError("it is shorter than it says, or damaged")
        if size:
            bytes_of(storage, writable=True)[:] = data[start:position]


def _checksum(file: BinaryIO, size: int, ranges: Iterable[ByteRange]) -> bytes:
    """Return the SHA-256 of the first `size` bytes of a file, without some ranges."""
    total = hashlib.sha256()
    start = 0
    for stop, length in (*ranges, (size, 0)):
        file.seek(start)
        for position in range(start, stop, _CHUNK):
            total.update(file.read(min(stop - position, _CHUNK)))
        start = stop + length
    return total.hexdigest().encode()


def _load_with_torch(file: BinaryIO) -> Any:
    """Read a file with `torch.load`, after checking it: it has tensors that only torch can build."""
    file.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns before it raises an error
        content = torch.load(file, map_location="cpu", weights_only=True)
    tensors = [leaf for leaf in tree.leaves(content) if isinstance(leaf, Tensor) and leaf.layout is torch.strided]
    unshare_storages(tensors)
    return content


def _refusal(name: str, reason: str, asked_for: str | None = None) -> str:
    match = re.search(r"GLOBAL ([\w.<>]+)", reason)
    asked_for = asked_for or (match[1] if match else None)
    if asked_for is not None:
        return (
            f"The file {name!r} was refused: it asks for {printable(asked_for)}, which is neither a tensor nor plain "
            "data, and reading it could run code. Nothing was run. If you trust its origin and it is a module that was "
            "written whole, read it with torch.load(path, weights_only=False) and save its state_dict() instead."
        )
    detail = reason.partition("WeightsUnpickler error:")[2] or reason
    line = next((line.strip() for line in detail.splitlines() if line.strip()), "it ends too early")
    return f"The file {name!r} was refused: it is not a file of tensors and plain data, or damaged ({printable(line)})."
