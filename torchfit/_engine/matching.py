"""Names of outputs, and which target, weight, loss and metrics belong to which.

The rules are those of the specification: one thing alone serves every output; a list goes by position, a
dictionary by name; what is missing means that nothing is computed for that output.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torchfit._support import tree
from torchfit._support.errors import describe
from torchfit._support.names import did_you_mean

Getter = Callable[[Any], Any]


def output_names(outputs: Any, given: Sequence[str] | None = None) -> list[str]:
    """Name the outputs, in their order.

    Dictionaries, named tuples and dataclasses name their own parts; tensors in a tuple or list are called
    `output_1`, `output_2`, … unless `given` names them.

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
    return [_name(path) for path in paths]


def _is_positional(outputs: Any) -> bool:
    return tree.is_leaf(outputs) or all(isinstance(key, int) for key, _ in tree.children(outputs))


def _name(path: tree.Path) -> str:
    words = [str(key + 1) if isinstance(key, int) else str(key) for key in path]
    if not words or words[0].isdigit():
        words = ["output", *(words or ["1"])]
    return "_".join(words)


def output_getters(outputs: Any, names: Sequence[str]) -> dict[str, Getter]:
    """Return, for each named output, a function that takes it out of what the module returned."""
    paths = [path for path, _ in tree.leaves_with_path(outputs)]
    return {name: tree.getter(outputs, path) if path else whole for name, path in zip(names, paths)}


def by_output(argument: str, value: Any, names: Sequence[str], served: Sequence[str]) -> dict[str, Getter]:
    """Return, for each output that `value` has a part for, a function that takes this part out of `value`.

    Args:
        argument: What `value` is called in messages (`y`, `sample_weight`).
        value: One array for the only output that is served, a list by position, or a dictionary by name.
        names: All outputs, in order.
        served: The outputs that have a loss or metrics; a list may leave out the others.

    Raises:
        ValueError: If names are unknown, or the number of parts fits neither `names` nor `served`.
    """
    if value is None:
        return {}
    if isinstance(value, Mapping):
        _check_known(argument, value, names)
        return {name: tree.getter(value, (name,)) for name in value if value[name] is not None}
    if not tree.is_leaf(value):
        return _by_position(argument, value, names, served)
    if len(served) > 1:
        raise ValueError(
            f"`{argument}` is {describe(value)}, but {len(served)} outputs need one each: {list(served)}. "
            f"Pass a list of {len(served)} or a dictionary with these names."
        )
    return dict.fromkeys(served or names[:1], whole)


def _by_position(argument: str, value: Any, names: Sequence[str], served: Sequence[str]) -> dict[str, Getter]:
    parts = [part for _, part in tree.children(value)]
    for candidates in (names, served):
        if len(parts) == len(candidates):
            keyed = zip(candidates, tree.children(value))
            return {name: tree.getter(value, (key,)) for name, (key, part) in keyed if part is not None}
    raise ValueError(
        f"`{argument}` has {len(parts)} parts, but the model has {len(names)} outputs {list(names)}, of which "
        f"{list(served)} have a loss or metrics. Pass one part for each, or a dictionary by name."
    )


def spread(argument: str, value: Any, names: Sequence[str], *, is_one: Callable[[Any], bool]) -> dict[str, Any]:
    """Assign what `compile` got (losses, loss weights, lists of metrics) to the outputs.

    `is_one(value)` tells a thing that serves every output from a list or dictionary with one for each.
    """
    if value is None:
        return {}
    if isinstance(value, Mapping):
        _check_known(argument, value, names)
        return {name: value[name] for name in names if value.get(name) is not None}
    if is_one(value):
        return dict.fromkeys(names, value)
    if len(value) != len(names):
        raise ValueError(
            f"`{argument}` is a list of {len(value)}, but the model has {len(names)} outputs {list(names)}. "
            "Give one entry for each output (None for none), or a dictionary by name."
        )
    return {name: part for name, part in zip(names, value) if part is not None}


def _check_known(argument: str, value: Mapping[str, Any], names: Sequence[str]) -> None:
    for name in value:
        if name not in names:
            raise ValueError(
                f"`{argument}` names the output {name!r}, but the outputs of the model are {list(names)}. "
                + did_you_mean(str(name), names)
            )


def whole(value: Any) -> Any:
    """Take everything: there is one part."""
    return value
