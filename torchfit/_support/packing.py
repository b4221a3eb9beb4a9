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
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._utils import _rebuild_tensor_v2

from torchfit._support.zipping import zipped

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
_NAMED = (_rebuild_tensor_v2, OrderedDict, codecs.encode, *_STORAGES.values())
"""What a pickle names, and nothing else."""


_READABLE = 0x100
_view = ctypes.pythonapi.PyMemoryView_FromMemory
_view.argtypes, _view.restype = (ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int), ctypes.py_object


class UnusualError(Exception):
    """There is something that `torch.save` should write, or refuse."""


class Packed:
    """A structure as a pickle, and the bytes of its storages, in host memory.

    Args:
        content: Tensors and plain data, nested in dictionaries, lists and tuples.

    Raises:
        UnusualError: This is a case for `torch.save`.
    """

    def __init__(self, content: Any) -> None:
        file = io.BytesIO()
        pickler = _Pickler(file)
        pickler.dump(content)
        self._pickle = file.getvalue()
        self._storages: list[Any] = [_bytes_of(storage) for storage in pickler.storages]
        self._alive: Any = pickler.storages

    @property
    def size(self) -> int:
        """The bytes of the tensors."""
        return sum(map(len, self._storages))

    def copy(self) -> None:
        """Copy the tensors, so that what is written is what they hold now."""
        self._storages, self._alive = [bytes(storage) for storage in self._storages], None

    def pieces(self, comment_size: int) -> Iterator[Any]:
        """Give the bytes of the file, but for the comment at its end."""
        storages = ((f"archive/data/{number}", storage) for number, storage in enumerate(self._storages))
        head = [("archive/data.pkl", self._pickle), ("archive/byteorder", sys.byteorder.encode())]
        yield from zipped([*head, *storages, ("archive/version", b"3\n")], comment_size)


class _Stored:
    """Stands for a storage in the structure; `identity` is what the pickle says of it."""

    __slots__ = ("dtype", "identity")

    def __init__(self, dtype: torch.dtype, identity: Any) -> None:
        self.dtype, self.identity = dtype, identity


class _Pickler(pickle.Pickler):
    """Pickles plain data; of tensors, the place in their storages, which are gathered in `storages`, in host memory."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, _PROTOCOL)
        self.storages: list[Any] = []
        self._stored: dict[int, _Stored] = {}
        self._originals: list[Any] = []  # Kept, since another one may be made where one was that is gone.

    def persistent_id(self, value: Any) -> Any:
        return value.identity if type(value) is _Stored else None

    def reducer_override(self, value: Any) -> Any:
        """Say how to make what is not known to the pickler itself."""
        kind = type(value)
        if kind is Tensor or kind is nn.Parameter:
            return self._tensor(value)
        if kind is OrderedDict or kind is torch.dtype or any(value is named for named in _NAMED):
            return NotImplemented
        raise UnusualError

    def _tensor(self, value: Tensor) -> Any:
        dtype = value.dtype
        if dtype not in _STORAGES or value.layout is not torch.strided or value.is_meta or value.is_neg():
            raise UnusualError
        storage = value.untyped_storage()
        stored = self._stored.get(storage._cdata) or self._new(storage, dtype)
        if stored.dtype is not dtype:
            raise UnusualError
        return _rebuild_tensor_v2, (stored, value.storage_offset(), tuple(value.size()), value.stride(), False, None)

    def _new(self, storage: Any, dtype: torch.dtype) -> _Stored:
        identity = ("storage", _STORAGES[dtype], str(len(self.storages)), "cpu", storage.nbytes() // dtype.itemsize)
        stored = self._stored[storage._cdata] = _Stored(dtype, identity)
        self._originals.append(storage)
        self.storages.append(storage if storage.device.type == "cpu" else storage.cpu())
        return stored


def _bytes_of(storage: Any) -> memoryview:
    """Return the memory of a storage of the CPU, which must outlive it."""
    view: memoryview = _view(storage.data_ptr(), storage.nbytes(), _READABLE)
    return view
