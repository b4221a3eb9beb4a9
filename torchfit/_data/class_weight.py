"""`class_weight`: weights of samples by their class, for every output and every form of targets."""

from collections.abc import Callable, Mapping, Sequence
from numbers import Number
from typing import Any

import torch
from torch import Tensor

from torchfit._utils import tree
from torchfit._utils.batch import Batch
from torchfit._utils.errors import describe
from torchfit._utils.names import did_you_mean

ClassWeightMap = Mapping[int, float]
ClassWeightRules = Mapping[str | None, ClassWeightMap | str]
_CHUNK_ROWS = 65536


def as_class_weights(class_weight: Any) -> ClassWeightRules:
    """Return, for each output (`None` for the only one), the weights by class or "balanced".

    Classes may be written as 0, 0.0 or "0".

    Raises:
        ValueError: If it is neither a dictionary of numbers by class, one by output, "balanced" nor `None`.

    >>> as_class_weights({"0": 1, 1.0: 2}), as_class_weights({"digit": "balanced"})
    ({None: {0: 1.0, 1: 2.0}}, {'digit': 'balanced'})
    """
    if class_weight is None:
        return {}
    if not isinstance(class_weight, Mapping) or not class_weight:
        return {None: _rule(class_weight)}
    if any(isinstance(value, (Mapping, str)) for value in class_weight.values()):
        return {str(name): _rule(value) for name, value in class_weight.items() if value is not None}
    return {None: _rule(class_weight)}


def _rule(value: Any) -> ClassWeightMap | str:
    if isinstance(value, str) and value == "balanced":
        return value
    if not isinstance(value, Mapping) or not value:
        raise ValueError(
            "`class_weight` must be a dictionary {class: weight}, or {output: {class: weight}} for several outputs, "
            f"or 'balanced', but it is {describe(value)}."
        )
    return {_class(label): _weight(label, weight) for label, weight in value.items()}


def _class(label: Any) -> int:
    try:
        number = float(label)
    except (TypeError, ValueError):
        number = -1.0
    if number < 0 or number != int(number):
        raise ValueError(
            f"`class_weight` must name classes by their index (0, 1, …), but one of its keys is {describe(label)}."
        )
    return int(number)


def _weight(label: Any, weight: Any) -> float:
    if isinstance(weight, Number) or getattr(weight, "shape", None) == ():
        number = float(weight)
        if number >= 0 and number != float("inf"):
            return number
    raise ValueError(
        f"`class_weight` must give each class a number of at least 0, but class {label!r} has {describe(weight)}."
    )


def resolve_balanced(rules: ClassWeightRules, labels: Callable[[], Any], kind: str) -> dict[str | None, ClassWeightMap]:
    """Replace "balanced" by weights of the same sum for every class: samples / (classes · samples of the class).

    `labels` returns the targets of all samples, or `None`; `kind` is the name of the data in messages.

    Raises:
        ValueError: If the labels cannot be counted.
    """
    if "balanced" not in rules.values():
        return {name: rule for name, rule in rules.items() if not isinstance(rule, str)}
    targets = labels()
    if targets is None:
        raise ValueError(
            f"`class_weight='balanced'` needs the labels of all samples, which {kind} does not have. Count them "
            "yourself and pass a dictionary {class: weight}, or pass arrays."
        )
    found = {name: _part(targets, name, None) for name in rules}
    return {name: _balance(found[name]) if isinstance(rule, str) else rule for name, rule in rules.items()}


def _balance(targets: Any) -> ClassWeightMap:
    counts = class_counts(targets)
    present = counts.nonzero().flatten().tolist()
    total = int(counts.sum())
    return {label: total / (len(present) * int(counts[label])) for label in present}


def class_counts(targets: Any) -> Tensor:
    """Count the samples of every class in targets `(samples, …)`, one-hot or sparse, in memory or on disk."""
    counts = [torch.bincount(classes_of(chunk).clamp(min=0)) for chunk in _chunks(targets)]
    total = torch.zeros(max(map(len, counts)), dtype=torch.int64)
    for count in counts:
        total[: len(count)] += count.cpu()
    return total


def _chunks(targets: Any) -> list[Tensor]:
    """Return targets in memory as they are, and those on disk in chunks."""
    if isinstance(targets, Tensor):
        return [targets]
    starts = range(0, len(targets), _CHUNK_ROWS)
    return [targets.read(slice(start, min(start + _CHUNK_ROWS, len(targets)))) for start in starts]


