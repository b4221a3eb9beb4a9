"""`OutputObjective`, the loss and metrics of one output, and its binding to the parts of a batch."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from torchfit._trainer import output_matching
from torchfit._trainer.loss_tracking import LossMean
from torchfit._trainer.output_matching import Getter, is_builtin, with_fitting_targets
from torchfit._types import Nested, StateDict
from torchfit._utils import tree
from torchfit._utils.errors import describe, warn
from torchfit.losses.base import Denominator, Loss
from torchfit.losses.checks import find_probability_problem
from torchfit.metrics.base import Metric
from torchfit.metrics.checks import metric_problem
from torchfit.metrics.identifiers import as_metric, follows_loss, resolve_metric

Shape = tuple[int, ...]


class DeferredMetric:
    """A metric such as "accuracy", whose class depends on the loss and on shapes that are not known yet."""

    def __init__(self, name: str) -> None:
        """Store the name as it is spelt, because it is the key in the logs."""
        self.name = name


AnyMetric: TypeAlias = "Metric | DeferredMetric"


@dataclass
class OutputObjective:
    """The loss and the metrics of one output.

    Attributes:
        name: The name of the output.
        loss: The `Loss`, or `None`.
        loss_weight: The number by which the loss is multiplied.
        tracked_loss: The loss over the epoch, if there are several outputs.
        metrics: The metrics that ignore sample weights.
        weighted_metrics: The metrics that use sample weights.
        shapes: The shapes of the first target and output.
        is_sum: Whether the loss is a sum over samples, not a mean.
        is_chosen: Whether `compile` got the loss or metrics for this output, by name or position, not for all.
    """

    name: str
    loss: Any = None
    loss_weight: float = 1.0
    tracked_loss: LossMean | None = None
    metrics: list[AnyMetric] = field(default_factory=list)
    weighted_metrics: list[AnyMetric] = field(default_factory=list)
    shapes: tuple[Shape, Shape] | None = None
    is_sum: bool = False
    is_chosen: bool = False
    compute: Callable[..., tuple[Tensor, Denominator]] = output_matching.identity
    updates: list[Callable[..., None]] = field(default_factory=list)
    weighted_updates: list[Callable[..., None]] = field(default_factory=list)

    @property
    def needs_target(self) -> bool:
        """Return whether the loss or a metric needs a target."""
        return self.loss is not None or bool(self.metrics) or bool(self.weighted_metrics)

    @property
    def resolved_metrics(self) -> list[Metric]:
        """All resolved metrics of this output, with the mean of its loss first."""
        tracked = [] if self.tracked_loss is None else [self.tracked_loss]
        return [*tracked, *resolved(self.metrics), *resolved(self.weighted_metrics)]

    def __getstate__(self) -> StateDict:
        """Omit the functions bound to these metrics: copies bind their own."""
        return {**self.__dict__, "compute": output_matching.identity, "updates": [], "weighted_updates": []}

    def resolve_metrics(self, target: Tensor, prediction: Tensor, device: torch.device) -> None:
        """Resolve names such as "accuracy", which depend on loss and shapes, and move the states to the device."""
        for metrics in (self.metrics, self.weighted_metrics):
            metrics[:] = [_resolve_deferred(metric, self.loss, target, prediction) for metric in metrics]
        for metric in self.resolved_metrics:
            metric.to(device)

    def check_kinds(self, target: Nested, prediction: Tensor) -> None:
        """Check that a target is a tensor, and real if the output is real, unless the loss is user-defined."""
        if self.loss is not None and not is_builtin(self.loss):
            return
        if not isinstance(target, Tensor):
            output_matching.check_numbers("y", target)
        elif target.is_complex() and not prediction.is_complex():
            raise ValueError(
                f"`y` holds complex numbers, {describe(target)}, but the outputs are real. Pass its parts."
            )

    def warn_of_problems(self, target: Tensor, prediction: Tensor) -> None:
        """Warn if the values of targets or outputs are not those that the loss and the metrics expect."""
        problems = [] if self.loss is None else [find_probability_problem(self.loss, prediction)]
        metrics = (*self.metrics, *self.weighted_metrics)
        for problem in (*problems, *(metric_problem(metric, self.loss, target, prediction) for metric in metrics)):
            if problem:
                warn(problem)

    def bind_functions(self) -> None:
        """Look up the functions that compute the loss and update the metrics."""
        if self.loss is not None:
            self.is_sum = self.loss.is_sum
            self.compute = with_fitting_targets(self.loss, self.loss.with_denominator)
        self.updates = [with_fitting_targets(metric, metric.update_state) for metric in resolved(self.metrics)]
        weighted = resolved(self.weighted_metrics)
        self.weighted_updates = [with_fitting_targets(metric, metric.update_state) for metric in weighted]


Part = tuple[OutputObjective, Nested, Nested, Nested]
"""An objective with its target, output and weight."""

Selector: TypeAlias = "OutputObjective | Callable[[Nested, Nested, Nested], list[Part]]"
"""A function that splits targets, outputs and weights into parts by output, or the only `OutputObjective`."""


@dataclass
class BoundOutput:
    """An output objective, with functions that extract its target, output and weights from those of a batch."""

    objective: OutputObjective
    target: Getter
    output: Getter
    weight: Getter


def make_selector(bound: list[BoundOutput], sample_weight: Nested) -> Selector:
    """Return a function that splits targets, outputs and weights by output, or the only objective if possible."""
    if len(bound) == 1 and _is_whole(bound[0], sample_weight):
        return bound[0].objective
    return lambda targets, outputs, weights: [
        (item.objective, item.target(targets), item.output(outputs), item.weight(weights)) for item in bound
    ]


def _is_whole(bound: BoundOutput, sample_weight: Nested) -> bool:
    getters = [bound.target, bound.output, *(() if sample_weight is None else (bound.weight,))]
    return all(getter is output_matching.identity for getter in getters)


def metric_or_deferred(identifier: object) -> AnyMetric:
    """Return a metric for anything that `compile(metrics=)` accepts, deferred if it depends on the loss."""
    return DeferredMetric(identifier) if follows_loss(identifier) else as_metric(identifier)


def resolved(metrics: Iterable[AnyMetric]) -> list[Metric]:
    """Return the metrics that are not deferred."""
    return [metric for metric in metrics if not isinstance(metric, DeferredMetric)]


def _resolve_deferred(metric: AnyMetric, loss: Loss | None, target: Tensor, output: Tensor) -> Metric:
    if not isinstance(metric, DeferredMetric):
        return metric
    return resolve_metric(metric.name, loss, target.shape, output.shape)


def own_metrics(spec: Nested, *, shared: bool) -> list[AnyMetric]:
    """Return the metrics of one output as a list, copied if several outputs share them."""
    metrics = tree.leaves([spec])
    return copy.deepcopy(metrics) if shared else metrics
