"""Converts what generators, loaders and Datasets yield into batches. How is decided once for each structure."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from torchfit._data.adapters.frames import array_of, columns_by_input, has_columns_for, is_frame
from torchfit._data.convert import BatchSpec, lists_to_arrays, tensor_of
from torchfit._utils import tree
from torchfit._utils.batch import Batch
from torchfit._utils.errors import describe

Convert = Callable[[Any], Any]
_ARGUMENTS = ("x", "y", "sample_weight")


class BatchConverter:
    """Converts what an iterable yielded into a `Batch` on the device.

    The first batch of each structure gives a plan of flat conversions, which is used for all batches of that structure.
    """

    def __init__(self, batch_spec: BatchSpec, apply_class_weight: Callable[[Batch], Batch] | None = None) -> None:
        """Convert to the dtypes and device of `batch_spec`; `apply_class_weight` is called with every batch."""
        self._batch_spec = batch_spec
        self._apply_class_weight = apply_class_weight
        self._plans: dict[Any, Callable[[Any], Batch]] = {}

    def __call__(self, raw: Any) -> Batch:
        """Convert one batch.

        Raises:
            ValueError: If it is no batch, holds no numbers or no samples, or its parts differ in length.
        """
        key = structure_key(raw)
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = self._plan(raw)
        batch = plan(raw)
        return batch if self._apply_class_weight is None else self._apply_class_weight(batch)

    def _plan(self, raw: Any) -> Callable[[Any], Batch]:
        parts = self._parts(raw)
        paths = list(tree.leaves_with_path(parts))
        are_arrays = all(type(leaf) is Tensor or type(leaf) is np.ndarray for _, leaf in paths)
        if are_arrays and not any(map(_has_to_method, parts)):
            return self._plan_of_arrays(parts, paths, is_wrapped=isinstance(raw, (tuple, list)))
        return self._convert

    def _plan_of_arrays(self, parts: Any, paths: Any, is_wrapped: bool) -> Callable[[Any], Batch]:
        """Return the conversion of a structure of tensors and NumPy arrays: a flat list, one entry for each."""
        getters = [tree.path_getter(parts, path) for path, _ in paths]
        names = [tree.format_path(path[1:], _ARGUMENTS[path[0]]) for path, _ in paths]
        transfers = [self._transfer(path[0]) for path, _ in paths]
        pack = batch_packer(parts)

        def convert(raw: Any) -> Batch:
            given = raw if is_wrapped else (raw,)
            tensors = [transfer(tensor_of(name, get(given))) for get, name, transfer in zip(getters, names, transfers)]
            _check_rows([tensor.shape[0] for tensor in tensors])
            return pack(tensors)

        return convert

    def _convert(self, raw: Any) -> Batch:
        """Convert a batch in which not every leaf is a tensor or NumPy array."""
        parts, lengths = [], []
        for number, part in enumerate(self._parts(raw)):
            part = self._normalize(number, part)
            transfer, name = self._transfer(number), _ARGUMENTS[number]
            if _has_to_method(part):
                parts.append(part.to(self._batch_spec.device))
                continue
            found = [
                self._leaf(tree.format_path(path, name), leaf, transfer) for path, leaf in tree.leaves_with_path(part)
            ]
            lengths += [len(leaf) for leaf in found if type(leaf) is Tensor]
            parts.append(tree.unflattener(part)(found) if part is not None else None)
        _check_rows(lengths)
        return Batch(*parts)

    def _parts(self, raw: Any) -> tuple[Any, ...]:
        parts = unpack(raw)
        if parts[0] is None:
            raise ValueError("The data gave a batch whose `x` is None: give the inputs of the model.")
        return parts[:1] if self._batch_spec.inputs_only else parts

    def _normalize(self, number: int, part: Any) -> Any:
        if number == 0 and has_columns_for(part, self._batch_spec.input_names):
            return columns_by_input("x", part, self._batch_spec.input_names or ())
        if number == 2 and is_frame(part) and not hasattr(part, "columns"):
            return array_of("sample_weight", part).squeeze(-1)
        return lists_to_arrays(_ARGUMENTS[number], part)

    def _leaf(self, argument: str, value: Any, transfer: Convert) -> Any:
        return value.to(self._batch_spec.device) if _has_to_method(value) else transfer(tensor_of(argument, value))

    def _transfer(self, number: int) -> Convert:
        batch_spec = self._batch_spec
        dtype = batch_spec.target_dtype if number else batch_spec.input_dtype
        return batch_spec.make_transfer(dtype, all_floating=number == 2)


def structure_key(value: Any) -> Any:
    """Return a key that is equal for batches of the same structure: types, lengths and names, never values."""
    kind = type(value)
    if kind is Tensor or kind is np.ndarray:
        return kind
    if kind is tuple or kind is list:
        return (kind, *map(structure_key, value))
    if kind is dict or isinstance(value, Mapping):
        return (kind, *[(name, structure_key(part)) for name, part in value.items()])
    return kind


def _has_to_method(value: Any) -> bool:
    """Return whether `value` is no array but can be moved to a device, such as a `PackedSequence`."""
    return hasattr(value, "to") and not isinstance(value, Tensor) and not hasattr(value, "__array__")


def _check_rows(lengths: list[int]) -> None:
    if not lengths or (lengths[0] and lengths.count(lengths[0]) == len(lengths)):
        return
    if 0 in lengths:
        raise ValueError("The data gave a batch without samples. Leave out the empty batch, or correct its length.")
    raise ValueError(
        f"The parts of a batch differ in their number of samples: {lengths}. x, y and sample_weight need the same "
        "number of rows."
    )


def batch_packer(parts: tuple[Any, ...]) -> Callable[[Sequence[Tensor]], Batch]:
    """Return a function that builds a `Batch` from a flat sequence of the leaves of `parts`."""
    if all(tree.is_leaf(part) for part in Batch(*parts)):
        return _flat_batch
    pack = tree.unflattener(tuple(parts))
    return lambda leaves: Batch(*pack(leaves))


def _flat_batch(leaves: Sequence[Tensor]) -> Batch:
    return tuple.__new__(Batch, leaves)


def unpack(raw: Any) -> tuple[Any, ...]:
    """Return the parts `(x,)`, `(x, y)` or `(x, y, sample_weight)` of what an iterable yields.

    Anything that is no tuple is `x` as a whole; lists count as tuples, because torch's `default_collate` returns lists.

    Raises:
        ValueError: If it is a named tuple, whose meaning would be ambiguous, or a tuple of another length.

    >>> unpack((1, 2)), unpack({"a": 1})
    ((1, 2), ({'a': 1},))
    """
    if not isinstance(raw, (tuple, list)) or isinstance(raw, Batch):
        return tuple(raw) if isinstance(raw, Batch) else (raw,)
    if hasattr(raw, "_fields"):
        raise ValueError(
            f"The data gave a named tuple, {type(raw).__name__}{raw._fields}. It is ambiguous whether its fields or "
            "its order say what is x, y and sample_weight: yield a plain tuple (x, y) or (x, y, sample_weight), or "
            "the tuple (batch,) if the named tuple is the input of the model."
        )
    if isinstance(raw, list) and raw and all(isinstance(value, (int, float)) for value in raw):
        return (raw,)
    if len(raw) not in (1, 2, 3):
        raise ValueError(
            f"The data must give (x,), (x, y) or (x, y, sample_weight), but gave {describe(raw)}. Put several inputs "
            "into one tuple or dictionary: ((x1, x2), y)."
        )
    return tuple(raw)
