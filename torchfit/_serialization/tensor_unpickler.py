"""Reads the pickles of `torch.save`, for tensors and plain data, without running code in the file.

It reads what `tensor_pickle` and `torch.save` write for dense tensors, parameters and plain data, in time and memory
linear in the size of the pickle. Everything in the pickle is checked before it is used: the sizes of tensors against
those of their storages, the types of keys, and at the end the size of the whole tree. Other kinds of tensors are left
to `torch.load`.
"""

import codecs
import math
import re
from collections import OrderedDict
from collections.abc import Callable
from pickle import decode_long
from struct import Struct
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from torchfit._serialization.tensor_pickle import Opaque, RefusedError, check_key, check_tree, new_storage

Value: TypeAlias = Any
"""A value from a pickle: anything, until it is checked."""

LoadStorage = Callable[[str, int, torch.dtype], torch.UntypedStorage]
Handler = Callable[["TensorUnpickler"], object]

_MAX_EXPANSION = 10  # nodes of the tree for each byte of the pickle; shared nodes count every time
_MIN_EXPANSION = 1_000_000
_MAX_EXPANDED_BYTES = 1 << 26  # the total for tensors that are larger than their storages
_MAX_DIMENSIONS = 64
_MAX_LONG_SIZE = 255  # bytes of an integer

_STORAGE_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "UntypedStorage": torch.uint8,
}


class Global(NamedTuple):
    """A function or class that the pickle refers to."""

    name: str
    build: Callable[..., Value] | None = None
    """Called for the function, with the unpickler and the arguments."""

    dtype: torch.dtype | None = None
    """Of a storage class."""


class TypedStorage(NamedTuple):
    """A storage, and the dtype of the tensors in it."""

    storage: torch.UntypedStorage
    dtype: torch.dtype


