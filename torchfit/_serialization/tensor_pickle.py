"""Writes the format of `torch.save`: a pickle of tensors and plain data, and the bytes of the storages.

This is a fast writer for the subset of the format that checkpoints need: the C pickler handles everything but tensors.
Other content (sparse tensors, unusual dtypes, subclasses of plain types) is left to `torch.save`.
"""

import codecs
import ctypes
import io
import pickle
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from torchfit._serialization.zip_files import Chunk, iter_zip
from torchfit._utils.compat import rebuild_tensor_v2, rebuild_tensor_v3, storage_id

_ALIGNMENT = 64  # of the parts of a storage, in bytes: a multiple of the size of every dtype


def new_storage(nbytes: int) -> torch.UntypedStorage:
    """Return an uninitialized CPU storage."""
    return torch.UntypedStorage(nbytes)  # type: ignore[no-untyped-call]


@torch.no_grad()
def unshare_storages(tensors: Iterable[Tensor]) -> None:
    """Copy tensors that share a storage without overlapping to storages of their own; overlapping ones still share one.

    Otherwise each of them would keep the whole file in memory, and write all of it to the next file.
    """
    for group in _overlapping(tensors):
        storage = group[0].untyped_storage()
        begin = _begin(group[0]) // _ALIGNMENT * _ALIGNMENT
        end = max(map(_end, group))
        if end - begin < storage.nbytes():
            own = storage[begin:end].clone()
            for tensor in group:
                tensor.set_(own, tensor.storage_offset() - begin // tensor.itemsize, tensor.size(), tensor.stride())


def _overlapping(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Yield groups of tensors that overlap in memory."""
    group: list[Tensor] = []
    address, end = 0, 0
    different = {id(tensor): tensor for tensor in tensors}.values()
    for tensor in sorted(different, key=lambda tensor: (tensor.untyped_storage().data_ptr(), _begin(tensor))):
        if group and (tensor.untyped_storage().data_ptr() != address or _begin(tensor) >= end):
            yield group
            group, end = [], 0
        group.append(tensor)
        address, end = tensor.untyped_storage().data_ptr(), max(end, _end(tensor))
    if group:
        yield group


def byte_range(tensor: Tensor) -> tuple[int, int]:
    """Return the offsets of the first byte of a strided tensor in its storage and of the byte after its last one.

    >>> byte_range(torch.zeros(4)[1:3])
    (4, 12)
    """
    return _begin(tensor), _end(tensor)


def _begin(tensor: Tensor) -> int:
    """Return the offset of the first byte of a tensor in its storage."""
    return int(tensor.storage_offset()) * tensor.itemsize


def _end(tensor: Tensor) -> int:
    """Return the offset of the byte after the last one of a tensor in its storage."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.size(), tensor.stride()))
    return _begin(tensor) + (last + 1) * tensor.itemsize if tensor.numel() else _begin(tensor)


Value: TypeAlias = Any
"""Tensors and plain data, nested in containers."""


class Opaque:
    """A placeholder for an object that only torch can build, while the rest of a structure is checked."""


MAX_DEPTH = 1000  # of containers in containers
KEY_TYPES = frozenset({str, bool, float, complex, bytes, type(None), torch.dtype, torch.device})
LEAF_TYPES = KEY_TYPES | {int, torch.Size, Tensor, nn.Parameter, Opaque}
_CONTAINERS = (dict, list, tuple, set)
_MAX_KEY = 1 << 60  # for integers: from 2 ** 61 - 1 on, hashes collide
_MAX_TUPLE_KEY = 16
_ARRAY = "__array__"


class RefusedError(Exception):
    """Raised if a file contains anything but tensors and plain data, or too much of them; the message says what.

    `asked_for` is the function or class that the file refers to, if that is the reason.
    """

    def __init__(self, reason: str, asked_for: str | None = None) -> None:
        super().__init__(reason)
        self.asked_for = asked_for


def check_key(key: Value) -> Value:
    """Return a key of a dictionary if it is plain data.

    Raises:
        RefusedError: If it is not.
    """
    kind = type(key)
    is_plain = kind in KEY_TYPES or (kind is int and -_MAX_KEY < key < _MAX_KEY)
    if not is_plain and not (kind is tuple and len(key) <= _MAX_TUPLE_KEY and all(map(_is_plain_key, key))):
        raise RefusedError(f"it has a dictionary with a key of type {kind.__name__}, or with a very large number")
    return key


def _is_plain_key(part: Value) -> bool:
    return type(part) in KEY_TYPES or (type(part) is int and -_MAX_KEY < part < _MAX_KEY)


def check_tree(content: Value, limit: int) -> None:
    """Check that `content` is a tree of plain data with at most `limit` nodes; shared nodes count every time.

    Functions that traverse the tree then need no precautions. Here, each container is visited only once.

    Raises:
        RefusedError: If the content contains itself or anything but plain data, or is too large or too deep.

    >>> check_tree({"a": [1, (2.5, None)]}, limit=10)
    """
    done: dict[int, tuple[int, int]] = {}  # sizes and depths of containers
    open_ids: set[int] = set()
    stack = _inner([content])
    while stack:
        value = stack[-1]
        key = id(value)
        if key in done:
            stack.pop()
            continue
        children = _children(value)
        inner = [] if key in open_ids else _inner(children)
        if inner:
            open_ids.add(key)
            if any(id(child) in open_ids for child in inner):
                raise RefusedError("its structure contains itself")
            stack += [child for child in inner if id(child) not in done]
        else:
            below = [done.get(id(child), (1, 0)) for child in children]
            size, depth = 1 + sum(size for size, _ in below), 1 + max((deep for _, deep in below), default=0)
            if size > limit or depth > MAX_DEPTH:
                raise RefusedError("its structure is nested too deeply, or repeats itself too often")
            done[key] = size, depth
            open_ids.discard(key)
            stack.pop()


def is_too_deep(content: Value) -> bool:
    """Return whether containers are nested more deeply than `check_tree` allows, or contain themselves.

    >>> is_too_deep([1, {"a": (2,)}])
    False
    """
    level: list[Value] = [[content]]
    for _ in range(MAX_DEPTH + 1):
        parts = [value.values() if isinstance(value, dict) else value for value in level]
        inner = {id(part): part for some in parts for part in some if isinstance(part, _CONTAINERS)}
        if not inner:
            return False
        level = list(inner.values())
    return True


def _inner(values: list[Value]) -> list[Value]:
    return [value for value in values if type(value) not in LEAF_TYPES]


def _children(value: Value) -> list[Value]:
    """Return the parts of a container.

    Raises:
        RefusedError: If the value is not a container of plain data.
    """
    kind = type(value)
    if kind is list or kind is tuple or kind is set:
        return list(value)
    if kind is dict:
        return list(value.values())
    if kind is OrderedDict:
        return [*value.values(), *vars(value).values()]
    name = getattr(value, "name", kind.__name__)
    raise RefusedError(f"it holds {name}, which is neither a tensor nor plain data", name)


def encode_arrays(value: Value) -> Value:
    """Return the same structure of dictionaries, lists and tuples with a marked tensor in place of each array.

    >>> encode_arrays({"a": [np.zeros(1), 2]})
    {'a': [{'__array__': tensor([0.], dtype=torch.float64)}, 2]}
    """
    if isinstance(value, np.ndarray):
        return {_ARRAY: torch.from_numpy(np.array(value))}
    return _map_children(value, encode_arrays)


def decode_arrays(value: Value) -> Value:
    """Undo `encode_arrays`.

    >>> decode_arrays(encode_arrays([np.zeros(1), 2]))
    [array([0.]), 2]
    """
    if isinstance(value, dict) and value.keys() == {_ARRAY}:
        return value[_ARRAY].numpy()
    return _map_children(value, decode_arrays)


def _map_children(value: Value, change: Callable[[Value], Value]) -> Value:
    if isinstance(value, dict):
        return {key: change(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        parts = [change(part) for part in value]
        return parts if isinstance(value, list) else tuple(parts)
    return value


Reduced: TypeAlias = tuple[Callable[..., object], tuple[object, ...]]
"""How a pickle rebuilds a value: a function and its arguments."""

_PROTOCOL = 2  # as in torch.save, whose safe reader supports all of it
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
"""The globals that a pickle may refer to."""

_PADDING = bytes(_ALIGNMENT)
_STORAGE = object()  # a placeholder for the single storage in the structure
_LOAD_STORAGE = pickle.BINPERSID + pickle.BINPUT + b"\0"  # stores the storage in the memo as number 0

_READABLE, _WRITABLE = 0x100, 0x200
_view = ctypes.pythonapi.PyMemoryView_FromMemory
_view.argtypes, _view.restype = (ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int), ctypes.py_object


class UnsupportedContentError(Exception):
    """Raised if the content must be written, or refused, by `torch.save`."""


class TensorPickle:
    """The pickle of a structure, and the bytes of each of its storages, in host memory.

    Args:
        content: Tensors and plain data, nested in dictionaries, lists and tuples.

    Raises:
        UnsupportedContentError: If `torch.save` must write the content.
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
    """The pickle of a structure, and copies of its storages, concatenated into a single one.

    This is fast for many small tensors, because the file has few parts.

    Args:
        content: Tensors and plain data, nested in dictionaries, lists and tuples.
        limit: The maximal total size of the storages, in bytes.

    Raises:
        UnsupportedContentError: If the content is too large, or `torch.save` must write it.
    """

    def __init__(self, content: object, limit: int) -> None:
        file = io.BytesIO()
        pickler = _SingleStoragePickler(file, limit)
        pickler.dump(content)
        persistent_id = pickle.dumps(("storage", torch.UntypedStorage, "0", "cpu", pickler.size), _PROTOCOL)
        # The storage remains on the stack below the result, which is harmless.
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
    """A reference to a storage in the structure; the pickle contains only its `persistent_id`."""

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
