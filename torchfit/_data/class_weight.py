"""`class_weight`: weights samples by their class, for every output and every form of targets."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Number

import torch
from torch import Tensor

from torchfit._types import Nested, UserData
from torchfit._utils import tree
from torchfit._utils.errors import describe
from torchfit._utils.names import did_you_mean
from torchfit._utils.tree import Batch

ClassWeightMap = Mapping[int, float]
ClassWeightRules = Mapping[str | None, ClassWeightMap | str]
_CHUNK_ROWS = 65536
_MAX_CLASS = 2**62
_TOLERANCE = 0.01  # of the sum of a row of soft labels


def as_class_weights(class_weight: object) -> ClassWeightRules:
    """Return, for each output (`None` for the only one), the class weights or "balanced".

    Classes may be written as 0, 0.0, False or "0". An empty dictionary gives all classes the weight 1.

    Raises:
        ValueError: If `class_weight` is not {class: number}, {output: {class: number}}, "balanced" or `None`.

    >>> as_class_weights({"0": 1, 1.0: 2}), as_class_weights({"digit": "balanced"})
    ({None: {0: 1.0, 1: 2.0}}, {'digit': 'balanced'})
    """
    if class_weight is None:
        return {}
    if not isinstance(class_weight, Mapping):
        return {None: _rule(class_weight)}
    if any(isinstance(value, (Mapping, str)) for value in class_weight.values()):
        rules = {str(name): _rule(value) for name, value in class_weight.items() if value is not None}
        return {name: rule for name, rule in rules.items() if rule}
    return {None: _rule(class_weight)} if class_weight else {}


def _rule(value: UserData) -> ClassWeightMap | str:
    if isinstance(value, str) and value == "balanced":
        return value
    if not isinstance(value, Mapping):
        raise ValueError(
            "`class_weight` must be a dictionary {class: weight}, or {output: {class: weight}} for several outputs, "
            f"or 'balanced', but it is {describe(value)}."
        )
    return {_class(label): _weight(label, weight) for label, weight in value.items()}


def _class(label: UserData) -> int:
    try:
        number = float(label)
    except (TypeError, ValueError, OverflowError):
        number = -1.0
    if not 0 <= number <= _MAX_CLASS or number != int(number):
        raise ValueError(
            f"`class_weight` must name classes by their index (0, 1, …), but one of its keys is {describe(label)}."
        )
    return int(number)


def _weight(label: object, weight: UserData) -> float:
    if isinstance(weight, Number) or getattr(weight, "shape", None) == ():
        number = float(weight)
        if number >= 0 and number != float("inf"):
            return number
    raise ValueError(
        f"`class_weight` must give each class a number of at least 0, but class {label!r} has {describe(weight)}."
    )


def resolve_balanced(
    rules: ClassWeightRules,
    labels: Callable[[], object],
    kind: str,
    output_names: Sequence[str] | None = None,
    index_targets: Mapping[str | None, bool] | None = None,
) -> dict[str | None, ClassWeightMap]:
    """Replace "balanced" by weights with the same sum for every class: samples / (classes · samples of the class).

    Args:
        rules: What `as_class_weights` returned.
        labels: Returns the targets of all samples, or `None` if they are unknown.
        kind: The name of this kind of data, for messages.
        output_names: The names of the outputs, for targets in a list.
        index_targets: As in `BatchSpec`.

    Raises:
        ValueError: If the labels cannot be counted.
    """
    resolved: dict[str | None, ClassWeightMap] = {
        name: rule for name, rule in rules.items() if not isinstance(rule, str)
    }
    if len(resolved) == len(rules):
        return resolved
    targets = labels()
    if targets is None:
        raise ValueError(
            f"`class_weight='balanced'` needs the labels of all samples, which {kind} does not have. Count them "
            "yourself and pass a dictionary {class: weight}, or pass arrays."
        )
    for name in rules.keys() - resolved.keys():
        classes = TargetClasses(is_index=(index_targets or {}).get(name))
        resolved[name] = _balance(class_counts(_part(targets, name, output_names), classes))
    return {name: resolved[name] for name in rules}


def _balance(counts: Mapping[int, int]) -> ClassWeightMap:
    total = sum(counts.values())
    return {label: total / (len(counts) * count) for label, count in counts.items()}


def class_counts(targets: Nested, classes: "TargetClasses") -> dict[int, int]:
    """Count the samples of every class in targets `(samples, …)`, in memory or on disk.

    Negative labels, which losses ignore, do not count.

    Raises:
        ValueError: If the targets contain no classes, or only one besides negative labels.
    """
    total: dict[int, int] = {}
    for chunk in _chunks(targets):
        is_whole = len(chunk) == len(targets)
        labels, counts = torch.unique(classes.of(chunk, is_whole=is_whole), return_counts=True)
        for label, count in zip(labels.tolist(), counts.tolist()):
            total[label] = total.get(label, 0) + count
    counts_by_class = {label: count for label, count in sorted(total.items()) if label >= 0}
    if len(counts_by_class) < min(2, len(total)):
        raise ValueError(
            f"`class_weight='balanced'` counts classes from 0 on, but `y` has the labels {sorted(total)[:8]}. Renumber "
            "them from 0."
        )
    return counts_by_class


def _chunks(targets: Nested) -> list[Tensor]:
    """Return in-memory targets as they are, and on-disk targets in chunks."""
    if isinstance(targets, Tensor):
        return [targets]
    if not hasattr(targets, "read"):
        _check_tensor(targets)
    starts = range(0, len(targets), _CHUNK_ROWS)
    return [targets.read(slice(start, min(start + _CHUNK_ROWS, len(targets)))) for start in starts]


class ClassWeights:
    """Multiplies sample weights by class weights, with one lookup on the device for each output."""

    def __init__(
        self,
        rules: Mapping[str | None, ClassWeightMap],
        output_names: Sequence[str] | None,
        dtype: torch.dtype,
        index_targets: Mapping[str | None, bool | None] | None = None,
    ) -> None:
        """Build a table for each output, with as many entries as `rules` needs."""
        hints = index_targets or {}
        self._tables = {name: _Table(rule, dtype, hints.get(name)) for name, rule in rules.items() if rule}
        self._names = output_names

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch with its sample weights multiplied."""
        return Batch(batch.inputs, batch.targets, self.weights(batch.targets, batch.sample_weight))

    def weights(self, targets: Nested, sample_weight: UserData, *, is_whole: bool = False) -> Nested:
        """Return `sample_weight` times the class weights, in the structure of `targets`.

        Args:
            targets: The targets of a batch.
            sample_weight: The sample weights of the batch, or `None`.
            is_whole: Whether these are the targets of all samples.

        Raises:
            ValueError: If there are no targets, they contain no classes, or it is ambiguous which output is meant.
        """
        if targets is None:
            raise ValueError("`class_weight` needs the classes of the samples: pass them as `y`.")
        if tree.is_leaf(targets):
            weights = self._tables[_single_output(self._tables, targets)].look_up(targets, is_whole)
            return (
                weights if sample_weight is None else tree.map(lambda weight: _product(weights, weight), sample_weight)
            )
        keys = {name: _key(targets, name, self._names) for name in self._tables}
        weights, parts = _weights_per_output(sample_weight, targets), dict(tree.children(targets))
        for name, key in keys.items():
            _check_tensor(parts[key])
            weights[key] = _product(self._tables[name].look_up(parts[key], is_whole), weights[key])
        return weights