class TensorUnpickler:
    """Reads one pickle.

    After `load`, `tensors` are the tensors in the content, `position` is the end of the pickle, and `needs_torch` says
    whether the content is unusable because it has tensors that only torch can build.

    Args:
        data: The pickle; bytes after its end are ignored.
        load_storage: Returns the storage of a key, for a number of elements of a dtype, or raises.
        position: Where in `data` the pickle starts.
    """

    def __init__(self, data: bytes, load_storage: LoadStorage, position: int = 0) -> None:
        self.tensors: list[Tensor] = []
        self.needs_torch = False
        self.position = position
        self._data = data
        self._load_storage = load_storage
        self._stack: list[Value] = []
        self._marked: list[list[Value]] = []
        self._memo: dict[int, Value] = {}
        self._expanded_bytes = 0

    def load(self) -> Value:
        """Return the content.

        Raises:
            RefusedError: If the content is anything but tensors and plain data.
            Exception: If the pickle is damaged.
        """
        data, handlers, start = self._data, _HANDLERS, self.position
        while True:
            code = data[self.position]
            self.position += 1
            if code == _STOP:
                break
            handler = handlers.get(code)
            if handler is None:
                raise RefusedError(f"its structure has the instruction {code}, which no file of tensors has")
            handler(self)
        content = self._stack.pop()
        check_tree(content, max(_MIN_EXPANSION, _MAX_EXPANSION * (self.position - start)))
        return content

    def storage(self, persistent_id: Value) -> TypedStorage:
        """Return the storage of a persistent id: ("storage", class, key, location, number of elements)."""
        word, kind, key, location, numel, *view = persistent_id
        is_known = word == "storage" and isinstance(kind, Global) and isinstance(key, str) and isinstance(location, str)
        if not is_known or type(numel) is not int or numel < 0:
            raise RefusedError("it has a storage that is not described as one")
        if kind.dtype is None or any(view):
            self.needs_torch = True
            return TypedStorage(new_storage(0), torch.uint8)
        return TypedStorage(self._load_storage(key, numel, kind.dtype), kind.dtype)

    def tensor(self, storage: Value, offset: Value, size: Value, stride: Value, dtype: torch.dtype) -> Tensor:
        """Check the position of a tensor in its storage, and return the tensor."""
        if type(size) not in (tuple, torch.Size) or type(stride) is not tuple or len(size) != len(stride):
            raise RefusedError("it has a tensor whose size or stride is invalid")
        if len(size) > _MAX_DIMENSIONS or any(type(part) is not int or part < 0 for part in (offset, *size, *stride)):
            raise RefusedError("it has a tensor whose size or stride is invalid")
        numel = math.prod(size)
        last = sum((length - 1) * step for length, step in zip(size, stride)) if numel else -1
        if (offset + last + 1) * dtype.itemsize > storage.nbytes():
            raise RefusedError("it has a tensor that is larger than its storage")
        if numel * dtype.itemsize > storage.nbytes():
            self._expanded_bytes += numel * dtype.itemsize
            if self._expanded_bytes > _MAX_EXPANDED_BYTES:
                raise RefusedError("it has tensors that are much larger than their storages")
        made = torch.empty(0, dtype=dtype).set_(storage, offset, size, stride)
        self.tensors.append(made)
        return made

    def opaque(self, *args: Value) -> Opaque:
        """Return a placeholder for an object that only torch can build."""
        self.needs_torch = True
        return Opaque()

    # -- what the handlers need ----------------------------------------------------------------------------

    def push(self, value: Value) -> None:
        """Push a value onto the stack."""
        self._stack.append(value)

    def pop(self) -> Value:
        """Pop the last value from the stack."""
        return self._stack.pop()

    def top(self) -> Value:
        """Return the last value on the stack."""
        return self._stack[-1]

    def mark(self) -> None:
        """Start a new stack."""
        self._marked.append(self._stack)
        self._stack = []

    def pop_mark(self) -> list[Value]:
        """Return the values since the last mark, and restore the stack before it."""
        items, self._stack = self._stack, self._marked.pop()
        return items

    def take(self, size: int) -> bytes:
        """Read some bytes."""
        end = self.position + size
        if size < 0 or end > len(self._data):
            raise RefusedError("its structure ends too early")
        data, self.position = self._data[self.position : end], end
        return data

    def line(self) -> str:
        """Read a line."""
        end = self._data.index(b"\n", self.position)
        text, self.position = self._data[self.position : end].decode(), end + 1
        return text

    def remember(self, number: int) -> None:
        """Store the last value on the stack in the memo."""
        self._memo[number] = self._stack[-1]

    def remember_next(self) -> None:
        """Store the last value on the stack in the memo, under the next number."""
        self.remember(len(self._memo))

    def recall(self, number: int) -> None:
        """Push a value from the memo onto the stack."""
        self._stack.append(self._memo[number])


# -- functions and classes that pickles name -------------------------------------------------------------------------


def _rebuild_tensor(
    reader: TensorUnpickler, storage: TypedStorage, offset: Value, size: Value, stride: Value
) -> Tensor:
    return reader.tensor(storage.storage, offset, size, stride, storage.dtype)


def _rebuild_tensor_v2(
    reader: TensorUnpickler,
    storage: TypedStorage,
    offset: Value,
    size: Value,
    stride: Value,
    requires_grad: Value,
    hooks: Value,
    metadata: Value = None,
) -> Tensor | Opaque:
    return _rebuild_tensor_v3(reader, storage, offset, size, stride, requires_grad, hooks, storage.dtype, metadata)


def _rebuild_tensor_v3(
    reader: TensorUnpickler,
    storage: TypedStorage,
    offset: Value,
    size: Value,
    stride: Value,
    requires_grad: Value,
    hooks: Value,
    dtype: Value,
    metadata: Value = None,
) -> Tensor | Opaque:
    if metadata:  # conjugate and negative views
        return reader.opaque()
    made = reader.tensor(storage.storage, offset, size, stride, dtype)
    return made.requires_grad_() if requires_grad is True else made


def _rebuild_parameter(reader: TensorUnpickler, data: Value, requires_grad: Value, hooks: Value) -> Value:
    if isinstance(data, Opaque):
        return data
    parameter = nn.Parameter(data.detach(), requires_grad is True)
    reader.tensors.append(parameter)
    return parameter


