"""Tensors and plain data in the format of `torch.save`: a pickle of the structure, and the bytes of the storages.

This is a fast writer for the subset of the format that checkpoints need: only tensors leave the fast path of the C
pickler. Everything else (sparse tensors, unusual dtypes, subclasses of plain types) is left to `torch.save`.
"""

import codecs
import ctypes
import io
import pickle
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from torchfit._serialization.zip_files import Chunk, iter_zip
from torchfit._utils.compat import rebuild_tensor_v2, rebuild_tensor_v3, storage_id

Reduced: TypeAlias = tuple[Callable[..., object], tuple[object, ...]]
"""How a pickle rebuilds a value: a function and its arguments."""

_PROTOCOL = 2  # as torch.save; its safe reader understands all of it
_STORAGES: dict[torch.dtype, type] = {
    torch.float64: torch.DoubleStorage,
    torch.float32: torch.FloatStorage,
    torch.float16: torch.HalfStorage,
    torch.bfloat16: torch.BFloat16Storage,
    torch.int64: torch.LongStorage,
    torch.int32: torch.IntStorage,
    torch.int16: torch.ShortStorage,
    torch.int8: torch.CharStorage,
    torch.uint8: torch.ByteStorage,
    torch.bool: torch.BoolStorage,
}
_GLOBALS = (rebuild_tensor_v2, rebuild_tensor_v3, OrderedDict, codecs.encode, *_STORAGES.values())
"""The globals that a pickle may name."""

_ALIGNMENT = 64  # bytes, of the parts of a single storage
_PADDING = bytes(_ALIGNMENT)
_STORAGE = object()  # stands for the single storage in the structure
_LOAD_STORAGE = pickle.BINPERSID + pickle.BINPUT + b"\0"  # puts the storage into the memo, as number 0

_READABLE, _WRITABLE = 0x100, 0x200
_view = ctypes.pythonapi.PyMemoryView_FromMemory
_view.argtypes, _view.restype = (ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int), ctypes.py_object


class UnsupportedContentError(Exception):
    """The content has something that `torch.save` must write, or refuse."""


class TensorPickle:
    """A structure as a pickle, and the bytes of each of its storages, in host memory.

    Args:
        content: Tensors and plain data, nested in dictionaries, lists and tuples.

    Raises:
        UnsupportedContentError: `torch.save` must write this.
    """

    def __init__(self, content: object) -> None:
        file = io.BytesIO()
        pickler = _TensorPickler(file)
        pickler.dump(content)
        self._pickle = file.getvalue()
        self._storages: list[Chunk] = [bytes_of(storage) for storage in pickler.storages]
        self._keepalive: list[torch.UntypedStorage] | None = pickler.storages

    def copy(self) -> None:
        """Copy the tensors, so that later changes to them are not written."""
        self._storages, self._keepalive = [bytes(storage) for storage in self._storages], None

    def chunks(self) -> Iterator[Chunk]:
        """Yield the bytes of the file, without the comment at its end."""
        return _file(self._pickle, self._storages)


class SingleStoragePickle:
    """A structure as a pickle, and copies of its storages, concatenated to a single one.

    This is fast for many small tensors, since the file has few parts.

    Args:
        content: Tensors and plain data, nested in dictionaries, lists and tuples.
        limit: The largest total size of the storages, in bytes.

    Raises:
        UnsupportedContentError: The content is too large, or `torch.save` must write it.
    """

    def __init__(self, content: object, limit: int) -> None:
        file = io.BytesIO()
        pickler = _SingleStoragePickler(file, limit)
        pickler.dump(content)
        persistent_id = pickle.dumps(("storage", torch.UntypedStorage, "0", "cpu", pickler.size), _PROTOCOL)
        # The storage stays below the result on the stack, which is harmless.
        self._pickle = b"".join((persistent_id[:-1], _LOAD_STORAGE, file.getbuffer()[2:]))
        self._storage = _concatenate(pickler.storages)

    def chunks(self) -> Iterator[Chunk]:
        """Yield the bytes of the file, without the comment at its end."""
        return _file(self._pickle, [self._storage])


