"""What modules add while they run: losses and metrics on values that are no output.

A running model opens its `Collector` around the call of its module; `add_loss` and `add_metric` put their values into
the one that is open in this thread, and do nothing where none is.
"""

import threading
from typing import Any

import torch
from torch import Tensor, nn

from torchfit._utils.errors import describe
from torchfit._utils.names import snake_case

AGGREGATIONS = ("mean", "sum")


class Collector:
    """Gathers what is added between `enter` and `leave`."""

    def __init__(self) -> None:
        """Begin empty and closed."""
        self.losses: list[Tensor] = []
        self.values: list[tuple[str, Any, str]] = []
        self.is_active = False

    def enter(self) -> "Collector | None":
        """Begin anew, and return the collector that was open before: `leave` wants it back.

        Logged values stay within a step that calls its model several times. This is not a `with` statement, which
        `torch.compile` cannot follow for objects that live longer than the graph.
        """
        previous, _scope.collector = _scope.collector, self
        self.losses.clear()
        if previous is not self:
            self.values.clear()
        self.is_active = True
        return previous

    def leave(self, previous: "Collector | None") -> None:
        """Stop gathering; what was gathered stays until the next `enter`."""
        _scope.collector = previous
        self.is_active = False

    def is_nested(self) -> bool:
        """Tell whether the collector of another model is open in this thread."""
        return _scope.collector is not None and _scope.collector is not self


class _Scope(threading.local):
    """The collector that is open in this thread."""

    collector: Collector | None = None


_scope = _Scope()


def add_loss(value: Any) -> None:
    """Add a value to the loss of the torchfit model that is running; does nothing outside of one.

    Call it in any `forward`: the value counts in training and evaluation like a loss of `compile`.

    Args:
        value: A scalar tensor that depends on weights or activations; the elements of a larger one are summed.

    Raises:
        TypeError: If it is neither a tensor nor a number.

    >>> import torchfit
    >>> class Shrunk(nn.Linear):
    ...     def forward(self, x):
    ...         torchfit.add_loss(0.1 * self.weight.square().sum())
    ...         return super().forward(x)
    >>> model = torchfit.Model(Shrunk(4, 2, bias=False))
    >>> model.compile("sgd")  # no other loss
    >>> history = model.fit(torch.ones(8, 4), verbose=0)
    """
    collector = _scope.collector
    if collector is not None:
        collector.losses.append(_checked("add_loss", value))


def add_metric(value: Any, name: str, aggregation: str = "mean") -> None:
    """Log a value of the torchfit model that is running; does nothing outside of one.

    Call it in any `forward`. The values of the batches are aggregated over each epoch, apart for training and
    validation, and appear in the logs under `name`, after the compiled metrics.

    Args:
        value: A tensor; of one that is no scalar, the mean (or sum) of its elements counts.
        name: The key in the logs.
        aggregation: "mean" or "sum" over the batches.

    Raises:
        TypeError: If `value` is neither a tensor nor a number.
        ValueError: If there is no such aggregation, or `name` is no string.
    """
    check_metric(name, aggregation)
    collector = _scope.collector
    if collector is not None:
        collector.values.append((name, _checked("add_metric", value).detach(), aggregation))


def check_metric(name: Any, aggregation: Any) -> None:
    """Refuse a name or an aggregation that is none.

    Raises:
        ValueError: With what is possible.
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"`name` must be a string, the key in the logs. Received: {describe(name)}.")
    if aggregation not in AGGREGATIONS:
        raise ValueError(f"`aggregation` must be one of {AGGREGATIONS}. Received: {describe(aggregation)}.")


def _checked(function: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, (int, float)):
        return torch.tensor(float(value))
    raise TypeError(f"`{function}` takes a tensor or a number as `value`. Received: {describe(value)}.")


class Layer(nn.Module):
    """A `torch.nn.Module` with `add_loss` and `add_metric` as methods.

    It is an ordinary module that works in any model; both methods do nothing unless a torchfit model is running.

    Args:
        name: What the layer is called; by default its class name in snake case.

    >>> class ActivityRegularization(Layer):
    ...     def forward(self, inputs):
    ...         self.add_loss(inputs.sum() * 0.1)
    ...         return inputs
    >>> ActivityRegularization()(torch.ones(2)), ActivityRegularization().name
    (tensor([1., 1.]), 'activity_regularization')
    """

    def __init__(self, name: str | None = None) -> None:
        super().__init__()
        self.name = name or snake_case(type(self).__name__)

    def add_loss(self, value: Any) -> None:
        """Add a value to the loss, as `torchfit.add_loss` does."""
        add_loss(value)

    def add_metric(self, value: Any, name: str, aggregation: str = "mean") -> None:
        """Log a value, as `torchfit.add_metric` does."""
        add_metric(value, name, aggregation)