def _ordered_dict(reader: TensorUnpickler, items: Value = ()) -> Value:
    return OrderedDict((check_key(key), value) for key, value in items)


def _set(reader: TensorUnpickler, items: Value = ()) -> Value:
    return {check_key(item) for item in items}


def _size(reader: TensorUnpickler, items: Value = ()) -> torch.Size:
    return torch.Size(items)


def _device(reader: TensorUnpickler, *args: Value) -> torch.device:
    return torch.device(*args)


def _complex(reader: TensorUnpickler, real: Value = 0.0, imaginary: Value = 0.0) -> complex:
    return complex(float(real), float(imaginary))


def _encode(reader: TensorUnpickler, text: Value, encoding: Value) -> bytes:
    """Return bytes, which old protocols store as text."""
    if encoding != "latin1":
        raise RefusedError("it has bytes that are not encoded as bytes")
    return codecs.encode(text, "latin1")


_BUILDERS: dict[str, Callable[..., Value]] = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor_v2,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "collections.OrderedDict": _ordered_dict,
    "builtins.set": _set,
    "__builtin__.set": _set,
    "builtins.complex": _complex,
    "__builtin__.complex": _complex,
    "torch.Size": _size,
    "torch.device": _device,
    "_codecs.encode": _encode,
}
_TORCH_ONLY = re.compile(
    r"torch\._utils\._rebuild_\w+|torch\._tensor\._rebuild_from_type_v2|torch\.nn\.parameter\.Parameter|"
    r"torch\.serialization\._get_layout|torch\.per_\w+|collections\.Counter"
)
"""Sparse, quantized and nested tensors, subclasses of tensors, and the like."""

_DTYPES = {str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)}


def _find_global(module: str, name: str) -> Value:
    """Return the function, class or placeholder for a global of a pickle.

    Raises:
        RefusedError: If the global is not one for tensors or plain data.
    """
    full = f"{module}.{name}"
    if full in _BUILDERS:
        return Global(full, _BUILDERS[full])
    if full in _DTYPES:
        return _DTYPES[full]
    if module in ("torch", "torch.storage") and name.endswith("Storage"):
        return Global(full, dtype=_STORAGE_DTYPES.get(name))
    if _TORCH_ONLY.fullmatch(full) or full in _allowed_by_user():
        return Global(full, TensorUnpickler.opaque)
    raise RefusedError(f"it asks for {full}", full)


def _allowed_by_user() -> set[str]:
    """Return the names of `torch.serialization.add_safe_globals`."""
    listed = torch.serialization.get_safe_globals()
    return {
        str(each[1]) if isinstance(each, tuple) else f"{each.__module__}.{getattr(each, '__qualname__', '')}"
        for each in listed
    }


# -- instructions ----------------------------------------------------------------------------------------------------


def _global(reader: TensorUnpickler) -> None:
    module = reader.line()
    reader.push(_find_global(module, reader.line()))


def _stack_global(reader: TensorUnpickler) -> None:
    name, module = reader.pop(), reader.pop()
    reader.push(_find_global(str(module), str(name)))


def _reduce(reader: TensorUnpickler) -> None:
    args, function = reader.pop(), reader.pop()
    if isinstance(function, Opaque):
        reader.push(reader.opaque())
    elif isinstance(function, Global) and function.build is not None and type(args) is tuple:
        reader.push(function.build(reader, *args))
    else:
        raise RefusedError("it calls something that is not a function")


def _build(reader: TensorUnpickler) -> None:
    state, target = reader.pop(), reader.top()
    if type(target) is OrderedDict and type(state) is dict and state.keys() <= {"_metadata"}:
        vars(target).update(state)
    elif not isinstance(target, Opaque) and not isinstance(state, Opaque):
        raise RefusedError("it has something that is not plain data")


def _persistent_id(reader: TensorUnpickler) -> None:
    reader.push(reader.storage(reader.pop()))


def _append(reader: TensorUnpickler) -> None:
    item = reader.pop()
    _list(reader).append(item)


def _appends(reader: TensorUnpickler) -> None:
    items = reader.pop_mark()
    _list(reader).extend(items)


