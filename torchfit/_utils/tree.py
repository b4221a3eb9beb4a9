"""Nested structures: lists, tuples, named tuples, dictionaries and dataclasses of leaves; and `Batch`.

`None` is an empty structure; every other object is a leaf. Dictionaries keep the order of their keys.
"""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor

Key = str | int
Path = tuple[Key, ...]
Tree: TypeAlias = Any
"""A leaf, or a nested structure of leaves."""

_CONTAINERS = frozenset({list, tuple, dict, type(None)})


def is_leaf(value: Tree) -> bool:
    """Return whether `value` is a leaf."""
    if isinstance(value, Tensor):  # The common cases, decided quickly.
        return True
    if type(value) in _CONTAINERS:
        return False
    return not (isinstance(value, (list, tuple)) or value is None or isinstance(value, Mapping) or _is_dataclass(value))


def children(value: Tree) -> list[tuple[Key, Tree]]:
    """List the children, each with its key, position or field name."""
    if value is None:
        return []
    if isinstance(value, (list, tuple)):
        return list(zip(value._fields, value) if hasattr(value, "_fields") else enumerate(value))
    if isinstance(value, Mapping):
        return list(value.items())
    if _is_dataclass(value):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    return []


def leaves(tree: Tree) -> list[Tree]:
    """List the leaves, depth first.

    >>> leaves({"a": [1, 2], "b": (3, {"c": 4}, None)})
    [1, 2, 3, 4]
    """
    if is_leaf(tree):
        return [tree]
    nodes = tree if isinstance(tree, (list, tuple)) else [child for _, child in children(tree)]
    return [leaf for node in nodes for leaf in ((node,) if isinstance(node, Tensor) else leaves(node))]


def leaves_with_path(tree: Tree, path: Path = ()) -> Iterator[tuple[Path, Tree]]:
    """Yield `(path, leaf)` pairs, depth first."""
    if is_leaf(tree):
        yield path, tree
    for key, child in children(tree):
        yield from leaves_with_path(child, (*path, key))


def nbytes(tree: Tree) -> int:
    """Add up the memory of the tensors among the leaves.

    >>> import torch
    >>> nbytes({"a": torch.zeros(2), "b": [torch.zeros(1), "text"]})
    12
    """
    return sum(leaf.numel() * leaf.element_size() for leaf in leaves(tree) if isinstance(leaf, Tensor))


def treedef(tree: Tree) -> object:
    """Return a hashable key that is equal for trees whose leaves have the same paths and numbers of axes.

    >>> treedef({"a": [1, 2]}) == treedef({"a": [3, 4]}), treedef([1]) == treedef((1,))
    (True, False)
    """
    if is_leaf(tree):
        return getattr(tree, "ndim", None)
    return type(tree), tuple((key, treedef(child)) for key, child in children(tree))


def map(function: Callable[[Tree], Tree], tree: Tree) -> Tree:
    """Build the same structure with each leaf replaced by `function(leaf)`.

    >>> map(str, {"a": [1, None]})
    {'a': ['1', None]}
    """
    if is_leaf(tree):
        return function(tree)
    return rebuild(tree, [map(function, child) for _, child in children(tree)])


def rebuild(tree: Tree, parts: Sequence[Tree]) -> Tree:
    """Build a structure of the same type as `tree` from new `parts`, one for each child.

    Named tuples and dataclasses are built by their constructor. If it rejects the parts, or computes some of them
    itself, the parts are set without it. Subclasses of `dict` keep their class; other mappings become a `dict`.
    """
    if tree is None:
        return None
    if isinstance(tree, Mapping):
        by_key = dict(zip(tree, parts))
        return by_key if type(tree) is dict or not isinstance(tree, dict) else _rebuild_dict(tree, by_key)
    if hasattr(tree, "_fields"):
        return _rebuild_named_tuple(type(tree), parts)
    if _is_dataclass(tree):
        return _rebuild_dataclass(tree, {str(key): part for (key, _), part in zip(children(tree), parts)})
    return list(parts) if isinstance(tree, list) else tuple(parts)


def _rebuild_dict(tree: Tree, parts: Tree) -> Tree:
    try:
        result = copy.copy(tree)
        for key, part in parts.items():
            result[key] = part
    except Exception:  # Whatever a custom class raises.
        return parts
    return result


def _rebuild_named_tuple(kind: type[Any], parts: Sequence[Tree]) -> Tree:
    try:
        return kind(*parts)
    except Exception:  # Whatever a custom `__new__` raises.
        return tuple.__new__(kind, parts)


def _rebuild_dataclass(tree: Tree, parts: dict[str, Tree]) -> Tree:
    try:
        arguments = {field.name: parts[field.name] for field in dataclasses.fields(tree) if field.init}
        result = dataclasses.replace(tree, **arguments)
    except Exception:  # Whatever a custom `__init__` or `__post_init__` raises.
        result = copy.copy(tree)
    for name, part in parts.items():
        object.__setattr__(result, name, part)
    return result


