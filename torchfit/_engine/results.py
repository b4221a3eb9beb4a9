"""Where predictions gather: one buffer on the host, allocated when the first batch shows its shape."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchfit._support import tree

_NO_NUMPY = (torch.bfloat16,)


class Predictions:
    """Copies the outputs of each batch to their place in host memory.

    With a known number of samples the peak is the result plus one batch; else batches are kept and joined.
    """

    def __init__(self, samples: int | None) -> None:
        """Expect `samples` rows, or any number."""
        self._columns: list[_Column] = []
        self._samples = samples
        self._pack: Callable[[Any], Any] = tuple

    def keep(self, outputs: Any) -> None:
        """Take the outputs of one batch."""
        parts = tree.leaves(outputs)
        if not self._columns:
            self._pack = tree.packer(tree.map_leaves(type, outputs))  # the structure, without holding the batch
            self._columns = [_Column(self._samples) for _ in parts]
        for column, part in zip(self._columns, parts):
            column.add(part)

    def result(self) -> Any:
        """Return NumPy arrays in the structure of the outputs."""
        return self._pack([column.result() for column in self._columns])


class _Column:
    def __init__(self, samples: int | None) -> None:
        self._samples = samples
        self._buffer: Tensor | None = None
        self._pieces: list[Tensor] = []
        self._filled = 0

    def add(self, part: Tensor) -> None:
        part = host_ready(part)
        if self._samples is None or part.ndim == 0:
            self._pieces.append(part.to("cpu", copy=True))
            return
        if self._buffer is None:
            self._buffer = torch.empty((self._samples, *part.shape[1:]), dtype=part.dtype)
        self._place(part, self._buffer)

    def _place(self, part: Tensor, buffer: Tensor) -> None:
        end = self._filled + len(part)
        if part.shape[1:] != buffer.shape[1:] or end > len(buffer):
            raise ValueError(
                f"`predict` joins the outputs of all batches along the first axis, but after {self._filled} rows of "
                f"shape {tuple(buffer.shape[1:])} a batch gave {tuple(part.shape)}, with {len(buffer)} rows expected "
                "in all. Use `predict_on_batch` for outputs whose shape changes from batch to batch."
            )
        buffer[self._filled : end].copy_(part)
        self._filled = end

    def result(self) -> np.ndarray[Any, Any]:
        if self._buffer is not None:
            return self._buffer[: self._filled].numpy()
        pieces = [np.atleast_1d(piece.numpy()) for piece in self._pieces]
        return np.concatenate(pieces)


def host_ready(tensor: Tensor) -> Tensor:
    """Return a tensor that NumPy can hold: detached, and bfloat16 as float32."""
    tensor = tensor.detach()
    return tensor.float() if tensor.dtype in _NO_NUMPY else tensor


def to_numpy(outputs: Any) -> Any:
    """Return the outputs of one batch as NumPy arrays in their structure."""
    convert: Callable[[Tensor], Any] = lambda tensor: host_ready(tensor).cpu().numpy()  # noqa: E731
    return tree.map_leaves(convert, outputs)


def report(logs: Mapping[str, Any], as_dict: bool) -> Any:
    """Return results as a user asked for them: by name, as a list, or the only one alone."""
    if as_dict:
        return dict(logs)
    values = list(logs.values())
    return values[0] if len(values) == 1 else values
