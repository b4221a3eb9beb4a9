"""`LazyLogs`, logs whose values stay on the device until they are read."""

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor

from torchfit._types import Results


class LazyLogs(MutableMapping[str, Any]):
    """A mapping from names to Python floats, whose values are fetched on first read, in one transfer.

    Callbacks may write into it without causing a read.
    """

    __slots__ = ("_read", "_values", "_written")

    def __init__(self, read: Callable[[], Results]) -> None:
        """Read the results with `read`, which returns tensors, numbers or dictionaries of them."""
        self._read = read
        self._values: dict[str, Any] | None = None
        self._written: dict[str, object] = {}

    @classmethod
    def wrap(cls, results: "Results | LazyLogs | None") -> "LazyLogs":
        """Wrap what an overridden step returned."""
        if isinstance(results, cls):
            return results
        values = dict(results or {})
        return cls(lambda: values)

    def snapshot(self) -> "LazyLogs":
        """Return a copy that no longer depends on the live metrics, without a host read."""
        if self._values is None:
            frozen = {name: _copy(value) for name, value in self._read().items()}
            self._read = lambda: frozen
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return the values in a plain dictionary."""
        return dict(self._fetched())

    def __getitem__(self, name: str) -> Any:
        return self._fetched()[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._written[name] = value
        if self._values is not None:
            self._values[name] = value

    def __delitem__(self, name: str) -> None:
        del self._fetched()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fetched())

    def __len__(self) -> int:
        return len(self._fetched())

    def __bool__(self) -> bool:
        """Return `True` without a read, so that `logs or {}` costs nothing."""
        return True

    def __repr__(self) -> str:
        return repr(self._fetched())

    def _fetched(self) -> dict[str, Any]:
        if self._values is None:
            self._values = {**to_python(self._read()), **self._written}
        return self._values


def to_python(results: Results) -> dict[str, Any]:
    """Convert tensors to Python numbers (or NumPy arrays if they are not scalars), in one transfer.

    The entries of metrics whose result is a dictionary replace the metric.
    """
    flat = flatten(results)
    scalars = {name: value for name, value in flat.items() if isinstance(value, Tensor) and value.numel() == 1}
    fetched = dict(zip(scalars, _fetch(list(scalars.values()))))
    return {name: fetched[name] if name in fetched else _plain(value) for name, value in flat.items()}


def flatten(results: Results) -> dict[str, Any]:
    """Replace results that are dictionaries by their entries."""
    flat: dict[str, Any] = {}
    for name, value in results.items():
        flat.update(value if isinstance(value, Mapping) else {name: value})
    return flat


def _fetch(scalars: list[Tensor]) -> list[float]:
    """Read scalars of any dtype on one device, with a single synchronization."""
    if all(value.device.type == "cpu" and not value.is_complex() for value in scalars):
        return [float(value.detach()) for value in scalars]
    widest = torch.float32 if scalars[0].device.type == "mps" else torch.float64
    values: list[float] = torch.stack([_as_scalar(value).to(scalars[0].device, widest) for value in scalars]).tolist()
    return values


def _as_scalar(value: Tensor) -> Tensor:
    value = value.detach() if value.requires_grad else value
    return value.reshape(()) if value.ndim else value


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu().numpy()
    return float(value) if isinstance(value, (bool, int, float)) or getattr(value, "shape", None) == () else value


def _copy(value: object) -> object:
    return value.detach().clone() if isinstance(value, Tensor) else value
