"""Names the outputs, and matches targets, weights, losses and metrics to them.

A single object applies to every output, a list is matched by position, and a dictionary by name. If an output has no
part, nothing is computed for it. For nested outputs, the parts may be nested in the same way, or flat under the names
of the outputs. Only tensors are outputs, not caches and other objects that a module returns.

torchfit's own losses and metrics align `(batch,)` with `(batch, 1)`. User code gets targets as they are in the data, or
with a last axis more or less if it would otherwise broadcast them against the output (see `TargetForms`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from numbers import Number
from typing import NoReturn, TypeVar

from torch import Tensor

from torchfit._data.convert import NUMERIC_KINDS
from torchfit._types import Nested
from torchfit._utils import tree
from torchfit._utils.errors import describe
from torchfit._utils.names import did_you_mean, unique_names
from torchfit.functional.alignment import TargetForms
from torchfit.metrics.base import Metric
from torchfit.metrics.identifiers import TorchMetric

Result = TypeVar("Result")
Whole = TypeVar("Whole")


def with_fitting_targets(member: object, function: Callable[..., Result]) -> Callable[..., Result]:
    """Wrap `function(target, output, weight=None)` of a loss or metric to pass targets in the form that it expects."""
    if not _is_user_defined(member):
        return function
    forms = TargetForms()
    if not isinstance(member, Metric):
        return partial(forms.call, function)
    return partial(forms.call, function, save=lambda: partial(member.restore_state, member.snapshot_state()))


def _is_user_defined(member: object) -> bool:
    """Return whether the formula of a loss or metric is defined outside torchfit."""
    function = getattr(member, "function", None)
    if function is not None:
        return not str(getattr(function, "__module__", "")).startswith("torchfit.functional")
    is_ours = type(member).__module__.startswith("torchfit.")
    return not is_ours or isinstance(member, TorchMetric) or getattr(member, "is_user_defined", False)


def is_builtin(member: object) -> bool:
    """Return whether a loss or metric depends only on targets, outputs and weights, as all of torchfit's do."""
    function = getattr(member, "function", None) or getattr(member, "fn", None)
    homes = [type(member).__module__, *([] if function is None else [str(getattr(function, "__module__", ""))])]
    return all(home.startswith(("torchfit.", "torch.nn.")) for home in homes) and not hasattr(member, "metric")


Getter = Callable[[Nested], Nested]
IsSingle = Callable[[Nested], bool]

_MAIN_OUTPUT = "logits"
"""The name of the main output, which a single loss and target apply to, in models of transformers."""

_OWN_LOSS = "loss"


@dataclass(frozen=True)
class OutputSpec:
    """The names of the outputs in their order, and how the module returns them.

    Attributes:
        names: The names of the outputs.
        structure: The names of all leaves, in the structure of what the module returned.
        others: Descriptions of leaves that are not tensors, by name.
    """

    names: tuple[str, ...]
    structure: Nested
    others: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, outputs: Nested, given: Sequence[str] | None = None) -> "OutputSpec":
        """Name the outputs.

        Dictionaries, named tuples and dataclasses name their own parts; tensors in a tuple or list are called
        `output_1`, `output_2`, … unless `given` names them.

        >>> import torch
        >>> tensor = torch.zeros(1)
        >>> OutputSpec.of({"score": tensor, "boxes": [tensor, tensor], "cache": object()}).names
        ('score', 'boxes_1', 'boxes_2')
        >>> OutputSpec.of((tensor, tensor)).names
        ('output_1', 'output_2')

        Raises:
            ValueError: If `given` has too few names.
        """
        leaves = tree.leaves(outputs)
        names = leaf_names(outputs, given)
        others = {name: describe(leaf) for name, leaf in zip(names, leaves) if not isinstance(leaf, Tensor)}
        structure = tree.unflattener(_plain(outputs))(names)
        return cls(tuple(name for name in names if name not in others), structure, others)

    @property
    def leaf_names(self) -> list[str]:
        """The names of all leaves, in order."""
        return tree.leaves(self.structure)

    def getters(self, outputs: Nested) -> dict[str, Getter]:
        """Return, for each named output, a function that extracts it from what the module returned."""
        return output_getters(outputs, self.names)

    def merge(self, other: "OutputSpec") -> "OutputSpec":
        """Return this spec with the additional names of another one."""
        extra = [name for name in other.names if name not in self.names]
        return OutputSpec((*self.names, *extra), self.structure, self.others)

    def check_outputs(self, names: Iterable[str]) -> None:
        """Check that names of losses, metrics, targets or weights are those of tensors.

        Raises:
            TypeError: If a name is that of another object that the module returns.
        """
        for name in names:
            if name in self.others:
                raise TypeError(
                    f"The output {name!r} of the model is {self.others[name]}, but losses and metrics need tensors. "
                    "Return a tensor from `forward`, or a tuple, list, dictionary, named tuple or dataclass of "
                    "tensors; or pass loss=losses.OverOutputs(function), which gets all that the model returns."
                )