def unflattener(tree: Tree) -> Callable[[Sequence[Tree]], Tree]:
    """Return a function that builds the structure of `tree` from a flat sequence of its leaves.

    The structure is traversed once, here; for a bare leaf, each call is a single indexing operation.

    >>> unflattener({"a": 0, "b": [0, 0]})([1, 2, 3])
    {'a': 1, 'b': [2, 3]}
    """
    if is_leaf(tree):
        return _first
    parts = [(unflattener(child), len(leaves(child))) for _, child in children(tree)]

    def pack(flat: Sequence[Tree]) -> Tree:
        result, start = [], 0
        for pack_part, size in parts:
            result.append(pack_part(flat[start : start + size]))
            start += size
        return rebuild(tree, result)

    return pack


def path_getter(tree: Tree, path: Path) -> Callable[[Tree], Tree]:
    """Return a function that returns the leaf at `path` of a structure like `tree`.

    >>> path_getter({"a": [1, 2]}, ("a", 1))({"a": [5, 6]})
    6
    """
    steps: list[Callable[[Tree], Tree]] = []
    for key in path:
        steps.append(_step(tree, key))
        tree = steps[-1](tree)
    return _chain(steps)


def _step(tree: Tree, key: Key) -> Callable[[Tree], Tree]:
    """Return a function that returns one child: a lambda, because an `itemgetter` cannot be compiled."""
    if isinstance(key, str) and not isinstance(tree, Mapping):
        return lambda parts: getattr(parts, key)
    return lambda parts: parts[key]


def _first(flat: Sequence[Tree]) -> Tree:
    return flat[0]


def _chain(steps: list[Callable[[Tree], Tree]]) -> Callable[[Tree], Tree]:
    if len(steps) == 1:
        return steps[0]

    def walk(tree: Tree) -> Tree:
        for step in steps:
            tree = step(tree)
        return tree

    return walk


def _is_dataclass(value: Tree) -> bool:
    """Return whether `value` is a dataclass that holds data; callable dataclasses are leaves, like functions."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type) and not callable(value)


def format_path(path: Path, root: str) -> str:
    """Format the path of a leaf as a user would index it.

    >>> format_path(("image", 0), "x")
    "x['image'][0]"
    """
    return root + "".join(f"[{key!r}]" for key in path)


class Batch(tuple[Tree, ...]):
    """One batch: `(inputs,)`, `(inputs, targets)` or `(inputs, targets, sample_weight)`.

    It is a tuple of the parts that are present, so that an overridden `train_step` may write `x, y = batch`, with
    properties for access by name. Each part is a tensor `(batch, …)` or a nest (list, tuple, dict) of tensors; a
    missing part is `None`.
    """

    __slots__ = ()

    def __new__(cls, inputs: Tree, targets: Tree = None, sample_weight: Tree = None) -> "Batch":
        """Pack the parts, without trailing `None`s."""
        if sample_weight is not None:
            return tuple.__new__(cls, (inputs, targets, sample_weight))
        if targets is not None:
            return tuple.__new__(cls, (inputs, targets))
        return tuple.__new__(cls, (inputs,))

    def __getnewargs__(self) -> tuple[Tree, ...]:
        """Return the arguments with which copies and unpickled objects are created."""
        return tuple(self)

    @property
    def parts(self) -> tuple[Tree, Tree, Tree]:
        """All three parts, to be unpacked together."""
        inputs, targets, sample_weight = (*self, None, None)[:3]
        return inputs, targets, sample_weight

    @property
    def inputs(self) -> Tree:
        """The inputs of the module."""
        return self[0]

    @property
    def targets(self) -> Tree:
        """The targets, or `None`."""
        return self[1] if len(self) > 1 else None

    @property
    def sample_weight(self) -> Tree:
        """The sample weights, or `None`."""
        return self[2] if len(self) > 2 else None


def parts_of(data: object) -> tuple[Tree, Tree, Tree]:
    """Return the inputs, targets and weights of a batch, or of what an overridden step passes to `super`.

    >>> parts_of((1, 2)), parts_of(1)
    ((1, 2, None), (1, None, None))
    """
    inputs, targets, sample_weight = (*data, None, None)[:3] if isinstance(data, tuple) else (data, None, None)
    return inputs, targets, sample_weight


def unwrapped(batch: Batch) -> Tree:
    """Return a batch as it is passed to a user-defined step: inputs alone are in no tuple unless they are a sequence.

    >>> unwrapped(Batch(1)), unwrapped(Batch([1, 2])), unwrapped(Batch(1, 2))
    (1, ([1, 2],), (1, 2))
    """
    return batch[0] if len(batch) == 1 and not isinstance(batch[0], (list, tuple)) else batch
