"""`add_loss` and `add_metric`: losses and metrics that modules add while they run, on values other than outputs.

A running model activates its `Collector` around the call of its module. `add_loss` and `add_metric` append to the
collector that is active in this thread, and do nothing if none is active.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from torchfit._utils.compat import is_in_backward
from torchfit._utils.errors import describe
from torchfit._utils.names import snake_case

AGGREGATIONS = ("mean", "sum")


class AddedTerm(NamedTuple):
    """A call of `Model.add_loss` or `Model.add_metric` with a function."""

    method: str
    arguments: dict[str, object]


class Collector:
    """Collects the losses and metrics that are added between `enter` and `leave`.

    Attributes:
        losses: The values added to the loss.
        values: The values to log, as `(name, value, aggregation)`.
        is_active: Whether it is between `enter` and `leave`.
        counts: Whether it collects anything.
    """

    counts = True

    def __init__(self) -> None:
        """Start empty and inactive."""
        self.losses: list[Tensor] = []
        self.values: list[tuple[str, object, str]] = []
        self.is_active = False

    def enter(self) -> "Collector | None":
        """Clear and activate the collector, and return the one that was active before, for `leave`.

        Logged values are kept within a step that calls its model several times. This is not a context manager, because
        `torch.compile` cannot trace one for objects that outlive the graph.
        """
        previous, _active.collector = _active.collector, self
        self.losses.clear()
        if previous is not self:
            self.values.clear()
        self.is_active = True
        return previous

    def leave(self, previous: "Collector | None") -> None:
        """Deactivate the collector; it keeps its contents until the next `enter`."""
        _active.collector = previous
        self.is_active = False

    def take(self) -> tuple[list[Tensor], list[tuple[str, object, str]]]:
        """Return the losses and values that were added, and start over."""
        taken = self.losses, self.values
        self.losses, self.values = [], []
        return taken

    def is_nested(self) -> bool:
        """Return whether the collector of another model is active in this thread."""
        return _active.collector not in (None, self)

    def is_collecting(self) -> bool:
        """Return whether values added in this thread are collected, here or by the collector of another model."""
        return _active.collector is not None and _active.collector.counts and (self.is_active or self.is_nested())


class NullCollector(Collector):
    """Collects nothing. Active during predictions, which need no losses or metrics."""

    counts = False


class _ActiveCollector(threading.local):
    """The collector that is active in this thread."""

    collector: Collector | None = None


_active = _ActiveCollector()
_NULL_COLLECTOR = NullCollector()


@contextmanager
def suspended() -> Iterator[None]:
    """Collect nothing in this thread, and call no function that adds losses or metrics."""
    previous, _active.collector = _active.collector, _NULL_COLLECTOR
    try:
        yield
    finally:
        _active.collector = previous


def is_suspended() -> bool:
    """Return whether nothing is collected in this thread."""
    return _active.collector is _NULL_COLLECTOR


def add_loss(value: object) -> None:
    """Add a value to the loss of the running torchfit model; does nothing outside of one.

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
    collector = _find_active()
    if collector is not None:
        collector.losses.append(_checked("add_loss", value))


def add_metric(value: object, name: str, aggregation: str = "mean") -> None:
    """Log a value of the running torchfit model; does nothing outside of one.

    Call it in any `forward`. The values are aggregated over each epoch, separately for training and validation, and
    appear in the logs under `name`, after the compiled metrics.

    Args:
        value: A tensor, such as one value per sample, `(batch, …)`, or a number for the whole batch.
        name: The key in the logs.
        aggregation: "mean" or "sum" over the epoch. In a mean, as in that of a metric, each element of a tensor counts
            once, and a number as often as its batch has samples. A sum adds up all elements and numbers.

    Raises:
        TypeError: If `value` is neither a tensor nor a number.
        ValueError: If `aggregation` is unknown, or `name` is not a string.
    """
    check_metric(name, aggregation)
    collector = _find_active()
    if collector is not None:
        collector.values.append((name, _checked("add_metric", value).detach(), aggregation))


def _find_active() -> Collector | None:
    """Return what collects values in this thread; a backward pass computes again what was collected before."""
    collector = _active.collector
    return collector if collector is not None and collector.counts and not is_in_backward() else None


def check_metric(name: object, aggregation: object) -> None:
    """Check the arguments of `add_metric`.

    Raises:
        ValueError: If `name` is not a string, or `aggregation` is unknown.
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"`name` must be a string, the key in the logs. Received: {describe(name)}.")
    if aggregation not in AGGREGATIONS:
        raise ValueError(f"`aggregation` must be one of {AGGREGATIONS}. Received: {describe(aggregation)}.")


def _checked(function: str, value: object) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, (int, float)):
        return torch.tensor(float(value))
    raise TypeError(f"`{function}` takes a tensor or a number as `value`. Received: {describe(value)}.")


class Layer(nn.Module):
    """A `torch.nn.Module` with `add_loss` and `add_metric` as methods.

    It works like any other module; both methods do nothing unless a torchfit model is running.

    Args:
        name: The name of the layer; by default its class name in snake case.

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

    def add_loss(self, value: object) -> None:
        """Add a value to the loss, as `torchfit.add_loss` does."""
        add_loss(value)

    def add_metric(self, value: object, name: str, aggregation: str = "mean") -> None:
        """Log a value, as `torchfit.add_metric` does."""
        add_metric(value, name, aggregation)