def _plain(outputs: Nested) -> Nested:
    """Return the structure with dictionaries for everything with named parts, and lists for other containers."""
    if tree.is_leaf(outputs):
        return 0
    parts = tree.children(outputs)
    if _is_named(outputs):
        return {key: _plain(part) for key, part in parts if part is not None}
    return [_plain(part) for _, part in parts if part is not None]


def leaf_names(outputs: Nested, given: Sequence[str] | None = None) -> list[str]:
    """Return names for what a module returned, as `OutputSpec.of` does; `given` may omit leaves that are not tensors.

    >>> leaf_names({"score": 1, "boxes": [2, 3]}), leaf_names((1, 2))
    (['score', 'boxes_1', 'boxes_2'], ['output_1', 'output_2'])
    """
    leaves = list(tree.leaves_with_path(outputs))
    names = unique_names(_name(path) for path, _ in leaves)
    if given is None or not _is_positional(outputs):
        return names
    tensors = [number for number, (_, leaf) in enumerate(leaves) if isinstance(leaf, Tensor)]
    numbers = range(len(leaves)) if len(given) >= len(leaves) else tensors
    if len(given) < len(numbers):
        raise ValueError(
            f"`output_names` names {len(given)} outputs {list(given)}, but the model returned {len(numbers)}. "
            "Give one name for each output."
        )
    for number, name in zip(numbers, given):
        names[number] = name
    return names


def _is_positional(outputs: Nested) -> bool:
    return tree.is_leaf(outputs) or not _is_named(outputs)


def _is_named(value: Nested) -> bool:
    """Return whether a value has named parts: a dictionary, named tuple or dataclass."""
    return not tree.is_leaf(value) and any(isinstance(key, str) for key, _ in tree.children(value))


def _is_sequence(value: object) -> bool:
    return isinstance(value, (list, tuple))


def _name(path: tree.Path) -> str:
    words = [str(key + 1) if isinstance(key, int) else str(key) for key in path]
    if not words or words[0].isdigit():
        words = ["output", *(words or ["1"])]
    return "_".join(words)


def output_getters(outputs: Nested, names: Sequence[str]) -> dict[str, Getter]:
    """Return, for each named output, a function that takes it out of what the module returned."""
    paths = [path for path, leaf in tree.leaves_with_path(outputs) if isinstance(leaf, Tensor)]
    return {name: _getter(outputs, path) for name, path in zip(names, paths)}


def match_to_outputs(
    argument: str, value: Nested, output_spec: OutputSpec, active_outputs: Sequence[str], sharing: Sequence[str] = ()
) -> dict[str, Getter]:
    """Return, for each output that `value` has a part for, a function that extracts this part from `value`.

    Args:
        argument: The name of `value` in messages (`y`, `sample_weight`).
        value: One array for the only active output, a list by position, a dictionary by name, or a structure like that
            of the outputs.
        output_spec: All outputs.
        active_outputs: The outputs that have a loss or metrics; a list may omit the others.
        sharing: The outputs that a single array applies to (see `outputs_of_one_target`), if known.

    Raises:
        ValueError: If names are unknown, or the number of parts is that of neither all nor the active outputs.
    """
    if value is None:
        return {}
    if tree.is_leaf(value):
        return _match_single(argument, value, output_spec, sharing or active_outputs, is_known=bool(sharing))
    paths = _paths(value, output_spec, active_outputs, tree.is_leaf)
    if paths is None:
        _raise_mismatch(argument, value, output_spec, active_outputs)
    output_spec.check_outputs(paths)
    return {name: _getter(value, path) for name, path in paths.items()}


