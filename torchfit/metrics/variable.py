"""The tensor that holds the state of a metric."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from torchfit._types import TensorLike
from torchfit._utils.tensors import as_tensor

# Operations on a variable then give plain tensors, with no Python dispatch per operation. It is the same
# private switch that torch.nn.Parameter uses; without it, the results are variables, only slower.
_PLAIN_RESULTS = getattr(torch._C, "_disabled_torch_function_impl", Tensor.__torch_function__)


class Variable(Tensor):
    """A tensor with `assign`, `assign_add` and `assign_sub`, which stays the same object for life.

    It lives in the buffers of the metric that created it (`Metric.add_weight`), follows it from device to
    device, and returns to its initial value with `reset`. All of torch's in-place methods work as well.

    >>> count = Variable(torch.zeros(2), "count")
    >>> count.assign_add([1, 2]).tolist(), count.name
    ([1.0, 2.0], 'count')
    """

    __torch_function__ = _PLAIN_RESULTS

    _label: str
    _initial: Tensor | None
    aggregation: str

    @staticmethod
    def __new__(cls: type["Variable"], value: Tensor, *_: object, **__: object) -> "Variable":
        """Wrap `value`, which becomes the storage."""
        variable: Variable = value.detach().as_subclass(cls)
        return variable

    def __init__(
        self, value: Tensor, name: str = "variable", aggregation: str = "sum", initial: Tensor | None = None
    ) -> None:
        """Store the name, how processes combine the values, and the initial value, where `None` means zeros."""
        self._label = name
        self._initial = initial
        self.aggregation = aggregation

    @property
    def name(self) -> str:
        """The name given to `add_weight`."""
        return self._label

    def assign(self, value: TensorLike) -> "Variable":
        """Overwrite the content with a number, an array or a tensor that broadcasts to the shape."""
        with torch.no_grad():
            self.copy_(self._like(value))
        return self

    def assign_add(self, value: TensorLike) -> "Variable":
        """Add a number, an array or a tensor in place."""
        with torch.no_grad():
            self.add_(self._like(value))
        return self

    def assign_sub(self, value: TensorLike) -> "Variable":
        """Subtract a number, an array or a tensor in place."""
        with torch.no_grad():
            self.sub_(self._like(value))
        return self

    def initial_value(self) -> Tensor:
        """Return a new tensor with the initial value."""
        return torch.zeros_like(self.data) if self._initial is None else self._initial.to(self.device, self.dtype)

    def reset(self) -> None:
        """Set the initial value again."""
        if self._initial is None:
            self.zero_()
        else:
            self.copy_(self._initial)

    def move(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Move the storage to where `fn`, such as `Tensor.cuda`, moves tensors; keep the dtype if the device has it."""
        try:
            moved = fn(self.data)
        except TypeError:  # Apple's GPUs have no float64
            self.data = fn(self.data.float())
            return
        self.data = moved if moved.dtype == self.dtype else self.data.to(moved.device)

    def _like(self, value: TensorLike) -> Any:
        if isinstance(value, (Tensor, int, float)):
            return value
        return as_tensor(value, dtype=self.dtype, device=self.device)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Variable":
        if id(self) not in memo:
            memo[id(self)] = Variable(self.detach().clone(), self._label, self.aggregation, self._initial)
        copied: Variable = memo[id(self)]
        return copied

    def __repr__(self) -> str:  # type: ignore[override]
        return f"<Variable {self._label}, shape={tuple(self.shape)}, value={self.detach().tolist()}>"
