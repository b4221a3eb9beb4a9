"""`LazyLogs`, logs whose values stay on the device until they are read."""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from torchfit._types import Logs, Results, StateDict

_UNREAD = "(unread)"
"""The only key of logs that were not read yet, so that code in C that looks at their size takes none for empty."""


class LazyLogs(StateDict):
    """A dictionary from names to Python floats, whose values are fetched on first read, in one transfer.

    Callbacks may write into it without causing a read. Copies and pickles are plain dictionaries.
    """

    __slots__ = ("_read", "_written")

    def __init__(self, read: Callable[[], Results]) -> None:
        """Read the results with `read`, which returns tensors, numbers or dictionaries of them."""
        self._read = read
        self._written: dict[str, object] | None = {}  # `None` once the values are fetched.
        super().__setitem__(_UNREAD, None)

    @classmethod
    def wrap(cls, results: "Results | LazyLogs | None") -> "LazyLogs":
        """Wrap what an overridden step returned, with all that it wrote into logs."""
        if isinstance(results, cls):
            return results if results.is_untouched else cls(results.results)
        values = dict(results or {})
        return cls(lambda: values)

    def snapshot(self) -> "LazyLogs":
        """Make the values independent of the live metrics, without a host read, and return these logs."""
        if self._written is not None:
            frozen = {name: _copy(value) for name, value in self._read().items()}
            self._read = lambda: frozen
        return self

    @property
    def is_untouched(self) -> bool:
        """Whether these logs were neither read nor written."""
        return self._written == {}

    def results(self) -> Results:
        """Return the results and what was written, without a host read."""
        return super().copy() if self._written is None else {**self._read(), **self._written}

    @classmethod
    def without_written(cls, logs: Logs) -> "LazyLogs":
        """Return other logs of the same results, without what callbacks have written."""
        return logs.copy_of_results() if isinstance(logs, cls) else cls.wrap(logs)

    def copy_of_results(self) -> "LazyLogs":
        """Return other logs of the results alone."""
        return LazyLogs(self._read)

    def to_dict(self) -> StateDict:
        """Return the values in a plain dictionary."""
        self._fetch()
        return super().copy()

    def _fetch(self) -> None:
        written = self._written
        if written is not None:
            values = to_python(self._read())
            self._read, self._written = lambda: values, None
            super().clear()
            super().update(values)
            super().update(written)

    def __setitem__(self, name: str, value: Any) -> None:
        if self._written is None:
            super().__setitem__(name, value)
        else:
            self._written[name] = value

    def update(self, *others: Results, **values: object) -> None:  # type: ignore[override]
        """Write entries, without a read."""
        for name, value in dict(*others, **values).items():
            self[name] = value

    def __ior__(self, other: Results) -> "LazyLogs":  # type: ignore[override]
        self.update(other)
        return self

    def __bool__(self) -> bool:
        """Return `True` without a read, so that `logs or {}` costs nothing."""
        return True

    def copy(self) -> StateDict:
        """Return a plain dictionary."""
        return self.to_dict()

    __copy__ = copy

    def __or__(self, other: Results) -> StateDict:  # type: ignore[override]
        return {**self, **other}

    def __ror__(self, other: Results) -> StateDict:  # type: ignore[override]
        return {**other, **self}

    def __reduce_ex__(self, protocol: object) -> tuple[type[StateDict], tuple[StateDict]]:
        """Return that copies and pickles are plain dictionaries."""
        return dict, (self.to_dict(),)


def _fetching(name: str) -> Callable[..., object]:
    """Return a method of dictionaries that first fetches the values."""
    method = getattr(dict, name)

    @wraps(method)
    def fetching(self: LazyLogs, *arguments: object) -> object:
        self._fetch()
        return method(self, *arguments)

    return fetching


_READS = (
    *("__getitem__", "__delitem__", "__iter__", "__reversed__", "__len__", "__contains__", "__eq__", "__ne__"),
    *("__repr__", "get", "keys", "values", "items", "pop", "popitem", "setdefault", "clear"),
)
for _name in _READS:
    setattr(LazyLogs, _name, _fetching(_name))


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