def _match_single(
    argument: str, value: Nested, output_spec: OutputSpec, active_outputs: Sequence[str], *, is_known: bool
) -> dict[str, Getter]:
    if len(active_outputs) > 1 and not is_known:
        raise ValueError(
            f"`{argument}` is {describe(value)}, but {len(active_outputs)} outputs need one each: "
            f"{list(active_outputs)}. "
            f"Pass a list of {len(active_outputs)} or a dictionary with these names. Or leave the outputs without a "
            f"target out of the loss: {_losses_for_one(output_spec)}, and likewise of the metrics. Outputs of one "
            "shape, each with a loss of its own, share a target."
        )
    return dict.fromkeys(active_outputs or output_spec.names[:1], identity)


def outputs_of_one_target(
    outputs: Mapping[str, Tensor], chosen: Sequence[str], *, has_common_loss: bool
) -> Sequence[str]:
    """Return the outputs that a single target applies to, or none if that is ambiguous.

    Args:
        outputs: The outputs that have a loss or metrics, by name.
        chosen: The outputs for which `compile` got a loss or metrics by name or by position.
        has_common_loss: Whether `compile` got one loss for all outputs.

    >>> import torch
    >>> logits, hidden = torch.zeros(2, 3), torch.zeros(2, 8)
    >>> outputs_of_one_target({"logits": logits, "hidden": hidden}, [], has_common_loss=True)
    ['logits']
    >>> outputs_of_one_target({"out": logits, "aux": logits + 1}, ["out", "aux"], has_common_loss=False)
    ['out', 'aux']
    """
    if has_common_loss or not chosen:
        candidates = [name for name, output in outputs.items() if output.ndim] or list(outputs)
        main = [_MAIN_OUTPUT] if _MAIN_OUTPUT in candidates else candidates
        chosen = [*main, *chosen] if len(main) == 1 else []
    shapes = {outputs[name].shape for name in chosen}
    return list(dict.fromkeys(chosen)) if len(shapes) == 1 else []


def find_own_loss(outputs: Nested) -> Tensor | None:
    """Return the loss, a scalar, that a module computed itself and returned, or `None`.

    It is the part called `loss`, the only scalar in a tuple or list, or a scalar that is the only return value.

    >>> import torch
    >>> find_own_loss({"loss": torch.tensor(0.5), "logits": torch.zeros(2, 3)})
    tensor(0.5000)
    """
    parts = [("", outputs)] if tree.is_leaf(outputs) else tree.children(outputs)
    scalars = {key: part for key, part in parts if isinstance(part, Tensor) and not part.ndim}
    if _is_named(outputs):
        return scalars.get(_OWN_LOSS)
    return next(iter(scalars.values())) if len(scalars) == 1 else None


def _losses_for_one(output_spec: OutputSpec) -> str:
    """Return how to pass a loss for the first output alone."""
    first = output_spec.names[0]
    if isinstance(output_spec.structure, list):
        return f"loss=[loss{', None' * (len(output_spec.names) - 1)}]"
    return f"loss={{{first!r}: loss}}"


def check_numbers(argument: str, value: Nested) -> None:
    """Check that `value` contains no text and no arrays of objects.

    Raises:
        ValueError: If it does.

    >>> check_numbers("y", ["cat", "dog"])
    Traceback (most recent call last):
    ValueError: `y` must hold numbers, but it is a list of length 2 with text. Encode ...
    """
    for leaf in tree.leaves(value):
        is_text = isinstance(leaf, (str, bytes))
        if is_text or not _is_numeric(leaf):
            came = describe(value) if leaf is value and not is_text else f"{describe([*tree.leaves(value)])} with text"
            raise ValueError(
                f"`{argument}` must hold numbers, but it is {came}. Encode text and categories as integers first, "
                "such as with numpy.unique(y, return_inverse=True) for classes."
            )