def _file(structure: bytes, storages: Iterable[Chunk]) -> Iterator[Chunk]:
    data = ((f"archive/data/{number}", storage) for number, storage in enumerate(storages))
    head = [("archive/data.pkl", structure), ("archive/byteorder", sys.byteorder.encode())]
    return iter_zip([*head, *data, ("archive/version", b"3\n")])


class _Pickler(pickle.Pickler):
    """Pickles plain data, and tensors as references to their storages."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, _PROTOCOL)

    def reducer_override(self, value: Any) -> Any:
        """Return how to rebuild a value that the C pickler does not handle."""
        kind = type(value)
        if kind is Tensor or kind is nn.Parameter:
            dtype = value.dtype
            if dtype not in _STORAGES or value.layout is not torch.strided or value.is_neg():
                raise UnsupportedContentError
            return self._tensor(value, dtype, value.untyped_storage())
        if kind is OrderedDict or kind is torch.dtype or any(value is named for named in _GLOBALS):
            return NotImplemented
        raise UnsupportedContentError

    def _tensor(self, value: Tensor, dtype: torch.dtype, storage: torch.UntypedStorage) -> Reduced:
        raise NotImplementedError


class _StorageRef:
    """Stands for a storage in the structure; `persistent_id` is what the pickle holds of it."""

    __slots__ = ("dtype", "persistent_id")

    def __init__(self, dtype: torch.dtype, persistent_id: object) -> None:
        self.dtype, self.persistent_id = dtype, persistent_id


class _TensorPickler(_Pickler):
    """Collects the storages in `storages`, in host memory."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.storages: list[torch.UntypedStorage] = []
        self._references: dict[int, _StorageRef] = {}

    def persistent_id(self, value: object) -> object:
        return value.persistent_id if type(value) is _StorageRef else None

    def _tensor(self, value: Tensor, dtype: torch.dtype, storage: torch.UntypedStorage) -> Reduced:
        reference = self._references.get(storage_id(storage)) or self._new(value, storage, dtype)
        if reference.dtype is not dtype:
            raise UnsupportedContentError
        return rebuild_tensor_v2, (reference, value.storage_offset(), tuple(value.size()), value.stride(), False, None)

    def _new(self, value: Tensor, storage: torch.UntypedStorage, dtype: torch.dtype) -> _StorageRef:
        number, size = str(len(self.storages)), storage.nbytes() // dtype.itemsize
        persistent_id = ("storage", _STORAGES[dtype], number, "cpu", size)
        reference = self._references[storage_id(storage)] = _StorageRef(dtype, persistent_id)
        self.storages.append(_on_host(value, storage))
        return reference


class _SingleStoragePickler(_Pickler):
    """Collects the storages in `storages`, in host memory; `size` is their total number of bytes, with padding."""

    def __init__(self, file: io.BytesIO, limit: int) -> None:
        super().__init__(file)
        self.memo = {id(_STORAGE): (0, _STORAGE)}
        self.storages: list[torch.UntypedStorage] = []
        self.size = 0
        self._limit = limit
        self._places: dict[int, int] = {}

    def _tensor(self, value: Tensor, dtype: torch.dtype, storage: torch.UntypedStorage) -> Reduced:
        key = storage_id(storage)
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = self.size
            self.storages.append(_on_host(value, storage))
            self.size += _aligned(storage.nbytes())
            if self.size > self._limit:
                raise UnsupportedContentError
        offset = place // dtype.itemsize + value.storage_offset()
        return rebuild_tensor_v3, (_STORAGE, offset, tuple(value.size()), value.stride(), False, None, dtype)


def _on_host(value: Tensor, storage: Any) -> Any:
    if value.is_meta:
        raise UnsupportedContentError
    return storage if value.is_cpu else storage.cpu()


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _concatenate(storages: Iterable[torch.UntypedStorage]) -> bytes:
    """Return the concatenated bytes of storages, each at a multiple of the alignment."""
    contents = map(bytes_of, storages)
    return b"".join(chunk for content in contents for chunk in (content, _PADDING[: -len(content) % _ALIGNMENT]))


def bytes_of(storage: torch.UntypedStorage, writable: bool = False) -> memoryview:
    """Return a view of the memory of a CPU storage that is not empty; the storage must be kept alive."""
    view: memoryview = _view(storage.data_ptr(), storage.nbytes(), _WRITABLE if writable else _READABLE)
    return view
