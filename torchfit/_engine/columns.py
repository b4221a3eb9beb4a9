"""A vector of targets beside a matrix of outputs, for losses and metrics that users wrote.

What torchfit brings along aligns `(batch,)` with `(batch, 1)` by itself. Code of users would broadcast one
against the other to `(batch, batch)` and go on with a wrong number, so it gets a column instead: wherever the
output has one column and, as in Keras 2, always in subclasses of `Metric`.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

Function = Callable[..., Any]


def suited(member: Any, function: Function, target: Any, output: Any) -> Function:
    """Return `function(target, output, weight=None)` of a loss or metric, fed with columns where it needs them."""
    if not isinstance(target, Tensor) or target.ndim != 1 or output.ndim != 2 or not _is_users(member):
        return function
    is_metric = hasattr(member, "update_state") and not hasattr(member, "_fn")
    return _with_columns(function) if is_metric or output.shape[1] == 1 else function


def _is_users(member: Any) -> bool:
    """Tell whether the maths of a loss or metric was written outside of torchfit."""
    function = getattr(member, "_fn", None)
    if function is not None:
        return not str(getattr(function, "__module__", "")).startswith("torchfit.functional")
    return not type(member).__module__.startswith("torchfit.")


def _with_columns(function: Function) -> Function:
    def call(target: Tensor, output: Tensor, weight: Tensor | None = None) -> Any:
        weights = () if weight is None else (_column(weight),)
        return function(_column(target), output, *weights)

    return call


def _column(vector: Tensor) -> Tensor:
    return vector.unsqueeze(-1) if vector.ndim == 1 else vector
