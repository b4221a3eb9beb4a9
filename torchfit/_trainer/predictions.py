"""Where predictions gather: one buffer on the host, allocated when the first batch shows its shape."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchfit._types import Nested
from torchfit._utils import tree
from torchfit._utils.errors import describe

_NO_NUMPY = (torch.bfloat16,)


class Predictions:
    """Copies the outputs of each batch to their place in host memory.

    With a known number of samples the peak is the result plus one batch; else batches are kept and joined. With `out`
    they are written into arrays of the user's, which may lie on disk.
    """

    def __init__(self, samples: int | None, out: Any = None) -> None:
        """Expect `samples` rows, or any number.

        Raises:
            ValueError: If an array of `out` has fewer rows.
        """
        self._columns: list[Any] = []
        self._samples = samples
        self._out = out
        self._pack: Callable[[Any], Any] = tuple
        for array in tree.leaves(out):
            if samples is not None and len(array) < samples:
                raise ValueError(
                    f"`out` is {describe(array)}, but there are {samples} samples: it needs a row for each."
                )

    def append(self, outputs: Nested) -> None:
        """Take the outputs of one batch."""
        parts = tree.leaves(outputs)
        if not self._columns:
            self._pack = tree.unflattener(tree.map(type, outputs))  # the structure, without holding the batch
            self._columns = self._new_columns(parts)
        for column, part in zip(self._columns, parts):
            column.add(part)

    def _new_columns(self, parts: list[Any]) -> list[Any]:
        is_tensor = [isinstance(part, Tensor) for part in parts]
        if self._out is None:
            return [_OutputBuffer(self._samples) if found else _SkippedOutput() for found in is_tensor]
        arrays = tree.leaves(self._out)
        if len(arrays) != sum(is_tensor):
            raise ValueError(f"`out` has {len(arrays)} arrays, but the model returns {sum(is_tensor)} tensors.")
        given = iter(arrays)
        return [_UserBuffer(next(given)) if found else _SkippedOutput() for found in is_tensor]

    def result(self) -> Any:
        """Return NumPy arrays in the structure of the outputs, or what was given to write into."""
        return self._pack([column.result() for column in self._columns]) if self._out is None else self._out


class _SkippedOutput:
    """Stands for an output that is no tensor, and leaves it out."""

    def add(self, part: Any) -> None:
        """Forget it."""

    def result(self) -> None:
        """Have nothing."""


class _UserBuffer:
    """Writes into an array of the user's, from its first row on."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self._filled = 0

    def add(self, part: Tensor) -> None:
        values = numpy_compatible(part).cpu().numpy()
        end = self._filled + len(values) if values.ndim else 0
        fits = end and values.shape[1:] == tuple(self._array.shape[1:]) and end <= len(self._array)
        if not fits or not np.can_cast(values.dtype, self._array.dtype, "same_kind"):
            raise ValueError(
                f"`out` is {describe(self._array)}, in which a batch of outputs, {describe(values)}, finds no place "
                f"after {self._filled} rows. Pass an array of shape (samples, {', '.join(map(str, values.shape[1:]))}) "
                f"and dtype {values.dtype}."
            )
        self._array[self._filled : end] = values
        self._filled = end


class _OutputBuffer:
    def __init__(self, samples: int | None) -> None:
        self._samples = samples
        self._buffer: Tensor | None = None
        self._pieces: list[Tensor] = []
        self._filled = 0

    def add(self, part: Tensor) -> None:
        if self._buffer is None:
            if self._samples is None or part.ndim == 0:
                self._pieces.append(numpy_compatible(part).to("cpu", copy=True))
                return
            self._buffer = torch.empty((self._samples, *part.shape[1:]), dtype=numpy_compatible(part[:0]).dtype)
        end = self._filled + part.shape[0]
        place = self._buffer[self._filled : end]
        if place.shape != part.shape:
            raise self._misfit(part, self._buffer)
        place.copy_(part)
        self._filled = end

    def _misfit(self, part: Tensor, buffer: Tensor) -> ValueError:
        return ValueError(
            f"`predict` joins the outputs of all batches along the first axis, but after {self._filled} rows of "
            f"shape {tuple(buffer.shape[1:])} a batch gave {tuple(part.shape)}, with {len(buffer)} rows expected "
            "in all. Use `predict_on_batch` for outputs whose shape changes from batch to batch."
        )

    def result(self) -> np.ndarray[Any, Any]:
        if self._buffer is not None:
            return self._buffer[: self._filled].numpy()
        pieces = [np.atleast_1d(piece.numpy()) for piece in self._pieces]
        return np.concatenate(pieces)


def numpy_compatible(tensor: Tensor) -> Tensor:
    """Return a tensor that NumPy can hold: detached, and bfloat16 as float32."""
    tensor = tensor.detach()
    return tensor.float() if tensor.dtype in _NO_NUMPY else tensor


def to_numpy(outputs: Nested) -> Any:
    """Return the outputs of one batch as NumPy arrays in their structure, `None` for what is no tensor."""
    return tree.map(_array_of, outputs)


def _array_of(leaf: Any) -> Any:
    return numpy_compatible(leaf).cpu().numpy() if isinstance(leaf, Tensor) else None


def format_results(logs: Mapping[str, Any], as_dict: bool) -> Any:
    """Return results as a user asked for them: by name, as a list, or the only one alone."""
    if as_dict:
        return dict(logs)
    values = list(logs.values())
    return values[0] if len(values) == 1 else values
