"""Converts what generators, loaders and Datasets yield into batches.

Tensors and arrays are moved to the device; everything else (text, numbers, objects) stays as it is. The parts of a
batch may differ in their first axis, and its structure may change from batch to batch.
"""

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from numbers import Number

import numpy as np
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from torchfit._data.adapters.lazy_arrays import SparseArray, is_sparse
from torchfit._data.convert import (
    NUMERIC_KINDS,
    BatchSpec,
    Transfer,
    array_of,
    array_of_numbers,
    holds_numbers,
    is_frame,
    is_numeric,
    is_series,
    series_holds_numbers,
    share_memory,
)
from torchfit._types import Nested, UserData
from torchfit._utils import tree
from torchfit._utils.errors import describe
from torchfit._utils.tensors import dense, is_plain
from torchfit._utils.tree import Batch

_ARGUMENTS = ("x", "y", "sample_weight")
_MAX_PLANS = 64  # of structures; lists with one tensor for each sample may have many lengths
_Plan = Callable[[UserData], Batch]


class BatchConverter:
    """Converts what an iterable yielded into a `Batch` on the device.

    For a structure of tensors and NumPy arrays only, the first batch determines a plan, a flat list of conversions,
    which is used for all batches of that structure. Other batches are converted recursively.
    """

    def __init__(
        self,
        batch_spec: BatchSpec,
        apply_class_weight: Callable[[Batch], Batch] | None = None,
        *,
        is_fresh: bool = False,
    ) -> None:
        """Convert to the dtypes and device of a spec.

        Args:
            batch_spec: The dtypes and the device.
            apply_class_weight: Called with every batch.
            is_fresh: Whether the tensors share no memory with anything else, as after collating. Otherwise they are
                copied, so that steps that write in place do not change the user's data.
        """
        self._batch_spec = batch_spec
        self._apply_class_weight = apply_class_weight
        self._convert_array = [partial(_convert_array, transfer, is_fresh) for transfer in batch_spec.transfers]
        self._plans: dict[object, _Plan] = {}

    def __call__(self, raw: UserData) -> Batch:
        """Convert one batch.

        Raises:
            ValueError: If it is not a batch, or has no samples.
        """
        if self._batch_spec.label_names:
            raw = self._batch_spec.split_batch(raw)
        key = structure_key(raw)
        plan = self._plans.get(key) if key is not None else self._convert
        batch = self._plan(raw, key)(raw) if plan is None else plan(raw)
        return batch if self._apply_class_weight is None else self._apply_class_weight(batch)

    def convert_parts(self, x: UserData, y: UserData, sample_weight: UserData) -> Batch:
        """Convert a batch that is given as its three parts."""
        parts = tuple(map(_array_or_list, Batch(x, y, sample_weight)))
        self._look_for_samples(parts)
        batch = self._convert_all(parts)
        return batch if self._apply_class_weight is None else self._apply_class_weight(batch)

    def _plan(self, raw: UserData, key: object) -> _Plan:
        parts = self._parts(raw)
        is_regular = all(map(_is_regular, tree.leaves(parts)))
        if any(map(_is_opaque, parts)) or not is_regular or len(self._plans) >= _MAX_PLANS:
            return self._convert
        plan = self._plans[key] = self._plan_of_arrays(parts, is_wrapped=isinstance(raw, (tuple, list)))
        return plan

    def _plan_of_arrays(self, parts: tuple[object, ...], is_wrapped: bool) -> _Plan:
        """Return the conversion of a structure of tensors and NumPy arrays: a flat list, one entry for each."""
        paths = [path for path, _ in tree.leaves_with_path(parts)]
        getters = [tree.path_getter(parts, path) for path in paths]
        converters = [self._convert_array[int(path[0])] for path in paths]
        pack = batch_packer(parts)

        def convert(raw: UserData) -> Batch:
            given = raw if is_wrapped else (raw,)
            found = [convert_array(get(given)) for get, convert_array in zip(getters, converters)]
            _check_samples(found)
            return pack(found)

        return convert

    def _convert(self, raw: UserData) -> Batch:
        return self._convert_all(self._parts(raw))

    def _convert_all(self, parts: tuple[object, ...]) -> Batch:
        """Convert a batch recursively."""
        converted = [self._convert_part(number, part) for number, part in enumerate(parts)]
        _check_samples([leaf for part in converted for leaf in _leaves(part)])
        return tuple.__new__(Batch, converted)

    def _parts(self, raw: UserData) -> tuple[UserData, ...]:
        parts = unpack(raw)
        if parts[0] is None:
            raise ValueError("The data gave a batch whose `x` is None: give the inputs of the model.")
        self._look_for_samples(parts)
        return parts[:1] if self._batch_spec.inputs_only else parts

    def _look_for_samples(self, parts: tuple[UserData, ...]) -> None:
        """Note whether the inputs are a list with an entry for each sample, which the targets may show."""
        lists = self._batch_spec.sample_lists
        lists.found = lists.found or is_list_of_samples(*parts[:2])

    def _convert_part(self, number: int, part: Nested) -> Nested:
        if number == 0:
            part = self._batch_spec.split_columns(part)
        if number == 2 and is_series(part):
            part = array_of("sample_weight", part).squeeze(-1)
        if _holds_plain_numbers(part):
            return self._convert_numbers(number, part)
        return self._convert_nest(number, part, _ARGUMENTS[number])

    def _convert_nest(self, number: int, value: UserData, name: str, *, is_record: bool = False) -> Nested:
        """Convert a part. Lists of numbers become arrays, except within a list of records, one for each sample."""
        if tree.is_leaf(value) or _is_opaque(value):
            return self._convert_leaf(number, value, name)
        is_record = is_record or (isinstance(value, (list, tuple)) and any(isinstance(part, Mapping) for part in value))
        converted = [
            self._convert_numbers(number, part)
            if isinstance(part, list) and not is_record and _holds_plain_numbers(part)
            else self._convert_nest(number, part, f"{name}[{key!r}]", is_record=is_record)
            for key, part in tree.children(value)
        ]
        return tree.rebuild(value, converted)

    def _convert_numbers(self, number: int, value: UserData) -> Nested:
        """Convert a (nested) list of numbers; one whose rows differ in length stays a list."""
        found = _array_or_list(value)
        return value if found is value else self._convert_array[number](found)

    def _convert_leaf(self, number: int, value: UserData, name: str) -> Nested:
        if isinstance(value, Tensor) and (number or value.is_meta):
            value = dense(name, value)
        if isinstance(value, (Tensor, np.ndarray)):
            return self._convert_array[number](value)
        if is_sparse(value):
            rows = SparseArray(name, value, None)
            return self._convert_array[number](rows.read(slice(0, len(rows))))
        if is_frame(value) and (not is_series(value) or series_holds_numbers(value)):
            return self._convert_array[number](array_of(name, value))
        if _is_opaque(value):
            moved = value.to(self._batch_spec.device)
            is_packed_sequence = isinstance(moved, PackedSequence)
            return moved._replace(data=self._convert_array[number](moved.data)) if is_packed_sequence else moved
        if isinstance(value, (range, array)) or _is_array(value):
            return self._convert_array[number](np.asarray(value))
        return value


