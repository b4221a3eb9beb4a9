"""Plain data: what counts as such, the check that a structure is a tree of it, and NumPy arrays in it."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

Value: TypeAlias = Any
"""Tensors and plain data, nested in containers."""


class Opaque:
    """Stands for an object that only torch can build, while the rest of a structure is checked."""


MAX_DEPTH = 1000  # of containers in containers; the writer can do no more either
KEY_TYPES = frozenset({str, bool, float, complex, bytes, type(None), torch.dtype, torch.device})
LEAF_TYPES = KEY_TYPES | {int, torch.Size, Tensor, nn.Parameter, Opaque}
_MAX_KEY = 1 << 60  # of integers: from 2 ** 61 - 1 on, many have the same hash
_MAX_TUPLE_KEY = 16
_ARRAY = "__array__"


class RefusedError(Exception):
    """A file holds something else than tensors and plain data, or too much of it; the message says what.

    `asked_for` is the function or class that the file names, if that is the reason.
    """

    def __init__(self, reason: str, asked_for: str | None = None) -> None:
        super().__init__(reason)
        self.asked_for = asked_for


def check_key(key: Value) -> Value:
    """Return a key of a dictionary if it is plain.

    Raises:
        RefusedError: It is not.
    """
    kind = type(key)
    is_plain = kind in KEY_TYPES or (kind is int and -_MAX_KEY < key < _MAX_KEY)
    if not is_plain and not (kind is tuple and len(key) <= _MAX_TUPLE_KEY and all(map(_is_plain_key, key))):
        raise RefusedError(f"it has a dictionary with a key of type {kind.__name__}, or with a very large number")
    return key


def _is_plain_key(part: Value) -> bool:
    return type(part) in KEY_TYPES or (type(part) is int and -_MAX_KEY < part < _MAX_KEY)


def check_tree(content: Value, limit: int) -> None:
    """Raise unless `content` is a tree of plain data with at most `limit` nodes, where shared ones count every time.

    Functions that walk through the tree need no precautions then. Here, each container is visited only once.

    Raises:
        RefusedError: It contains itself or something other than plain data, or it is too large or too deep.

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


def _inner(values: list[Value]) -> list[Value]:
    return [value for value in values if type(value) not in LEAF_TYPES]


def _children(value: Value) -> list[Value]:
    """Return the parts of a container.

    Raises:
        RefusedError: The value is something else.
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
