"""Files of tensors and plain data: what `torch.save` writes, sealed with a checksum and read without running code.

`torch.load` does not mind the seal. Files of other origin have none, and those of the first versions of torchfit one
over the contents of their parts as well.
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

Place = tuple[int, int]
T = TypeVar("T")

_END = b"PK\x05\x06"  # begins the last record of a zip file: 22 bytes, then the comment
_END_SIZE = 22
_WHOLE_MARK = b"torchfit sha256 "
_ATOMS = (bool, int, float, str, bytes, type(None), torch.dtype)
_CHUNK = 1 << 20
_SMALL = 1 << 24  # bytes: of that little, the tensors are put together at once
_ASTRAY = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, ValueError)


def write(path: PathLike, content: Any) -> None:
    """Write tensors and plain data, nested in dictionaries, lists and tuples, whole or not at all.

    Raises:
        TypeError: Something in `content` is neither a tensor nor plain data; its place is named.
        OSError: The file cannot be written; it is named.
    """
    write_atomically(path, append_checksum(_packed(content).pieces()))


def prepare_write(path: PathLike, content: Any) -> Callable[[], None]:
    """Take down what tensors and plain data hold now, and return what writes it: call it, in a thread.

    A power cut soon afterwards may bring back the file that was there before.

    Raises:
        TypeError: Something in `content` is neither a tensor nor plain data; its place is named.
    """
    return partial(write_target, resolve_target(path), append_checksum(_copied(content).pieces()), lasting=False)


def read(path: PathLike) -> Any:
    """Read what `write` or `torch.save` wrote, tensors onto the CPU. No code that the file brings is run.

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
    """Return the same structure with all tensors in host memory, those that share memory sharing it still.

    Args:
        content: Dictionaries, lists and tuples of tensors and plain data.
        copy: Whether to copy what lies in host memory already, so that training may go on meanwhile.

    Raises:
        TypeError: Something is neither a tensor nor plain data; its place is named.

    >>> to_host({"a": [torch.zeros(1), 2]})
    {'a': [tensor([0.]), 2]}
    """
    return _Host(copy).bring(content, "")


class _Host:
    """Brings tensors to host memory; remembers storages, so that what was shared stays shared."""

    def __init__(self, copy: bool) -> None:
        self._copy = copy
        self._copies: dict[tuple[str, int], tuple[Any, Any]] = {}

    def bring(self, value: Any, place: str) -> Any:
        if isinstance(value, Tensor):
            return self._tensor(value, place)
        if type(value) in _ATOMS:
            return value
        if isinstance(value, dict):
            return self._mapping(value, place)
        if isinstance(value, (list, tuple)):
            parts = [self.bring(part, f"{place}[{number}]") for number, part in enumerate(value)]
            return parts if isinstance(value, list) else tuple(parts)
        if isinstance(value, np.generic):
            return value.item()
        raise TypeError(
            f"A file holds tensors and plain data (numbers, strings, lists, dictionaries) only, so that reading it "
            f"never runs code. Received at {place or 'the top'}: {describe(value)}."
        )

    def _mapping(self, value: dict[Any, Any], place: str) -> dict[Any, Any]:
        kind = OrderedDict if isinstance(value, OrderedDict) else dict
        result = kind((self.bring(key, place), self.bring(part, f"{place}[{key!r}]")) for key, part in value.items())
        if hasattr(value, "_metadata"):  # the versions of the layers, which torch keeps beside a state_dict
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
            # The original is kept as well: its address must not be given to another one meanwhile.
            self._copies[key] = storage, storage.clone() if storage.device.type == "cpu" else storage.cpu()
        return self._copies[key][1]


class _Saved:
    """What torch made a file of, in memory."""

    def __init__(self, content: Any) -> None:
        file = io.BytesIO()
        torch.save(content, file)
        self._file = file

    def copy(self) -> None:
        """Do nothing: it is a copy."""

    def pieces(self) -> Iterator[Any]:
        """Give the bytes of the file, but for the comment at its end."""
        whole, end = self._file.getbuffer(), 0
        with zipfile.ZipFile(self._file) as parts:
            places = _places(parts)
        for start, size in places:
            yield from (whole[end:start], whole[start : start + size])
            end = start + size
        yield bytes(whole[end:-2]) + COMMENT_SIZE.to_bytes(2, "little")


def _packed(content: Any) -> TensorPickle | _Saved:
    try:
        return TensorPickle(content)
    except UnsupportedContentError:
        return _Saved(to_host(content))


def _copied(content: Any) -> SingleStoragePickle | TensorPickle | _Saved:
    try:
        return SingleStoragePickle(content, _SMALL)
    except UnsupportedContentError:
        packed = _packed(content)
        packed.copy()
        return packed


def _check(path: PathLike, file: BinaryIO) -> None:
    """Raise unless the file is whole. What is no zip file at all is left to torch."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - _END_SIZE - COMMENT_SIZE, 0))
    tail = file.read()
    mark = tail[_END_SIZE:-64]
    if tail.startswith(_END) and mark in (CHECKSUM_TAG, _WHOLE_MARK):
        places = _read_as_zip(path, file, _places) if mark == CHECKSUM_TAG else []
        if _checksum(file, size - 64, places) != tail[-64:]:
            raise _damaged(path, "its checksum does not match its contents")
        if mark == CHECKSUM_TAG:
            _check_parts(path, file)
    elif tail[-_END_SIZE:].startswith(_END) and tail.endswith(b"\0\0"):
        _check_parts(path, file)
    else:
        file.seek(0)
        if file.read(2) == b"PK":
            raise _damaged(path, "it ends too early, or its end was changed")


def _checksum(file: BinaryIO, size: int, places: Iterable[Place]) -> bytes:
    """Return the SHA-256 of the first bytes of a file, without those at some places."""
    total = hashlib.sha256()
    start = 0
    for place, length in (*places, (size, 0)):
        if place < start:
            return b""
        file.seek(start)
        for position in range(start, place, _CHUNK):
            total.update(file.read(min(place - position, _CHUNK)))
        start = place + length
    return total.hexdigest().encode()


def _check_parts(path: PathLike, file: BinaryIO) -> None:
    """Raise unless the contents of the parts match their checksums."""
    broken = _read_as_zip(path, file, zipfile.ZipFile.testzip)
    if broken is not None:
        raise _damaged(path, f"the checksum of its part {broken!r} does not match")


def _read_as_zip(path: PathLike, file: BinaryIO, look: Callable[[zipfile.ZipFile], T]) -> T:
    """Return what `look` finds. Where a damaged file leads it astray, the file is named."""
    try:
        with zipfile.ZipFile(file) as parts:
            return look(parts)
    except (*_ASTRAY, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise _damaged(path, str(error)) from error


def _places(parts: zipfile.ZipFile) -> list[Place]:
    """Return where the contents of the parts are: behind their headers, which end with a name and a field more."""
    places = []
    for part in sorted(parts.infolist(), key=lambda part: part.header_offset):
        file: Any = parts.fp
        file.seek(part.header_offset + 26)
        name_size, more_size = struct.unpack("<2H", file.read(4))
        places.append((part.header_offset + 30 + name_size + more_size, part.compress_size))
    return places


def _damaged(path: PathLike, why: str) -> ValueError:
    return ValueError(f"The file {os.fspath(path)!r} is damaged: {why}. Take another copy of it.")


def _load(path: PathLike, file: BinaryIO) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of what it then refuses
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