def structure_key(value: UserData) -> object:
    """Return a key that is equal for batches of the same structure: types, lengths and names, but not values.

    The key is `None` if the batch contains anything but tensors, NumPy arrays and `None`.
    """
    kind = type(value)
    if kind is Tensor or kind is np.ndarray or value is None:
        return kind
    if kind is tuple or kind is list:
        parts = [structure_key(part) for part in value]
        return None if None in parts else (kind, *parts)
    if kind is dict:
        parts = [structure_key(part) for part in value.values()]
        return None if None in parts else (kind, *value, *parts)
    return None


def is_plain_array(value: UserData) -> bool:
    """Return whether `value` is a NumPy array or an ordinary strided tensor, and of no subclass."""
    return type(value) is np.ndarray or (type(value) is Tensor and is_plain(value))


def batch_of_arrays(given: Batch, batch_spec: BatchSpec) -> Batch:
    """Convert a batch whose parts are plain arrays, as a `BatchConverter` does."""
    transfers = batch_spec.transfers
    batch = _flat_batch([_convert_array(transfer, False, part) for transfer, part in zip(transfers, given)])
    _check_samples(batch)
    return batch


def _is_regular(value: UserData) -> bool:
    """Return whether `value` is an ordinary strided tensor or another array."""
    return not isinstance(value, Tensor) or is_plain(value)


