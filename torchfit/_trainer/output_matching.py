"""Names of outputs, and which target, weight, loss and metrics belong to which.

The rules are those of the specification: one thing alone serves every output; a list goes by position, a
dictionary by name; what is missing means that nothing is computed for that output. Where outputs are nested, what
belongs to them may be nested in the same way, or flat under the names of the outputs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from torchfit._utils import tree
from torchfit._utils.errors import describe
from torchfit._utils.names import did_you_mean, unique_names

Getter = Callable[[Any], Any]
IsOne = Callable[[Any], bool]


@dataclass(frozen=True)
class Layout:
    """The names of the outputs in their order, and the same names in the structure of the outputs."""

    names: tuple[str, ...]
    nest: Any

    @classmethod
    def of(cls, outputs: Any, given: Sequence[str] | None = None) -> "Layout":
        """Name the outputs.

        Dictionaries, named tuples and dataclasses name their own parts; tensors in a tuple or list are called
        `output_1`, `output_2`, … unless `given` names them.

        >>> Layout.of({"score": 1, "boxes": [2, 3]}).names, Layout.of((1, 2)).names
        (('score', 'boxes_1', 'boxes_2'), ('output_1', 'output_2'))

        Raises:
            ValueError: If `given` are too few, or the module returned no output.
        """
        names = output_names(outputs, given)
        if not names:
            raise ValueError(f"The model returned {describe(outputs)}, which holds no output.")
        return cls(tuple(names), tree.unflattener(_plain(outputs))(names))

    def getters(self, outputs: Any) -> dict[str, Getter]:
        """Return, for each named output, a function that takes it out of what the module returned."""
        return output_getters(outputs, self.names)

    def joined(self, other: "Layout") -> "Layout":
        """Add the names of another layout that are not here."""
        extra = [name for name in other.names if name not in self.names]
        return Layout((*self.names, *extra), self.nest)


def _plain(outputs: Any) -> Any:
    """Return a structure in which all that has named parts is a dictionary, and all else a list."""
    if tree.is_leaf(outputs):
        return 0
    parts = tree.children(outputs)
    if _is_named(outputs):
        return {key: _plain(part) for key, part in parts if part is not None}
    return [_plain(part) for _, part in parts if part is not None]


def output_names(outputs: Any, given: Sequence[str] | None = None) -> list[str]:
    """Name the outputs, as `Layout.of` does.

    >>> output_names({"score": 1, "boxes": [2, 3]}), output_names((1, 2))
    (['score', 'boxes_1', 'boxes_2'], ['output_1', 'output_2'])
    """
    paths = [path for path, _ in tree.leaves_with_path(outputs)]
    if given is not None and _is_positional(outputs):
        if len(given) < len(paths):
            raise ValueError(
                f"`output_names` names {len(given)} outputs {list(given)}, but the model returned {len(paths)}. "
                "Give one name for each output."
            )
        return list(given[: len(paths)])
    return unique_names(_name(path) for path in paths)


def _is_positional(outputs: Any) -> bool:
    return tree.is_leaf(outputs) or not _is_named(outputs)


def _is_named(value: Any) -> bool:
    """Tell what has parts with names: a dictionary, named tuple or dataclass."""
    return not tree.is_leaf(value) and any(isinstance(key, str) for key, _ in tree.children(value))


def _is_sequence(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _name(path: tree.Path) -> str:
    words = [str(key + 1) if isinstance(key, int) else str(key) for key in path]
    if not words or words[0].isdigit():
        words = ["output", *(words or ["1"])]
    return "_".join(words)


def output_getters(outputs: Any, names: Sequence[str]) -> dict[str, Getter]:
    """Return, for each named output, a function that takes it out of what the module returned."""
    paths = [path for path, _ in tree.leaves_with_path(outputs)]
    return {name: _getter(outputs, path) for name, path in zip(names, paths)}


def by_output(argument: str, value: Any, layout: Layout, served: Sequence[str]) -> dict[str, Getter]:
    """Return, for each output that `value` has a part for, a function that takes this part out of `value`.

    Args:
        argument: What `value` is called in messages (`y`, `sample_weight`).
        value: One array for the only output that is served, a list by position, a dictionary by name, or a nest
            like that of the outputs.
        layout: All outputs.
        served: The outputs that have a loss or metrics; a list may leave out the others.

    Raises:
        ValueError: If names are unknown, or the number of parts fits neither all outputs nor those served.
    """
    if value is None:
        return {}
    if tree.is_leaf(value):
        return _alone(argument, value, layout, served)
    paths = _paths(value, layout, served, tree.is_leaf)
    if paths is None:
        _refuse(argument, value, layout, served)
    return {name: _getter(value, path) for name, path in paths.items()}


def _alone(argument: str, value: Any, layout: Layout, served: Sequence[str]) -> dict[str, Getter]:
    if len(served) > 1:
        raise ValueError(
            f"`{argument}` is {describe(value)}, but {len(served)} outputs need one each: {list(served)}. "
            f"Pass a list of {len(served)} or a dictionary with these names."
        )
    return dict.fromkeys(served or layout.names[:1], whole)


def spread(argument: str, value: Any, layout: Layout, *, is_one: IsOne) -> dict[str, Any]:
    """Assign what `compile` got (losses, loss weights, lists of metrics) to the outputs.

    `is_one(value)` tells a thing that serves every output from a list or dictionary with one for each.

    Raises:
        ValueError: If names are unknown, or the number of parts is not that of the outputs.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping) and is_one(value):
        return dict.fromkeys(layout.names, value)
    paths = _paths(value, layout, (), is_one)
    if paths is None:
        _refuse(argument, value, layout, ())
    return {name: _getter(value, paths[name])(value) for name in layout.names if name in paths}