def _is_numeric(leaf: object) -> bool:
    return isinstance(leaf, (Tensor, Number)) or getattr(getattr(leaf, "dtype", None), "kind", "O") in NUMERIC_KINDS


def broadcast_to_outputs(
    argument: str, value: Nested, output_spec: OutputSpec, *, is_single: IsSingle
) -> dict[str, Nested]:
    """Assign what `compile` got (losses, loss weights, lists of metrics) to the outputs.

    `is_single(value)` returns whether a value applies to every output, as opposed to a list or dictionary with one for
    each.

    Raises:
        ValueError: If names are unknown, or the number of parts is not that of the outputs.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping) and is_single(value):
        return dict.fromkeys(output_spec.names, value)
    paths = _paths(value, output_spec, (), is_single)
    if paths is None:
        _raise_mismatch(argument, value, output_spec, ())
    output_spec.check_outputs(paths)
    return {name: _getter(value, paths[name])(value) for name in output_spec.names if name in paths}


def _paths(
    value: Nested, output_spec: OutputSpec, active_outputs: Sequence[str], is_single: IsSingle
) -> dict[str, tree.Path] | None:
    """Return the path of the part of `value` for each output, or `None` if it does not match the outputs."""
    parts = tree.children(value)
    if _is_named(value):
        if all(key in output_spec.names or key in output_spec.others for key, _ in parts):
            return {str(key): (key,) for key, part in parts if part is not None}
    elif all(part is None or is_single(part) for _, part in parts):
        for names in (output_spec.names, active_outputs, output_spec.leaf_names):
            if len(parts) == len(names):
                return {name: (key,) for name, (key, part) in zip(names, parts) if part is not None}
    return _match_nested(value, output_spec.structure, is_single)


def _match_nested(
    value: Nested, structure: Nested, is_single: IsSingle, path: tree.Path = ()
) -> dict[str, tree.Path] | None:
    """Match `value` with the nested names, level by level; it may lack parts."""
    if value is None:
        return {}
    if isinstance(structure, str):
        return {structure: path} if is_single(value) else None
    inner = dict(tree.children(structure))
    parts = tree.children(value)
    if _is_named(value) and all(key in inner for key, _ in parts):
        pairs = [(key, part, inner[key]) for key, part in parts]
    elif (isinstance(structure, list) or not _is_named(value)) and _is_sequence(value) and len(parts) == len(inner):
        pairs = [(key, part, inside) for (key, part), inside in zip(parts, inner.values())]
    else:
        return None
    found: dict[str, tree.Path] = {}
    for key, part, inside in pairs:
        below = _match_nested(part, inside, is_single, (*path, key))
        if below is None:
            return None
        found |= below
    return found


def _raise_mismatch(argument: str, value: Nested, output_spec: OutputSpec, active_outputs: Sequence[str]) -> NoReturn:
    if argument == "y":
        check_numbers(argument, value)
    names = list(output_spec.names)
    unknown = [key for key, _ in tree.children(value) if isinstance(key, str) and key not in names]
    if unknown:
        raise ValueError(
            f"`{argument}` names the output {unknown[0]!r}, but the outputs of the model are {names}. "
            f"Received: {describe(value)}. {did_you_mean(unknown[0], names)}"
        )
    of_which = f", of which {list(active_outputs)} have a loss or metrics" if active_outputs else ""
    count = len(tree.children(value))
    raise ValueError(
        f"`{argument}` has {count} parts, but the model has {len(names)} outputs {names}{of_which}. "
        "Pass one part for each (None for none), or a dictionary by name."
    )


def _getter(value: Nested, path: tree.Path) -> Getter:
    return tree.path_getter(value, path) if path else identity


def identity(value: Whole) -> Whole:
    """Return the value unchanged."""
    return value