def _array_or_list(value: UserData) -> UserData:
    """Return a (nested) list of numbers as an array, and anything else, including ragged lists, as it is."""
    try:
        return array_of_numbers(value) if holds_numbers(value) else value
    except (ValueError, RuntimeError):
        return value


def _convert_array(transfer: Transfer, is_fresh: bool, value: UserData) -> Nested:
    """Convert a tensor or NumPy array to a tensor on the device that a step may write to."""
    if isinstance(value, Tensor):
        if value.requires_grad:
            return _own_leaf(value, transfer)
        tensor = value
    elif value.dtype.kind in NUMERIC_KINDS:
        tensor = share_memory(value)
    else:
        return value
    moved = transfer(tensor)
    return moved.clone() if moved is tensor and not is_fresh else moved


def _own_leaf(value: Tensor, transfer: Transfer) -> Tensor:
    """Return a copy of a tensor that requires a gradient: the copy, not the user's tensor, gets the gradient."""
    return transfer(value.detach()).clone().requires_grad_(value.is_leaf)


def _leaves(value: UserData) -> Iterator[UserData]:
    """Yield the leaves of a converted part; an object that was moved as a whole is one leaf."""
    if tree.is_leaf(value) or _is_opaque(value):
        yield value
        return
    for _, part in tree.children(value):
        yield from _leaves(part)


def _is_opaque(value: UserData) -> bool:
    """Return whether `value` is not an array but has a `to` method, such as a `PackedSequence`."""
    return not isinstance(value, (Tensor, type)) and callable(getattr(value, "to", None)) and not _is_array(value)


def _is_array(value: UserData) -> bool:
    has_array_interface = hasattr(value, "__array__") and not isinstance(value, np.generic)
    return has_array_interface and is_numeric(getattr(value, "dtype", None))


def _holds_plain_numbers(value: UserData) -> bool:
    """Return whether `value` is a (nested) list or tuple of numbers that contains no tensor."""
    return holds_numbers(value) and not any(isinstance(leaf, Tensor) for leaf in tree.leaves(value))


def _check_samples(leaves: Sequence[object]) -> None:
    """Check that not all tensors of a batch are empty; some, such as the boxes of an image, may be."""
    if not leaves or not isinstance(leaves[0], Tensor) or leaves[0].numel():
        return
    if all(isinstance(leaf, Tensor) and leaf.ndim and not leaf.size(0) for leaf in leaves):
        raise ValueError("The data gave a batch without samples. Leave out the empty batch, or correct its length.")


def batch_packer(parts: tuple[object, ...]) -> Callable[[Sequence[Tensor]], Batch]:
    """Return a function that builds a `Batch` from a flat sequence of the leaves of `parts`."""
    if all(tree.is_leaf(part) for part in parts):
        return _flat_batch
    pack = tree.unflattener(tuple(parts))
    return lambda leaves: tuple.__new__(Batch, pack(leaves))


def _flat_batch(leaves: Sequence[Tensor]) -> Batch:
    return tuple.__new__(Batch, leaves)


def unpack(raw: UserData) -> tuple[UserData, ...]:
    """Return the parts `(x,)`, `(x, y)` or `(x, y, sample_weight)` of what an iterable yields.

    Anything but a tuple is `x` as a whole; lists count as tuples, because torch's `default_collate` returns lists. A
    list of single samples, such as texts, is `x` as well: no text is a target or a weight.

    Raises:
        ValueError: If it is a named tuple, whose meaning would be ambiguous, or a tuple of another length.

    >>> unpack((1, 2)), unpack({"a": 1}), unpack(["one", "other"])
    ((1, 2), ({'a': 1},), (['one', 'other'],))
    """
    if not isinstance(raw, (tuple, list)) or isinstance(raw, Batch):
        return tuple(raw) if isinstance(raw, Batch) else (raw,)
    if _is_opaque(raw) or are_texts(raw):
        return (raw,)
    if isinstance(raw, list) and (_holds_plain_numbers(raw) or are_single_samples(raw)):
        return (raw,)
    if hasattr(raw, "_fields"):
        raise ValueError(
            f"The data gave a named tuple, {type(raw).__name__}{raw._fields}. It is ambiguous whether its fields or "
            "its order say what is x, y and sample_weight: yield a plain tuple (x, y) or (x, y, sample_weight), or "
            "the tuple (batch,) if the named tuple is the input of the model."
        )
    if len(raw) not in (1, 2, 3):
        hint = " For one list of samples, yield (samples,)." if isinstance(raw, list) else ""
        raise ValueError(
            f"The data must give (x,), (x, y) or (x, y, sample_weight), but gave {describe(raw)}. Put several inputs "
            f"into one tuple or dictionary: ((x1, x2), y).{hint}"
        )
    return tuple(raw)