def _list(reader: TensorUnpickler) -> list[Value]:
    target = reader.top()
    if type(target) is not list:
        raise RefusedError("it appends to something that is not a list")
    return target


def _set_item(reader: TensorUnpickler) -> None:
    value, key = reader.pop(), reader.pop()
    _set_pairs(reader, [key, value])


def _set_items(reader: TensorUnpickler) -> None:
    _set_pairs(reader, reader.pop_mark())


def _set_pairs(reader: TensorUnpickler, items: list[Value]) -> None:
    target = reader.top()
    if type(target) not in (dict, OrderedDict, Opaque):
        raise RefusedError("it sets an item of something that is not a dictionary")
    for key, value in zip(items[::2], items[1::2], strict=True):
        check_key(key)
        if type(target) is not Opaque:
            target[key] = value


def _tuple(size: int) -> Handler:
    def handle(reader: TensorUnpickler) -> None:
        items = [reader.pop() for _ in range(size)]
        reader.push(tuple(reversed(items)))

    return handle


def _constant(make: Callable[[], Value]) -> Handler:
    return lambda reader: reader.push(make())


def _number(layout: str) -> Handler:
    unpack, size = Struct(layout).unpack, Struct(layout).size
    return lambda reader: reader.push(unpack(reader.take(size))[0])


def _data(layout: str, convert: Callable[[bytes], Value], limit: int = 1 << 62) -> Handler:
    """Return the handler for data preceded by its size."""
    unpack, width = Struct(layout).unpack, Struct(layout).size

    def handle(reader: TensorUnpickler) -> None:
        (size,) = unpack(reader.take(width))
        if size > limit:
            raise RefusedError("it has an integer that is too large")
        reader.push(convert(reader.take(size)))

    return handle


def _memo(layout: str, use: Callable[[TensorUnpickler, int], None]) -> Handler:
    unpack, size = Struct(layout).unpack, Struct(layout).size
    return lambda reader: use(reader, unpack(reader.take(size))[0])


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


_STOP = ord(".")
_INSTRUCTIONS: dict[bytes, Handler] = {
    b"\x80": lambda reader: reader.take(1),  # the protocol
    b"\x95": lambda reader: reader.take(8),  # the size of a frame
    b"(": TensorUnpickler.mark,
    b"0": TensorUnpickler.pop,
    b"c": _global,
    b"\x93": _stack_global,
    b"R": _reduce,
    b"\x81": _reduce,
    b"b": _build,
    b"Q": _persistent_id,
    b"a": _append,
    b"e": _appends,
    b"s": _set_item,
    b"u": _set_items,
    b"t": lambda reader: reader.push(tuple(reader.pop_mark())),
    b"\x85": _tuple(1),
    b"\x86": _tuple(2),
    b"\x87": _tuple(3),
    b")": _constant(tuple),
    b"]": _constant(list),
    b"}": _constant(dict),
    b"N": _constant(lambda: None),
    b"\x88": _constant(lambda: True),
    b"\x89": _constant(lambda: False),
    b"J": _number("<i"),
    b"K": _number("<B"),
    b"M": _number("<H"),
    b"G": _number(">d"),
    b"\x8a": _data("<B", decode_long),
    b"\x8b": _data("<i", decode_long, _MAX_LONG_SIZE),
    b"X": _data("<I", _text),
    b"\x8c": _data("<B", _text),
    b"\x8d": _data("<Q", _text),
    b"U": _data("<B", bytes.decode),
    b"T": _data("<I", bytes.decode),
    b"C": _data("<B", bytes),
    b"B": _data("<I", bytes),
    b"\x8e": _data("<Q", bytes),
    b"q": _memo("<B", TensorUnpickler.remember),
    b"r": _memo("<I", TensorUnpickler.remember),
    b"\x94": TensorUnpickler.remember_next,
    b"h": _memo("<B", TensorUnpickler.recall),
    b"j": _memo("<I", TensorUnpickler.recall),
}
_HANDLERS = {code[0]: handler for code, handler in _INSTRUCTIONS.items()}
