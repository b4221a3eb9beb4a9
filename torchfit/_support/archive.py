"""Files of tensors and plain data: what `torch.save` writes, sealed with a checksum and read without running code.

The seal is the comment of the zip file that torch writes: a SHA-256 of everything before it. `torch.load` does not
mind it. Files of other origin have none; their parts are then checked by the checksums of the zip format itself.
"""

import hashlib
import os
import re
import warnings
import zipfile
from collections import OrderedDict
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from torchfit._support.errors import describe
from torchfit._support.files import PathLike, open_read, write_atomically

_END = b"PK\x05\x06"  # begins the last record of a zip file: 22 bytes, then the comment
_END_SIZE = 22
_MARK = b"torchfit sha256 "
_COMMENT_SIZE = len(_MARK) + 64
_ATOMS = (bool, int, float, str, bytes, type(None), torch.dtype)
_CHUNK = 1 << 20


def write(path: PathLike, content: Any) -> None:
    """Write tensors and plain data, nested in dictionaries, lists and tuples, whole or not at all.

    Raises:
        TypeError: Something in `content` is neither a tensor nor plain data; its place is named.
        OSError: The file cannot be written; it is named.
    """
    plain = to_host(content)
    write_atomically(path, lambda file: _save(plain, file))


def read(path: PathLike) -> Any:
    """Read what `write` or `torch.save` wrote, tensors onto the CPU. No code that the file brings is run.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, or holds more than tensors and plain data; it is named.
    """
    with open_read(path) as file:
        _check(path, file)
        file.seek(0)
        return _load(path, file)


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
        if not self._copy and value.device.type == "cpu":
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


class _Sealing:
    """A file for `torch.save` to write to, which counts up the checksum of what passes through it.

    The last two bytes, the length of the zip file's comment, are held back until `seal`.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._sum = hashlib.sha256()
        self._held = b""
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        size = len(data)
        if size < 2:
            data = self._held + bytes(data)
        else:
            self._pass_on(self._held)
        cut = max(len(data) - 2, 0)
        view = memoryview(data)
        self._pass_on(view[:cut])
        self._held = bytes(view[cut:])
        return size

    def flush(self) -> None:
        """Do nothing: the file is flushed when it is complete."""

    def seal(self) -> None:
        self._pass_on(_COMMENT_SIZE.to_bytes(2, "little") + _MARK)
        self._file.write(self._sum.hexdigest().encode())

    def _pass_on(self, data: Any) -> None:
        self._sum.update(data)
        try:
            self._file.write(data)
        except OSError as error:
            self.error = error
            raise


def _save(content: Any, file: BinaryIO) -> None:
    sealing = _Sealing(file)
    try:
        torch.save(content, sealing)  # type: ignore[arg-type]
    except Exception as error:
        # torch tells a full disk as an internal error of its own.
        raise (sealing.error or error) from None
    sealing.seal()


def _check(path: PathLike, file: BinaryIO) -> None:
    """Raise unless the file is whole. What is no zip file at all is left to torch."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - _END_SIZE - _COMMENT_SIZE, 0))
    tail = file.read()
    if tail.startswith(_END) and tail[_END_SIZE:].startswith(_MARK):
        if _checksum(file, size - 64) != tail[-64:]:
            raise _damaged(path, "its checksum does not match its contents")
    elif tail[-_END_SIZE:].startswith(_END) and tail.endswith(b"\0\0"):
        _check_parts(path, file)
    else:
        file.seek(0)
        if file.read(2) == b"PK":
            raise _damaged(path, "it ends too early, or its end was changed")


def _checksum(file: BinaryIO, size: int) -> bytes:
    total = hashlib.sha256()
    file.seek(0)
    while size > 0:
        chunk = file.read(min(size, _CHUNK))
        total.update(chunk)
        size -= len(chunk) or size
    return total.hexdigest().encode()


def _check_parts(path: PathLike, file: BinaryIO) -> None:
    try:
        with zipfile.ZipFile(file) as parts:
            broken = parts.testzip()
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise _damaged(path, str(error)) from error
    if broken is not None:
        raise _damaged(path, f"the checksum of its part {broken!r} does not match")


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
