"""What streams yield, turned into batches. How is worked out once for each structure, at its first batch."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from torchfit._data.arrays import batch_packer
from torchfit._data.convert import Conversion, join_numbers, tensor_of
from torchfit._data.forms import unpack
from torchfit._data.frames import array_of, by_input, has_columns_for, is_frame
from torchfit._utils import tree
from torchfit._utils.batch import Batch

Convert = Callable[[Any], Any]
_ARGUMENTS = ("x", "y", "sample_weight")


class BatchReader:
    """Turns one thing that a stream yielded into a `Batch` on the device.

    The structure of the first batch is walked once and gives a plan of flat conversions, which serves every
    batch of the same structure.
    """

    def __init__(self, conversion: Conversion, weigh: Callable[[Batch], Batch] | None = None) -> None:
        """Convert as `conversion` says; `weigh` is applied to every batch."""
        self._conversion = conversion
        self._weigh = weigh
        self._plans: dict[Any, Callable[[Any], Batch]] = {}

    def __call__(self, raw: Any) -> Batch:
        """Convert one batch.

        Raises:
            ValueError: If it is no batch, holds no numbers or no rows, or its parts differ in their rows.
        """
        key = structure(raw)
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = self._plan(raw)
        batch = plan(raw)
        return batch if self._weigh is None else self._weigh(batch)

    def _plan(self, raw: Any) -> Callable[[Any], Batch]:
        parts = self._parts(raw)
        paths = list(tree.leaves_with_path(parts))
        are_arrays = all(type(leaf) is Tensor or type(leaf) is np.ndarray for _, leaf in paths)
        if are_arrays and not any(map(_moves_itself, parts)):
            return self._plan_of_arrays(parts, paths, is_wrapped=isinstance(raw, (tuple, list)))
        return self._convert

    def _plan_of_arrays(self, parts: Any, paths: Any, is_wrapped: bool) -> Callable[[Any], Batch]:
        """Return the conversion of tensors and NumPy arrays: one flat list of them, taken from their places."""
        takes = [tree.path_getter(parts, path) for path, _ in paths]
        roots = [tree.format_path(path[1:], _ARGUMENTS[path[0]]) for path, _ in paths]
        places = [self._place(path[0]) for path, _ in paths]
        pack = batch_packer(parts)

        def convert(raw: Any) -> Batch:
            given = raw if is_wrapped else (raw,)
            tensors = [place(tensor_of(root, take(given))) for take, root, place in zip(takes, roots, places)]
            _check_rows([tensor.shape[0] for tensor in tensors])
            return pack(tensors)

        return convert

    def _convert(self, raw: Any) -> Batch:
        """Convert a batch with a part that is no plain tensor."""
        parts, lengths = [], []
        for number, part in enumerate(self._parts(raw)):
            part = self._normal(number, part)
            place, root = self._place(number), _ARGUMENTS[number]
            if _moves_itself(part):
                parts.append(part.to(self._conversion.device))
                continue
            found = [
                self._leaf(tree.format_path(path, root), leaf, place) for path, leaf in tree.leaves_with_path(part)
            ]
            lengths += [len(leaf) for leaf in found if type(leaf) is Tensor]
            parts.append(tree.unflattener(part)(found) if part is not None else None)
        _check_rows(lengths)
        return Batch(*parts)

    def _parts(self, raw: Any) -> tuple[Any, ...]:
        parts = unpack(raw)
        if parts[0] is None:
            raise ValueError("The data gave a batch whose `x` is None: give the inputs of the model.")
        return parts[:1] if self._conversion.inputs_only else parts

    def _normal(self, number: int, part: Any) -> Any:
        if number == 0 and has_columns_for(part, self._conversion.input_names):
            return by_input("x", part, self._conversion.input_names or ())
        if number == 2 and is_frame(part) and not hasattr(part, "columns"):
            return array_of("sample_weight", part).squeeze(-1)
        return join_numbers(_ARGUMENTS[number], part)

    def _leaf(self, argument: str, value: Any, place: Convert) -> Any:
        return value.to(self._conversion.device) if _moves_itself(value) else place(tensor_of(argument, value))

    def _place(self, number: int) -> Convert:
        conversion = self._conversion
        dtype = conversion.target_dtype if number else conversion.input_dtype
        return conversion.placement(dtype, all_floating=number == 2)


def structure(value: Any) -> Any:
    """Return a key that is the same for batches of the same structure: types, lengths and names, never values."""
    kind = type(value)
    if kind is Tensor or kind is np.ndarray:
        return kind
    if kind is tuple or kind is list:
        return (kind, *map(structure, value))
    if kind is dict or isinstance(value, Mapping):
        return (kind, *[(name, structure(part)) for name, part in value.items()])
    return kind


def _moves_itself(value: Any) -> bool:
    """Tell whether `value` is an object of another kind that knows how to move, such as a `PackedSequence`."""
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