def _paths(value: Any, layout: Layout, served: Sequence[str], is_one: IsOne) -> dict[str, tree.Path] | None:
    """Find the part of `value` that belongs to each output, `None` if it fits in no way."""
    parts = tree.children(value)
    if _is_named(value):
        if all(key in layout.names for key, _ in parts):
            return {str(key): (key,) for key, part in parts if part is not None}
    elif all(part is None or is_one(part) for _, part in parts):
        for names in (layout.names, served):
            if len(parts) == len(names):
                return {name: (key,) for name, (key, part) in zip(names, parts) if part is not None}
    return _aligned(value, layout.nest, is_one)


def _aligned(value: Any, nest: Any, is_one: IsOne, path: tree.Path = ()) -> dict[str, tree.Path] | None:
    """Lay `value` upon the nest of names, level by level; parts of it may be missing."""
    if value is None:
        return {}
    if isinstance(nest, str):
        return {nest: path} if is_one(value) else None
    inner = dict(tree.children(nest))
    parts = tree.children(value)
    if _is_named(value) and all(key in inner for key, _ in parts):
        pairs = [(key, part, inner[key]) for key, part in parts]
    elif (isinstance(nest, list) or not _is_named(value)) and _is_sequence(value) and len(parts) == len(inner):
        pairs = [(key, part, inside) for (key, part), inside in zip(parts, inner.values())]
    else:
        return None
    found: dict[str, tree.Path] = {}
    for key, part, inside in pairs:
        below = _aligned(part, inside, is_one, (*path, key))
        if below is None:
            return None
        found |= below
    return found


def _refuse(argument: str, value: Any, layout: Layout, served: Sequence[str]) -> NoReturn:
    names = list(layout.names)
    unknown = [key for key, _ in tree.children(value) if isinstance(key, str) and key not in names]
    if unknown:
        raise ValueError(
            f"`{argument}` names the output {unknown[0]!r}, but the outputs of the model are {names}. "
            f"Received: {describe(value)}. {did_you_mean(unknown[0], names)}"
        )
    of_which = f", of which {list(served)} have a loss or metrics" if served else ""
    count = len(tree.children(value))
    raise ValueError(
        f"`{argument}` has {count} parts, but the model has {len(names)} outputs {names}{of_which}. "
        "Pass one part for each (None for none), or a dictionary by name."
    )


def _getter(value: Any, path: tree.Path) -> Getter:
    return tree.path_getter(value, path) if path else whole


def whole(value: Any) -> Any:
    """Take everything: there is one part."""
    return value