class _Table:
    """The class weights of one output; classes that are not in the rule have the weight 1."""

    def __init__(self, rule: ClassWeightMap, dtype: torch.dtype, is_index: bool | None) -> None:
        self._classes = TargetClasses(is_index, largest_class=max(rule))
        self._labels = torch.tensor(sorted(rule))
        self._weights = torch.tensor([rule[label] for label in sorted(rule)], dtype=dtype)

    def look_up(self, targets: Nested, is_whole: bool) -> Tensor:
        """Return the weights `(samples,)` of these targets, or `(samples, steps)` for class indices of that shape."""
        labels = self._classes.of(targets, is_whole=is_whole)
        if self._labels.device != targets.device:
            self._labels, self._weights = self._labels.to(targets.device), self._weights.to(targets.device)
        position = torch.searchsorted(self._labels, labels).clamp_(max=len(self._labels) - 1)
        return torch.where(self._labels[position] == labels, self._weights[position], 1.0)


def _product(by_class: Tensor, sample_weight: Tensor | None) -> Tensor:
    """Multiply class weights `(samples,)` or `(samples, steps)` by sample weights `(samples, …)`."""
    if sample_weight is None:
        return by_class
    if not isinstance(sample_weight, Tensor):
        raise ValueError(f"`sample_weight` must hold numbers, but it is {describe(sample_weight)}.")
    axes = max(by_class.ndim, sample_weight.ndim)
    class_factor, sample_factor = (
        part.reshape(*part.shape, *[1] * (axes - part.ndim)) for part in (by_class, sample_weight)
    )
    if any(a != b and 1 not in (a, b) for a, b in zip(class_factor.shape, sample_factor.shape)):
        raise ValueError(
            f"`sample_weight` is {describe(sample_weight)}, which does not match the labels, whose class weights have "
            f"the shape {tuple(by_class.shape)}. Pass a weight for each sample."
        )
    return class_factor * sample_factor


