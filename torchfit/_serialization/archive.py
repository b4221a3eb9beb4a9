"""Files of tensors and plain data: the format of `torch.save` with a checksum, read without running code.

`torch.load` ignores the checksum. Files written by torch have none. The README of this package describes the format.
"""

import errno
import hashlib
import io
import os
import re
import struct
import warnings
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, BinaryIO, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from torchfit._serialization.files import PathLike, open_read, resolve_target, write_atomically, write_target
from torchfit._serialization.storages import unshare_storages
from torchfit._serialization.tensor_pickle import SingleStoragePickle, TensorPickle, UnsupportedContentError
from torchfit._serialization.zip_writer import CHECKSUM_TAG, COMMENT_SIZE, append_checksum
from torchfit._utils import tree
from torchfit._utils.errors import describe

ByteRange = tuple[int, int]
T = TypeVar("T")

_END = b"PK\x05\x06"  # starts the end record of a zip file: 22 bytes, then the comment
_END_SIZE = 22
_LEGACY_TAG = b"torchfit sha256 "
_SCALAR_TYPES = (bool, int, float, str, bytes, type(None), torch.dtype)
_CHUNK = 1 << 20
_SMALL = 1 << 24  # bytes: up to this size, a snapshot is a single storage
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, ValueError)


def write(path: PathLike, content: Any) -> None:
    """Write tensors and plain data, nested in dictionaries, lists and tuples, atomically.

    Raises:
        TypeError: Something in `content` is neither a tensor nor plain data; it is named.
        OSError: The file cannot be written; it is named.
    """
    write_atomically(path, append_checksum(_to_pickle(content).chunks()))


def prepare_write(path: PathLike, content: Any) -> Callable[[], None]:
    """Snapshot `content` and return a callable that writes the snapshot, e.g. from another thread.

    After a power failure the previous file may be restored.

    Raises:
        TypeError: Something in `content` is neither a tensor nor plain data; it is named.
    """
    return partial(write_target, resolve_target(path), append_checksum(_snapshot(content).chunks()), durable=False)


def read(path: PathLike) -> Any:
    """Read a file of `write` or `torch.save`, tensors onto the CPU. No code in the file is ever run.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, or holds more than tensors and plain data; it is named.
    """
    with open_read(path) as file:
        _check(path, file)
        file.seek(0)
        content = _load(path, file)
    unshare_storages(leaf for leaf in tree.leaves(content) if isinstance(leaf, Tensor) and leaf.layout is torch.strided)
    return content


def to_host(content: Any, copy: bool = False) -> Any:
    """Return the same structure with all tensors in host memory; tensors that share memory still do.

    Args:
        content: Dictionaries, lists and tuples of tensors and plain data.
        copy: Whether to copy what is in host memory already, so that later changes have no effect.

    Raises:
        TypeError: Something is neither a tensor nor plain data; it is named.

    >>> to_host({"a": [torch.zeros(1), 2]})
    {'a': [tensor([0.]), 2]}
    """
    return _HostCopier(copy).copy(content, "")


class _HostCopier:
    """Copies tensors to host memory; remembers storages, so that shared ones stay shared."""

    def __init__(self, copy: bool) -> None:
        self._copy = copy
        self._copies: dict[tuple[str, int], tuple[Any, Any]] = {}

    def copy(self, value: Any, place: str) -> Any:
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

    def _mapping(self, value: dict[Any, Any], place: str) -> dict[Any, Any]:
        kind = OrderedDict if isinstance(value, OrderedDict) else dict
        result = kind((self.copy(key, place), self.copy(part, f"{place}[{key!r}]")) for key, part in value.items())
        if hasattr(value, "_metadata"):  # the versions of the modules, which torch keeps on a state_dict
            vars(result)["_metadata"] = value._metadata
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
            # The original is kept alive, so that no other storage gets its address.
            self._copies[key] = storage, storage.clone() if storage.device.type == "cpu" else storage.cpu()
        return self._copies[key][1]


class _TorchSaved:
    """A file that `torch.save` wrote, in memory."""

    def __init__(self, content: Any) -> None:
        file = io.BytesIO()
        torch.save(content, file)
        self._file = file

    def copy(self) -> None:
        """Do nothing: the file is a copy already."""

    def chunks(self) -> Iterator[Any]:
        """Yield the bytes of the file, without the comment at its end; every second chunk is the contents of a part."""
        whole, end = self._file.getbuffer(), 0
        with zipfile.ZipFile(self._file) as parts:
            ranges = _content_ranges(parts)
        for start, size in ranges:
            yield from (whole[end:start], whole[start : start + size])
            end = start + size
        yield bytes(whole[end:-2]) + COMMENT_SIZE.to_bytes(2, "little")