# -- lists with an entry for each sample, such as texts and images of different sizes, which are no lists of inputs ----


def is_list_of_samples(x: UserData, y: UserData = None) -> bool:
    """Return whether inputs are a list with an entry for each sample, as far as the batch shows it.

    The entries are alike then, and as many as there are targets, which none of them has along its first axis or, as
    sequences by time, its second. Without targets, their first axes differ.

    >>> import torch
    >>> image, label = torch.zeros(3, 8, 9), torch.tensor([1])
    >>> is_list_of_samples(["hello"]), is_list_of_samples([image], label), is_list_of_samples([image[:1]], label)
    (True, True, False)
    """
    if not is_plain_list(x) or not _are_alike(x):
        return False
    if all(map(_is_single, x)):
        return True
    axes = {each for entry in x for each in _leading_axes(entry)}
    sizes = {each[:1] for each in axes}
    if y is None or not sizes:
        return len(sizes) > 1
    of_targets = {each[:1] for each in _leading_axes(y)}
    if is_plain_list(y) and not holds_numbers(y):
        return len(y) == len(x) and (isinstance(y[0], Mapping) or sizes.isdisjoint(of_targets))
    return of_targets == {(len(x),)} and not any(len(x) in each for each in axes)


def are_single_samples(values: UserData) -> bool:
    """Return whether values are a list of what can only be one sample each: texts, objects that hold no arrays, or
    records with one of these or a number.

    >>> are_single_samples(["one", "other"]), are_single_samples([{"text": "one", "label": 0}])
    (True, True)
    """
    return is_plain_list(values) and _are_alike(values) and all(map(_is_single, values))


def are_texts(value: UserData) -> bool:
    """Return whether `value` is a list or tuple of texts.

    >>> are_texts(("one", "other")), are_texts(["one", 2]), are_texts("one")
    (True, False, False)
    """
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(part, (str, bytes)) for part in value)


def is_plain_list(value: UserData) -> bool:
    """Return whether `value` is a list or tuple with entries, but not a named tuple or an object that moves itself."""
    return isinstance(value, (list, tuple)) and bool(value) and not hasattr(value, "_fields") and not _is_opaque(value)


def _is_single(value: UserData) -> bool:
    if isinstance(value, (Tensor, np.ndarray, np.number, np.bool_, Number)) or is_plain_list(value):
        return False
    return () in _leading_axes(value)


def _are_alike(values: Sequence[UserData]) -> bool:
    return len({_kind(value) for value in values}) == 1


def _kind(value: UserData) -> object:
    """Return a key that is equal for values that may belong to several samples of the same data."""
    if isinstance(value, (str, bytes)):
        return str
    if isinstance(value, Mapping):
        return frozenset(value)
    return type(value), getattr(value, "ndim", None), str(getattr(value, "dtype", ""))


def _leading_axes(value: UserData) -> Iterator[tuple[int, ...]]:
    """Yield the first two axes of each array and list of numbers or texts, none for what has no axes."""
    if _is_opaque(value) or getattr(value, "is_nested", False):
        return
    if are_texts(value) or (is_plain_list(value) and holds_numbers(value)):
        yield (len(value),)
    elif not tree.is_leaf(value):
        for _, part in tree.children(value):
            yield from _leading_axes(part)
    elif hasattr(value, "shape"):
        yield tuple(value.shape[:2])
    elif isinstance(value, (range, array, memoryview)) or hasattr(value, "__array__"):
        yield (len(value),)
    else:
        yield ()