def classes_of(targets: Tensor) -> Tensor:
    """Return the class `(samples,)` of sparse targets `(samples,)`, `(samples, 1)` or one-hot `(samples, classes)`.

    Raises:
        ValueError: If the targets have more axes.
    """
    if targets.ndim > 2:
        raise ValueError(
            "`class_weight` needs one class for each sample, as targets (samples,), (samples, 1) or one-hot (samples, "
            f"classes), but `y` is {describe(targets)}. Pass `sample_weight` of that shape instead."
        )
    if targets.ndim == 2:
        targets = targets[:, 0] if targets.shape[1] == 1 else targets.argmax(1)
    return targets.long()


class ClassWeights:
    """Multiplies the weights of samples by those of their classes: one lookup on the device for each output."""

    def __init__(
        self, rules: Mapping[str | None, ClassWeightMap], output_names: Sequence[str] | None, dtype: torch.dtype
    ) -> None:
        """Build a table for each output. Its first and last entries are for labels that are no class: they weigh 1."""
        self._tables = {name: _table(rule, dtype) for name, rule in rules.items()}
        self._names = output_names

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch with the weights of its samples multiplied."""
        return Batch(batch.inputs, batch.targets, self.weights(batch.targets, batch.sample_weight))

    def weights(self, targets: Any, sample_weight: Any) -> Any:
        """Return `sample_weight` times the weights of the classes, in the structure of `targets`.

        Raises:
            ValueError: If there are no targets, or it is ambiguous which output is meant.
        """
        if targets is None:
            raise ValueError("`class_weight` needs the classes of the samples: pass them as `y`.")
        if tree.is_leaf(targets):
            table = self._table(_single_output(self._tables, targets), targets.device)
            found = _lookup(table, targets)
            return found if sample_weight is None else tree.map(lambda weight: _product(found, weight), sample_weight)
        keys = {name: _key(targets, name, self._names) for name in self._tables}
        weights = _weights_per_output(sample_weight, targets)
        for name, key in keys.items():
            part = targets if key is None else targets[key]
            found = _lookup(self._table(name, part.device), part)
            weights[key] = _product(found, weights[key])
        return weights

    def _table(self, name: str | None, device: torch.device) -> Tensor:
        table = self._tables[name]
        if table.device != device:
            table = self._tables[name] = table.to(device)
        return table


def _table(rule: ClassWeightMap, dtype: torch.dtype) -> Tensor:
    table = torch.ones(max(rule) + 3, dtype=dtype)
    for label, weight in rule.items():
        table[label + 1] = weight
    return table


def _lookup(table: Tensor, targets: Tensor) -> Tensor:
    return table[(classes_of(targets) + 1).clamp(0, len(table) - 1)]


def _product(by_class: Tensor, sample_weight: Tensor | None) -> Tensor:
    """Multiply weights `(samples,)` with `(samples, …)`."""
    if sample_weight is None:
        return by_class
    return sample_weight * by_class.reshape(-1, *[1] * (sample_weight.ndim - 1))


def _single_output(tables: Mapping[str | None, Any], targets: Any) -> str | None:
    if len(tables) > 1:
        raise ValueError(
            f"`class_weight` names the outputs {list(tables)}, but `y` is {describe(targets)}, for one output. Pass "
            "`y` as a dictionary with these names."
        )
    return next(iter(tables))


def _part(targets: Any, name: str | None, output_names: Sequence[str] | None) -> Any:
    if tree.is_leaf(targets):
        return targets
    return targets[_key(targets, name, output_names)]


def _key(targets: Any, name: str | None, output_names: Sequence[str] | None) -> Any:
    """Return the key or position of an output in targets for several."""
    keys = dict(tree.children(targets))
    if name is None and len(keys) == 1:
        return next(iter(keys))
    names = list(map(str, keys)) if isinstance(targets, Mapping) else _names(len(keys), output_names)
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


def _names(count: int, given: Sequence[str] | None) -> list[str]:
    return list(given) if given is not None else [f"output_{number + 1}" for number in range(count)]


def _weights_per_output(sample_weight: Any, targets: Any) -> Any:
    """Return the weights in the structure of the targets of several outputs, as a new dictionary or list."""
    keys = [key for key, _ in tree.children(targets)]
    if sample_weight is None or tree.is_leaf(sample_weight):
        found = dict.fromkeys(keys, sample_weight)
    else:
        parts = dict(tree.children(sample_weight))
        found = {key: parts.get(key) for key in keys}
    return found if isinstance(targets, Mapping) else list(found.values())