def _check_tensor(targets: Nested) -> None:
    if not isinstance(targets, Tensor):
        raise ValueError(f"`class_weight` needs the classes of the samples, but `y` is {describe(targets)}.")


def _single_output(tables: Mapping[str | None, object], targets: Nested) -> str | None:
    _check_tensor(targets)
    if len(tables) > 1:
        raise ValueError(
            f"`class_weight` names the outputs {list(tables)}, but `y` is {describe(targets)}, for one output. Pass "
            "`y` as a dictionary with these names."
        )
    return next(iter(tables))


def _part(targets: Nested, name: str | None, output_names: Sequence[str] | None) -> Nested:
    if tree.is_leaf(targets):
        return targets
    return dict(tree.children(targets))[_key(targets, name, output_names)]


def _key(targets: Nested, name: str | None, output_names: Sequence[str] | None) -> tree.Key:
    """Return the key or position of an output in the targets of several outputs."""
    keys: dict[tree.Key, Nested] = dict(tree.children(targets))
    if name is None and len(keys) == 1:
        return next(iter(keys))
    names = list(map(str, keys)) if _has_names(keys) else _names(len(keys), output_names)
    if name is None:
        raise ValueError(
            f"`class_weight` does not say which of the {len(keys)} outputs it is for. Pass "
            f"{{output: {{class: weight}}}}, with outputs of {names}."
        )
    if name not in names:
        raise ValueError(
            f"`class_weight` names the output {name!r}, but `y` has parts for {names}. {did_you_mean(name, names)}"
        )
    return list(keys)[names.index(name)]


def _has_names(keys: Iterable[tree.Key]) -> bool:
    """Return whether the parts are named, as in dictionaries, named tuples and dataclasses."""
    return any(isinstance(key, str) for key in keys)


def _names(count: int, given: Sequence[str] | None) -> list[str]:
    return list(given) if given is not None else [f"output_{number + 1}" for number in range(count)]


def _weights_per_output(sample_weight: UserData, targets: Nested) -> Nested:
    """Return the weights in the structure of the targets of several outputs, as a new dictionary or list."""
    keys = [key for key, _ in tree.children(targets)]
    if sample_weight is None or tree.is_leaf(sample_weight):
        weights = dict.fromkeys(keys, sample_weight)
    else:
        parts = dict(tree.children(sample_weight))
        weights = {key: parts.get(key) for key in keys}
    return weights if _has_names(weights) else list(weights.values())


