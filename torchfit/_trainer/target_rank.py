"""A vector of targets beside a matrix of outputs, for losses and metrics that users wrote.

What torchfit brings along aligns `(batch,)` with `(batch, 1)` by itself. Code of users would broadcast one
against the other to `(batch, batch)` and continue with a wrong number, so it gets a column instead: wherever the
output has one column and, as in Keras 2, always in subclasses of `Metric`.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

Function = Callable[..., Any]


def with_column_targets(member: Any, function: Function) -> Function:
    """Return `function(target, output, weight=None)` of a loss or metric, fed with columns where it needs them."""
    if not _is_user_defined(member):
        return function
    return _with_columns(function, always=hasattr(member, "update_state") and not hasattr(member, "function"))


def _is_user_defined(member: Any) -> bool:
    """Return whether the maths of a loss or metric was written outside of torchfit."""
    function = getattr(member, "function", None)
    if function is not None:
        return not str(getattr(function, "__module__", "")).startswith("torchfit.functional")
    return not type(member).__module__.startswith("torchfit.")


def is_builtin(member: Any) -> bool:
    """Return whether a loss or metric looks at nothing but targets, outputs and weights, as all of torchfit's do."""
    function = getattr(member, "function", None) or getattr(member, "fn", None)
    homes = [type(member).__module__, *([] if function is None else [str(getattr(function, "__module__", ""))])]
    return all(home.startswith(("torchfit.", "torch.nn.")) for home in homes) and not hasattr(member, "metric")


def _with_columns(function: Function, always: bool) -> Function:
    def call(target: Any, output: Any, *weights: Tensor | None) -> Any:
        if getattr(target, "ndim", 0) != 1 or output.ndim != 2 or not (always or output.shape[1] == 1):
            return function(target, output, *weights)
        return function(_column(target), output, *map(_column, weights))

    return call


def _column(vector: Tensor | None) -> Tensor | None:
    return vector if vector is None or vector.ndim != 1 else vector.unsqueeze(-1)
