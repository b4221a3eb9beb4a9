"""Tensors and plain data in the format of `torch.save`: a pickle of the structure, and beside it the bytes of storages.

Of that format, this writes what checkpoints are made of, and writes it quickly: C code walks through the structure, and
little but the tensors takes Python more than a glance. All else (sparse tensors, odd dtypes, what is only nearly plain)
is `torch.save`'s.
"""

import codecs
import ctypes
import io
import pickle
import sys
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._utils import _rebuild_tensor_v2, _rebuild_tensor_v3

from torchfit._serialization.zip_writer import iter_zip

_PROTOCOL = 2  # that of torch.save, all of which its safe reader understands
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
_NAMED = (_rebuild_tensor_v2, _rebuild_tensor_v3, OrderedDict, codecs.encode, *_STORAGES.values())
"""What a pickle names, and nothing else."""

_ALIGNMENT = 64  # bytes, of storages in a bundle
_PADDING = bytes(_ALIGNMENT)
_BUNDLE = object()  # stands for the one storage in the structure
_FETCH = pickle.BINPERSID + pickle.BINPUT + b"\0"  # From then on, number 0 is the storage that was just told of.

_READABLE = 0x100
_view = ctypes.pythonapi.PyMemoryView_FromMemory
_view.argtypes, _view.restype = (ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int), ctypes.py_object


class UnsupportedContentError(Exception):
    """There is something that `torch.save` should write, or refuse."""


class TensorPickle:
    """A structure as a pickle, and the bytes of its storages, in host memory.

    Args:
        content: Tensors and plain data, nested in dictionaries, lists and tuples.

    Raises:
        UnusualError: This is a case for `torch.save`.
    """

    def __init__(self, content: Any) -> None:
        file = io.BytesIO()
        pickler = _Packer(file)
        pickler.dump(content)
        self._pickle = file.getvalue()
        self._storages: list[Any] = [_bytes_of(storage) for storage in pickler.storages]
        self._alive: Any = pickler.storages

    def copy(self) -> None:
        """Copy the tensors, so that what is written is what they hold now."""
        self._storages, self._alive = [bytes(storage) for storage in self._storages], None

    def pieces(self) -> Iterator[Any]:
        """Give the bytes of the file, but for the comment at its end."""
        return _file(self._pickle, self._storages)


class SingleStoragePickle:
    """A structure as a pickle, and copies of its storages, one behind the other, as a single one.

    This is quick where much is small: nothing but tensors takes Python a glance, and the file has few parts.

    Args:
        content: Tensors and plain data, nested in dictionaries, lists and tuples.
        limit: How many bytes the storages may have together.

    Raises:
        UnusualError: This is a case for `torch.save`, or for `Packed`, since it is too large.
    """

    def __init__(self, content: Any, limit: int) -> None:
        file = io.BytesIO()
        pickler = _Bundler(file, limit)
        pickler.dump(content)
        identity = pickle.dumps(("storage", torch.UntypedStorage, "0", "cpu", pickler.size), _PROTOCOL)
        # The storage is below the result when that is taken from the top of the stack, which nobody minds.
        self._pickle = b"".join((identity[:-1], _FETCH, file.getbuffer()[2:]))
        self._storage = _together(pickler.storages)

    def pieces(self) -> Iterator[Any]:
        """Give the bytes of the file, but for the comment at its end."""
        return _file(self._pickle, [self._storage])


def _file(structure: bytes, storages: Iterable[Any]) -> Iterator[Any]:
    data = ((f"archive/data/{number}", storage) for number, storage in enumerate(storages))
    head = [("archive/data.pkl", structure), ("archive/byteorder", sys.byteorder.encode())]
    return iter_zip([*head, *data, ("archive/version", b"3\n")])


class _Pickler(pickle.Pickler):
    """Pickles plain data; of tensors, the place in their storages."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, _PROTOCOL)

    def reducer_override(self, value: Any) -> Any:
        """Say how to make what is not known to the pickler itself."""
        kind = type(value)
        if kind is Tensor or kind is nn.Parameter:
            dtype = value.dtype
            if dtype not in _STORAGES or value.layout is not torch.strided or value.is_neg():
                raise UnsupportedContentError
            return self._tensor(value, dtype, value.untyped_storage())
        if kind is OrderedDict or kind is torch.dtype or any(value is named for named in _NAMED):
            return NotImplemented
        raise UnsupportedContentError

    def _tensor(self, value: Tensor, dtype: torch.dtype, storage: Any) -> Any:
        raise NotImplementedError


class _Stored:
    """Stands for a storage in the structure; `identity` is what the pickle says of it."""

    __slots__ = ("dtype", "identity")

    def __init__(self, dtype: torch.dtype, identity: Any) -> None:
        self.dtype, self.identity = dtype, identity


class _Packer(_Pickler):
    """Gathers the storages in `storages`, in host memory."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.storages: list[Any] = []
        self._stored: dict[int, _Stored] = {}

    def persistent_id(self, value: Any) -> Any:
        return value.identity if type(value) is _Stored else None

    def _tensor(self, value: Tensor, dtype: torch.dtype, storage: Any) -> Any:
        stored = self._stored.get(storage._cdata) or self._new(_on_host(value, storage), storage._cdata, dtype)
        if stored.dtype is not dtype:
            raise UnsupportedContentError
        return _rebuild_tensor_v2, (stored, value.storage_offset(), tuple(value.size()), value.stride(), False, None)

    def _new(self, storage: Any, key: int, dtype: torch.dtype) -> _Stored:
        identity = ("storage", _STORAGES[dtype], str(len(self.storages)), "cpu", storage.nbytes() // dtype.itemsize)
        stored = self._stored[key] = _Stored(dtype, identity)
        self.storages.append(storage)
        return stored


class _Bundler(_Pickler):
    """Gathers the storages in `storages`, in host memory; `size` is the number of their bytes, one behind the other."""

    def __init__(self, file: io.BytesIO, limit: int) -> None:
        super().__init__(file)
        self.memo = {id(_BUNDLE): (0, _BUNDLE)}
        self.storages: list[Any] = []
        self.size = 0
        self._limit = limit
        self._places: dict[int, int] = {}

    def _tensor(self, value: Tensor, dtype: torch.dtype, storage: Any) -> Any:
        place = self._places.get(storage._cdata)
        if place is None:
            place = self._places[storage._cdata] = self.size
            self.storages.append(_on_host(value, storage))
            self.size += _aligned(storage.nbytes())
            if self.size > self._limit:
                raise UnsupportedContentError
        offset = place // dtype.itemsize + value.storage_offset()
        return _rebuild_tensor_v3, (_BUNDLE, offset, tuple(value.size()), value.stride(), False, None, dtype)


def _on_host(value: Tensor, storage: Any) -> Any:
    if value.is_meta:
        raise UnsupportedContentError
    return storage if value.is_cpu else storage.cpu()


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _together(storages: Iterable[Any]) -> bytes:
    """Return the bytes of storages one behind the other, each at a multiple of the alignment."""
    contents = map(_bytes_of, storages)
    return b"".join(piece for content in contents for piece in (content, _PADDING[: -len(content) % _ALIGNMENT]))


def _bytes_of(storage: Any) -> memoryview:
    """Return the memory of a storage of the CPU, which must outlive it."""
    view: memoryview = _view(storage.data_ptr(), storage.nbytes(), _READABLE)
    return view