class TargetClasses:
    """Reads the classes from targets, in batches or all at once.

    Targets of two axes are one-hot rows or soft labels `(samples, classes)`, or class indices `(samples, steps)`. The
    loss may determine which; else the values do, and the first result holds for all batches. Ambiguous targets raise
    an error.
    """

    def __init__(self, is_index: bool | None = None, largest_class: int = 0) -> None:
        """Read targets.

        Args:
            is_index: Whether integer targets of two axes are class indices, `None` if unknown.
            largest_class: The largest class with a weight; one-hot rows must have a column for it.
        """
        self._expects_index = is_index
        self._largest_class = largest_class
        self._has_index: bool | None = None  # inferred from the values

    def of(self, targets: Nested, *, is_whole: bool = False) -> Tensor:
        """Return the classes `(samples,)`, or `(samples, steps)` for class indices of two axes; -1 means no class.

        Soft labels belong to the class with the largest value, and fractional labels to the nearest class.

        Args:
            targets: The targets of a batch.
            is_whole: Whether these are the targets of all samples.

        Raises:
            ValueError: If the targets have more than two axes, or rows of any other kind.
        """
        if not isinstance(targets, Tensor) or not 1 <= targets.ndim <= 2 or targets.is_complex():
            raise ValueError(_refusal(targets, "has other axes"))
        if targets.ndim == 1 or targets.shape[1] == 1:
            return _nearest(targets.reshape(-1))
        if self._are_indices(targets, is_whole):
            return _nearest(targets)
        return (targets.to(torch.uint8) if targets.dtype == torch.bool else targets).argmax(1)

    def _are_indices(self, targets: Tensor, is_whole: bool) -> bool:
        """Return whether targets of two axes are class indices; values on an accelerator are read only once."""
        if self._expects_index:
            return not targets.is_floating_point() or _has_index_values(targets)
        if self._has_index or (self._has_index is False and targets.device.type != "cpu"):
            return self._has_index
        is_index = self._infer(targets, is_whole)
        if is_index and self._has_index is False:
            raise ValueError(_refusal(targets, "has rows of another kind than the batches before"))
        self._has_index = is_index
        return is_index

    def _infer(self, targets: Tensor, is_whole: bool) -> bool:
        """Return whether the values of targets are class indices.

        Raises:
            ValueError: If the targets are ambiguous, for example with several labels in a row.
        """
        if _has_index_values(targets):
            return True
        if not _has_one_class_each(targets):
            raise ValueError(_refusal(targets, "has rows with no or several labels, or of class indices 0 and 1 only"))
        if self._expects_index is not None or not bool(((targets == 0) | (targets == 1)).all()):
            return False
        if is_whole and _is_one_column(targets):
            raise ValueError(_refusal(targets, "has one row for all samples, one-hot or of class indices 0 and 1"))
        return self._largest_class >= targets.shape[1]  # One-hot rows would have a column for each class.


def _has_index_values(targets: Tensor) -> bool:
    """Return whether the values are integers, not all 0 or 1: neither one-hot rows nor soft labels hold such values."""
    if targets.dtype == torch.bool:
        return False
    has_other_values = bool(((targets < 0) | (targets > 1)).any())
    return has_other_values and (not targets.is_floating_point() or bool((targets == targets.round()).all()))


def _has_one_class_each(targets: Tensor) -> bool:
    """Return whether every row is one-hot or a probability distribution over the classes."""
    are_fractions = bool(((targets >= 0) & (targets <= 1)).all())
    return are_fractions and bool(((targets.sum(1, dtype=torch.float32) - 1).abs() < _TOLERANCE).all())


def _is_one_column(targets: Tensor) -> bool:
    """Return whether there are several one-hot rows, all of the same class."""
    return len(targets) > 1 and not targets.is_floating_point() and int((targets.sum(0) > 0).sum()) == 1


def _nearest(targets: Tensor) -> Tensor:
    if not targets.is_floating_point():
        return targets.long()
    return torch.nan_to_num(targets, nan=-1.0, posinf=-1.0, neginf=-1.0).round().long()


def _refusal(targets: Nested, problem: str) -> str:
    return (
        "`class_weight` needs one class for each sample, as targets (samples,), (samples, 1) or one-hot (samples, "
        f"classes), or class indices (samples, steps), but `y` is {describe(targets)} and {problem}. Pass "
        "`sample_weight` instead, with a weight for each sample or of the shape of `y`."
    )
