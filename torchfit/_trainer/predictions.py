"""`Predictions`, which joins the outputs of all batches on the host."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from torchfit._data.convert import is_frame
from torchfit._execution.step_program import PADDING_HINT, cannot_join
from torchfit._types import Array, Nested, Results, StepFn, UserData
from torchfit._utils import tree, validation
from torchfit._utils.errors import describe
from torchfit._utils.tensors import dense, is_plain

_NO_NUMPY = (torch.bfloat16,)


class CollectsOutputs(Protocol):
    """What `predict` collects the outputs of the batches with."""

    def collect(self, step: StepFn) -> StepFn:
        """Return the step that runs each batch."""
        ...

    def append(self, outputs: Nested) -> None:
        """Append the outputs of one batch."""
        ...

    def result(self) -> Nested:
        """Return the outputs of all batches."""
        ...


class Predictions:
    """Copies the outputs of each batch into host memory.

    If the number of samples is known, the peak memory is the result plus one batch; else batches are kept and joined.
    Lists with an entry for each sample (`SampleList`) are concatenated.

    Args:
        samples: The number of samples, or `None` if unknown.
        out: Arrays to write into, in memory or on disk, in the structure of the outputs.
        pad_value: Pads outputs of different shapes; with `None` they raise an error.

    Raises:
        ValueError: If an array of `out` has fewer rows than there are samples.
    """

    def __init__(self, samples: int | None, out: Nested = None, pad_value: float | None = None) -> None:
        self._buffers: list[Any] = []
        self._samples = samples
        self._out, self._pad_value = out, pad_value
        self._unflatten: Callable[[list[Nested]], Nested] = tuple
        self._num_leaves: int | None = None
        self._rows_differ: str | None = None
        validation.optional_number("pad_value", pad_value)
        for array in tree.leaves(out):
            if not _can_hold_rows(array):
                raise ValueError(f"`out` must be arrays (samples, …), but it holds {describe(array)}.")
            if samples is not None and len(array) < samples:
                raise ValueError(
                    f"`out` is {describe(array)}, but there are {samples} samples: it needs a row for each."
                )

    def collect(self, step: StepFn) -> StepFn:
        """Return the step unchanged."""
        return step

    def append(self, outputs: Nested) -> None:
        """Append the outputs of one batch.

        Raises:
            ValueError: If they do not fit those of earlier batches.
        """
        if isinstance(outputs, SampleList):
            self._append_samples(outputs)
            return
        parts = [numpy_compatible(leaf) if isinstance(leaf, Tensor) else leaf for leaf in tree.leaves(outputs)]
        if not self._buffers:
            self._unflatten = tree.unflattener(tree.map(type, outputs))  # The structure, without holding the batch.
            self._buffers = self._new_buffers(outputs, parts)
            self._num_leaves = len(parts)
        elif self._rows_differ is not None or len(parts) != self._num_leaves:
            raise ValueError(cannot_join(self._rows_differ or "the number of outputs changes from batch to batch"))
        self._rows_differ = _find_different_rows(parts)
        for buffer, part in zip(self._buffers, parts):
            buffer.add(part)

    def _append_samples(self, outputs: "SampleList") -> None:
        if self._out is not None:
            raise ValueError("`out` takes tensors, but the model returns a list with an entry for each sample.")
        if not self._buffers:
            self._unflatten, self._buffers = _first, [_SampleBuffer()]
        self._buffers[0].add(outputs)

    def _new_buffers(self, outputs: Nested, parts: list[Nested]) -> list[Any]:
        if self._out is None:
            arguments = self._samples if self._pad_value is None else None, self._pad_value
            return [_OutputBuffer(*arguments) if isinstance(part, Tensor) else _SkippedOutput() for part in parts]
        is_tensor = {path: isinstance(leaf, Tensor) for path, leaf in tree.leaves_with_path(outputs)}
        arrays = _match_by_path(self._out, [path for path, found in is_tensor.items() if found])
        return [_UserBuffer(arrays[path]) if found else _SkippedOutput() for path, found in is_tensor.items()]

    def result(self) -> Nested:
        """Return NumPy arrays in the structure of the outputs, or the arrays that were passed to write into."""
        return self._unflatten([buffer.result() for buffer in self._buffers]) if self._out is None else self._out


def _match_by_path(out: Nested, paths: list[tree.Path]) -> dict[tree.Path, UserData]:
    """Return the array for each output, matched by name or position; a list is always matched by position."""
    arrays = dict(tree.leaves_with_path(out))
    if len(arrays) != len(paths):
        raise ValueError(f"`out` has {len(arrays)} arrays, but the model returns {len(paths)} tensors.")
    if set(arrays) == set(paths):
        return arrays
    if not any(isinstance(key, str) for path in arrays for key in path):
        return dict(zip(paths, arrays.values()))
    expected = ", ".join(tree.format_path(path, "out") for path in paths)
    given = ", ".join(tree.format_path(path, "out") for path in arrays)
    raise ValueError(f"`out` must have an array for each tensor that the model returns: {expected}. Received: {given}.")


def _can_hold_rows(array: Nested) -> bool:
    """Return whether rows can be written into a value: a NumPy or on-disk array, or a tensor that NumPy can share."""
    if isinstance(array, Tensor):
        return is_plain(array) and bool(array.ndim) and not array.is_conj() and array.dtype not in _NO_NUMPY
    is_array = all(hasattr(array, name) for name in ("shape", "dtype", "__array__", "__setitem__"))
    return is_array and not is_frame(array) and len(array.shape) > 0


class SampleList(list[Nested]):
    """The outputs of a module that returns a list with an entry for each sample, as detectors do."""


def is_list_per_sample(outputs: Nested, inputs: Nested) -> bool:
    """Return whether a module returned a list with a dictionary or dataclass for each sample, as detectors do.

    A list of tensors is always a list of outputs.
    """
    if not isinstance(outputs, list) or not outputs or not all(map(_is_record, outputs)):
        return False
    leaves = [leaf for leaf in tree.leaves(inputs) if isinstance(leaf, Tensor) and leaf.ndim]
    rows = {len(inputs)} if isinstance(inputs, (list, tuple)) else set()
    return len(outputs) in rows | {len(leaf) for leaf in leaves[:1]}


def _is_record(value: Nested) -> bool:
    return value is not None and not tree.is_leaf(value) and not isinstance(value, (list, tuple))


def _find_different_rows(parts: list[Nested]) -> str | None:
    """Return a text if the first axes of the outputs differ, so that batches cannot be joined, else `None`."""
    shapes = [tuple(part.shape) for part in parts if isinstance(part, Tensor) and part.ndim]
    if len({shape[0] for shape in shapes}) <= 1:
        return None
    return f"the outputs of a batch, of shapes {', '.join(map(str, shapes))}, have different first axes"


def _first(parts: list[Nested]) -> Nested:
    return parts[0]


class _SampleBuffer:
    """Collects an entry for each sample."""

    def __init__(self) -> None:
        self._samples: list[Nested] = []

    def add(self, samples: SampleList) -> None:
        """Append the entries of one batch, as NumPy arrays."""
        self._samples += [tree.map(_array_or_leaf, sample) for sample in samples]

    def result(self) -> list[Nested]:
        """Return the entries of all samples."""
        return self._samples


class _SkippedOutput:
    """Skips an output that is not a tensor."""

    def add(self, part: object) -> None:
        """Forget it."""

    def result(self) -> None:
        """Have nothing."""


class _UserBuffer:
    """Writes into an array passed by the user, from its first row on."""

    def __init__(self, array: UserData) -> None:
        self._array = array.numpy() if isinstance(array, Tensor) else array
        self._filled = 0

    def add(self, part: Tensor) -> None:
        values = np.atleast_1d(part.cpu().numpy())
        end = self._filled + len(values)
        fits = values.shape[1:] == tuple(self._array.shape[1:]) and end <= len(self._array)
        if not fits or not np.can_cast(values.dtype, self._array.dtype, "same_kind"):
            raise ValueError(
                f"`out` is {describe(self._array)}, in which a batch of outputs, {describe(values)}, does not fit "
                f"after {self._filled} rows. Pass an array of shape (samples, {', '.join(map(str, values.shape[1:]))}) "
                f"and dtype {values.dtype}."
            )
        self._array[self._filled : end] = values
        self._filled = end


class _OutputBuffer:
    """Joins the batches of one output along the first axis.

    Args:
        samples: The total number of rows, or `None` if unknown.
        pad_value: Pads batches of different shapes; with `None` they raise an error.
    """

    def __init__(self, samples: int | None, pad_value: float | None) -> None:
        self._samples, self._pad_value = samples, pad_value
        self._buffer: Tensor | None = None
        self._chunks: list[Tensor] = []
        self._filled = 0

    def add(self, part: Tensor) -> None:
        """Copy the rows of one batch."""
        if self._buffer is None:
            if self._samples is None or part.ndim == 0 or self._chunks:
                self._add_chunk(part.to("cpu", copy=True))
                return
            if len(part) == self._samples:  # There is one batch.
                self._buffer, self._filled = part.to("cpu", copy=True), self._samples
                return
            self._buffer = torch.empty((self._samples, *part.shape[1:]), dtype=part.dtype)
        part = part if part.ndim else part[None]  # A single row, from a module that squeezes its outputs.
        end = self._filled + part.shape[0]
        rows = self._buffer[self._filled : end]
        if rows.shape != part.shape:
            raise self._misfit(part, self._buffer.shape[1:], f", with {len(self._buffer)} rows expected in all")
        rows.copy_(part)
        self._filled = end

    def _add_chunk(self, chunk: Tensor) -> None:
        first = self._chunks[0] if self._chunks else chunk
        differs = chunk.shape[1:] != first.shape[1:] if self._pad_value is None else chunk.ndim != first.ndim
        if differs:
            raise self._misfit(chunk, first.shape[1:], "")
        self._chunks.append(chunk)
        self._filled += len(chunk) if chunk.ndim else 1

    def _misfit(self, part: Tensor, shape: Sequence[int], expected: str) -> ValueError:
        found = f"after {self._filled} rows of shape {tuple(shape)} a batch gave {tuple(part.shape)}{expected}"
        return ValueError(f"{cannot_join(found)} {PADDING_HINT}")

    def result(self) -> Array:
        """Return all rows."""
        if self._buffer is not None:
            return self._buffer[: self._filled].numpy()
        chunks = [np.atleast_1d(chunk.numpy()) for chunk in self._chunks]
        return np.concatenate(chunks if self._pad_value is None else pad_chunks(chunks, self._pad_value))


def pad_chunks(chunks: list[Array], value: float) -> list[Array]:
    """Pad arrays `(rows, …)` to the largest size of each axis except the first."""
    sizes = [max(sizes) for sizes in zip(*(chunk.shape[1:] for chunk in chunks))]
    widths = [[(0, 0), *((0, size - own) for size, own in zip(sizes, chunk.shape[1:]))] for chunk in chunks]
    return [np.pad(chunk, width, constant_values=value) for chunk, width in zip(chunks, widths)]


def numpy_compatible(tensor: Tensor) -> Tensor:
    """Return a tensor that NumPy can hold: detached, dense, and bfloat16 as float32."""
    tensor = dense("the outputs of the model", tensor.detach())
    return tensor.float() if tensor.dtype in _NO_NUMPY else tensor


def to_numpy(outputs: Nested) -> Nested:
    """Return the outputs of one batch as NumPy arrays in the same structure, with `None` for other leaves.

    The arrays are copies: an output may share memory with weights, with the inputs, or with those of another batch.
    """
    return tree.map(lambda leaf: _to_array(leaf) if isinstance(leaf, Tensor) else None, outputs)


def _array_or_leaf(leaf: object) -> object:
    return _to_array(leaf) if isinstance(leaf, Tensor) else leaf


def _to_array(tensor: Tensor) -> Array:
    array = numpy_compatible(tensor).numpy(force=True)
    return array.copy() if tensor.is_cpu else array  # Arrays from other devices are copies already.


def format_results(logs: Results, as_dict: bool) -> Any:
    """Return results by name or as a list; a single result is returned without the list."""
    if validation.boolean("return_dict", as_dict):
        return dict(logs)
    values = list(logs.values())
    return values[0] if len(values) == 1 else values