def _to_pickle(content: Any) -> TensorPickle | _TorchSaved:
    try:
        return TensorPickle(content)
    except UnsupportedContentError:
        return _TorchSaved(to_host(content))


def _snapshot(content: Any) -> SingleStoragePickle | TensorPickle | _TorchSaved:
    try:
        return SingleStoragePickle(content, _SMALL)
    except UnsupportedContentError:
        packed = _to_pickle(content)
        packed.copy()
        return packed


def _check(path: PathLike, file: BinaryIO) -> None:
    """Raise unless the file is intact. A file that is no zip file is left to torch."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - _END_SIZE - COMMENT_SIZE, 0))
    tail = file.read()
    tag = tail[_END_SIZE:-64]
    if tail.startswith(_END) and tag in (CHECKSUM_TAG, _LEGACY_TAG):
        ranges = _read_as_zip(path, file, _content_ranges) if tag == CHECKSUM_TAG else []
        if _checksum(file, size - 64, ranges) != tail[-64:]:
            raise _damaged(path, "its checksum does not match its contents")
        if tag == CHECKSUM_TAG:
            _check_parts(path, file)
    elif tail[-_END_SIZE:].startswith(_END) and tail.endswith(b"\0\0"):
        _check_parts(path, file)
    else:
        file.seek(0)
        if file.read(2) == b"PK":
            raise _damaged(path, "it ends too early, or its end was changed")


def _checksum(file: BinaryIO, size: int, ranges: Iterable[ByteRange]) -> bytes:
    """Return the SHA-256 of the first `size` bytes of a file, without some ranges."""
    total = hashlib.sha256()
    start = 0
    for stop, length in (*ranges, (size, 0)):
        if stop < start:
            return b""
        file.seek(start)
        for position in range(start, stop, _CHUNK):
            total.update(file.read(min(stop - position, _CHUNK)))
        start = stop + length
    return total.hexdigest().encode()


def _check_parts(path: PathLike, file: BinaryIO) -> None:
    """Raise unless the contents of the parts match their checksums."""
    broken = _read_as_zip(path, file, zipfile.ZipFile.testzip)
    if broken is not None:
        raise _damaged(path, f"the checksum of its part {broken!r} does not match")


def _read_as_zip(path: PathLike, file: BinaryIO, look: Callable[[zipfile.ZipFile], T]) -> T:
    """Return what `look` returns; name the file if it is damaged."""
    try:
        with zipfile.ZipFile(file) as parts:
            return look(parts)
    except (*_ZIP_ERRORS, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise _damaged(path, str(error)) from error


def _content_ranges(parts: zipfile.ZipFile) -> list[ByteRange]:
    """Return where the contents of the parts are: after their headers, which end with a name and an extra field."""
    ranges = []
    for part in sorted(parts.infolist(), key=lambda part: part.header_offset):
        file: Any = parts.fp
        file.seek(part.header_offset + 26)
        name_size, more_size = struct.unpack("<2H", file.read(4))
        ranges.append((part.header_offset + 30 + name_size + more_size, part.compress_size))
    return ranges


def _damaged(path: PathLike, why: str) -> ValueError:
    return ValueError(f"The file {os.fspath(path)!r} is damaged: {why}. Take another copy of it.")


def _load(path: PathLike, file: BinaryIO) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about what it then refuses
            return torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(_refusal(os.fspath(path), str(error))) from None


def _refusal(path: str, reason: str) -> str:
    asked_for = re.search(r"GLOBAL ([\w.<>]+)", reason)
    if asked_for:
        return (
            f"The file {path!r} was refused: it asks for {asked_for[1]}, which is neither a tensor nor plain data, and "
            "reading it could run code. Nothing was run. If you trust its origin and it is a module that was written "
            "whole, read it with torch.load(path, weights_only=False) and save its state_dict() instead."
        )
    detail = reason.partition("WeightsUnpickler error:")[2] or reason
    first_line = next((line.strip() for line in detail.splitlines() if line.strip()), "it is empty")
    return f"The file {path!r} was refused: it is no file of tensors and plain data, or damaged ({first_line[:200]})."
