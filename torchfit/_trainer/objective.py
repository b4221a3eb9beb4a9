"""The objective: from what `compile` got to one number to minimise, and the metrics beside it."""

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor

from torchfit._trainer import output_matching, target_rank
from torchfit._types import Nested
from torchfit._utils import tree
from torchfit._utils.names import unique_names
from torchfit.losses.checks import check_targets, find_probability_problem
from torchfit.losses.identifiers import resolve_loss
from torchfit.metrics import Mean
from torchfit.metrics.identifiers import as_metric, resolve_metric

Getter = output_matching.Getter
Selector = Any  # A function (targets, outputs, weights) -> [(term, target, output, weight)], or a single term.
Shape = tuple[int, ...]


class DeferredMetric:
    """A metric such as "accuracy", whose class depends on the loss and on shapes not yet seen."""

    def __init__(self, name: str) -> None:
        """Keep the spelling: it is the key in the logs."""
        self.name = name


_MAX_CACHED_STRUCTURES = 16
_DEFERRED = ("accuracy", "acc", "crossentropy", "ce")


@dataclass
class OutputObjective:
    """What is computed for one output."""

    name: str
    loss: Any = None
    loss_weight: float = 1.0
    tracker: Any = None
    metrics: list[Any] = field(default_factory=list)
    weighted_metrics: list[Any] = field(default_factory=list)
    shapes: tuple[Shape, Shape] | None = None  # of the target and the output that were seen first
    compute: Callable[..., Any] = output_matching.identity
    updates: list[Callable[..., Any]] = field(default_factory=list)
    weighted_updates: list[Callable[..., Any]] = field(default_factory=list)

    @property
    def needs_target(self) -> bool:
        """Return whether anything here needs a target."""
        return self.loss is not None or bool(self.metrics) or bool(self.weighted_metrics)

    @property
    def resolved_metrics(self) -> list[Any]:
        """All metrics of this output that are settled, the mean of its loss first."""
        metrics = (*_as_iterable(self.tracker), *self.metrics, *self.weighted_metrics)
        return [metric for metric in metrics if not isinstance(metric, DeferredMetric)]

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the functions that belong to these very metrics: copies find their own."""
        return {**self.__dict__, "compute": output_matching.identity, "updates": [], "weighted_updates": []}


@dataclass
class BoundOutput:
    """A term with the ways to its target, its output and its weights."""

    term: OutputObjective
    target: Getter
    output: Getter
    weight: Getter


class UncompiledObjective:
    """Stands where the objective will be, before `compile`."""

    checks_first_batch = uses_sum_reduction = is_builtin = False
    output_bytes = 0
    metrics: Sequence[Any] = ()
    trackers: Sequence[Any] = ()
    unreported_metrics: Sequence[Any] = ()

    @contextmanager
    def isolated(self) -> Iterator[None]:
        """Do nothing: there is nothing to put back."""
        yield

    def forget_structures(self) -> None:
        """Do nothing: there are none."""

    def loss(self, *_: Any) -> NoReturn:
        """Refuse."""
        raise RuntimeError("There are no losses and metrics yet: call `compile(optimizer, loss, metrics)` first.")

    update_metrics = loss

    @property
    def tracker(self) -> NoReturn:
        """Refuse."""
        self.loss()


class Objective:
    """Losses, their weights and metrics for every output, built when the first outputs are seen.

    `loss(...)` and `update_metrics(...)` take outputs, targets and weights in the structures that the module
    and the data gave them. How the parts are found is worked out once for each combination of structures.
    """

    def __init__(
        self,
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        output_names: Sequence[str] | None = None,
    ) -> None:
        """Check every identifier now, so that a wrong name fails in `compile`."""
        self._losses = tree.map(resolve_loss, loss)
        self._loss_weights = loss_weights
        self._metrics = tree.map(self._as_metric, metrics)
        self._weighted_metrics = tree.map(self._as_metric, weighted_metrics)
        self._given_names = output_names
        self._bindings: dict[Any, Selector] = {}
        self._binding_cache: dict[Any, tuple[Selector, list[str]]] = {}
        self._checked_outputs: set[str] = set()
        self._output_spec = output_matching.OutputSpec((), [])
        self.checks_first_batch = False
        self.output_bytes = 0
        self._active_outputs: list[str] | None = None
        self.tracker = Mean(name="loss")
        self.terms: list[OutputObjective] = []

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what was worked out for these very terms: copies match their own."""
        return {**self.__dict__, "_bindings": {}, "_binding_cache": {}}

    @property
    def output_names(self) -> list[str]:
        """The names of the outputs, empty before they were seen."""
        return [term.name for term in self.terms]

    @property
    def metrics(self) -> list[Any]:
        """The loss tracker, then each output's loss, then each output's metrics, in the order of the logs."""
        compiled = [metric for term in self.terms for metric in term.resolved_metrics if metric is not term.tracker]
        return [self.tracker, *self.trackers, *compiled]

    @property
    def trackers(self) -> list[Any]:
        """The means of the losses of the outputs, where there are several."""
        return [term.tracker for term in self.terms if term.tracker is not None]

    @property
    def uses_sum_reduction(self) -> bool:
        """Return whether the losses are sums over a batch, and not means.

        Raises:
            ValueError: If some are and some are not.
        """
        kinds = {term.loss.reduction == "sum" for term in self.terms if term.loss is not None}
        if len(kinds) > 1:
            raise ValueError("`microbatch` needs losses that all are means, or all are sums (`reduction=`).")
        return True in kinds

    @property
    def is_builtin(self) -> bool:
        """Return whether all losses and metrics look at nothing but targets, outputs and weights."""
        members = [member for term in self.terms for member in (*_as_iterable(term.loss), *term.resolved_metrics)]
        return all(map(target_rank.is_builtin, members))

    @property
    def unreported_metrics(self) -> list[Any]:
        """The metrics of outputs or targets that were not there in this loop: they are left out of its logs."""
        terms = self.terms if self._active_outputs is not None else []
        return [
            metric
            for term in terms
            if term.name not in (self._active_outputs or ())
            for metric in term.resolved_metrics
        ]

    @property
    def build_config(self) -> dict[str, Any]:
        """What was seen of the outputs, as plain data: their names, structure, and shapes with those of the targets."""
        shapes = {term.name: term.shapes for term in self.terms if term.shapes is not None}
        return {"names": list(self._output_spec.names), "nest": self._output_spec.structure, "shapes": shapes}

    def build_from_config(self, build_config: Mapping[str, Any], device: torch.device) -> None:
        """Make the losses and metrics for outputs that another objective saw, unless some were seen here."""
        if self.terms or not build_config["names"]:
            return
        self._output_spec = output_matching.OutputSpec(tuple(build_config["names"]), build_config["nest"])
        self._build(self._output_spec)
        for term in self.terms:
            term.shapes = build_config["shapes"].get(term.name)
            if term.shapes is not None:
                target, output = (torch.empty(shape, device="meta") for shape in term.shapes)
                self._resolve_metrics(term, target, output, device)
        self._name_metrics()

    def forget_structures(self) -> None:
        """Look at the structure of data and outputs anew: they may change from one call to the next."""
        self._bindings = {}
        self.checks_first_batch = False

    @contextmanager
    def isolated(self) -> Iterator[None]:
        """Put back, after a loop inside of a loop, what was found out about the data of the outer one."""
        bound, latest = self._bindings, self._active_outputs
        self._bindings = {}
        try:
            yield
        finally:
            self._bindings, self._active_outputs = bound, latest

    def loss(self, targets: Nested, outputs: Nested, sample_weight: Nested) -> Tensor | None:
        """Return the weighted sum of the losses of all outputs, or `None` if there is none."""
        total = None
        kinds = type(targets), type(outputs), type(sample_weight)
        select = self._bindings.get(kinds) or self._bind(kinds, targets, outputs, sample_weight)
        is_single_output = isinstance(
            select, OutputObjective
        )  # The usual case, which needs no call to take things apart.
        parts = (
            ((select, targets, outputs, sample_weight),)
            if is_single_output
            else select(targets, outputs, sample_weight)
        )
        for term, target, output, weight in parts:
            if term.loss is None:
                continue
            value = term.compute(target, output, weight)
            if term.tracker is not None:
                term.tracker.update_state(value.detach(), _rows(output))
            weighted = value if term.loss_weight == 1.0 else value * term.loss_weight
            total = weighted if total is None else total + weighted
        return total

    def update_metrics(self, targets: Nested, outputs: Nested, sample_weight: Nested) -> None:
        """Update every compiled metric; only the weighted ones see the weights."""
        kinds = type(targets), type(outputs), type(sample_weight)
        select = self._bindings.get(kinds) or self._bind(kinds, targets, outputs, sample_weight)
        is_single_output = isinstance(
            select, OutputObjective
        )  # The usual case, which needs no call to take things apart.
        parts = (
            ((select, targets, outputs, sample_weight),)
            if is_single_output
            else select(targets, outputs, sample_weight)
        )
        for term, target, output, weight in parts:
            for update in term.updates:
                update(target, output)
            for update in term.weighted_updates:
                update(target, output, weight)

    def _as_metric(self, identifier: Any) -> Any:
        is_deferred = isinstance(identifier, str) and identifier.lower() in _DEFERRED
        return DeferredMetric(identifier) if is_deferred else as_metric(identifier)

    def _bind(self, kinds: Any, targets: Nested, outputs: Nested, sample_weight: Nested) -> Selector:
        """Return what gives (term, target, output, weight) for every output that something is computed for.

        What was worked out for the same structures in an earlier loop is taken up: compiled graphs rely on it.
        """
        key = tree.treedef(targets), tree.treedef(outputs), tree.treedef(sample_weight)
        if key not in self._binding_cache:
            bound = self._match(targets, outputs, sample_weight)
            if len(self._binding_cache) >= _MAX_CACHED_STRUCTURES:
                self._binding_cache.clear()
            self._binding_cache[key] = _make_selector(bound, sample_weight), [item.term.name for item in bound]
        select, self._active_outputs = self._binding_cache[key]
        self._bindings[kinds] = select
        self.output_bytes = tree.nbytes(outputs)
        if self.checks_first_batch:
            single = isinstance(select, OutputObjective)
            self._examine([(select, targets, outputs, None)] if single else select(targets, outputs, sample_weight))
        return select

    def _examine(self, parts: Iterable[tuple[OutputObjective, Any, Any, Any]]) -> None:
        """Look once at how targets and outputs go together."""
        self.checks_first_batch = False
        for term, target, output, _ in parts:
            if term.loss is not None:
                check_targets(term.loss, target, output)

    def _match(self, targets: Nested, outputs: Nested, sample_weight: Nested) -> list[BoundOutput]:
        find_output = self._update_output_spec(outputs).getters(outputs)
        active_outputs = [term.name for term in self.terms if term.needs_target and term.name in find_output]
        find_target = output_matching.match_to_outputs("y", targets, self._output_spec, active_outputs)
        find_weight: dict[str, Getter] = {}
        if tree.is_leaf(sample_weight):
            find_weight = dict.fromkeys(active_outputs, output_matching.identity)
        else:
            find_weight = output_matching.match_to_outputs(
                "sample_weight", sample_weight, self._output_spec, active_outputs
            )
        terms = [term for term in self.terms if term.name in find_target and term.name in active_outputs]
        bound = [
            BoundOutput(term, find_target[term.name], find_output[term.name], find_weight.get(term.name, _nothing))
            for term in terms
        ]
        for item in bound:
            self._resolve(item, targets, outputs)
        self._name_metrics()
        return bound

    def _update_output_spec(self, outputs: Nested) -> output_matching.OutputSpec:
        """Name these outputs; where they are more than those seen so far, the terms are built anew.

        A module may return less in evaluation than in training: a single tensor is the first of its outputs then.
        """
        output_spec = output_matching.OutputSpec.of(outputs, self._given_names)
        known = self._output_spec.names
        if len(known) > 1 and tree.is_leaf(outputs):
            return output_matching.OutputSpec(known[:1], known[0])
        if not set(output_spec.names) <= set(known):
            shared = set(output_spec.names) & set(known)
            self._output_spec = output_spec.merge(self._output_spec) if shared else output_spec
            self._binding_cache.clear()
            self._checked_outputs.clear()
            self._build(self._output_spec)
        return output_spec

    def _build(self, output_spec: output_matching.OutputSpec) -> None:
        losses = output_matching.broadcast_to_outputs("loss", self._losses, output_spec, is_single=tree.is_leaf)
        weights = output_matching.broadcast_to_outputs(
            "loss_weights", self._loss_weights, output_spec, is_single=tree.is_leaf
        )
        metrics = output_matching.broadcast_to_outputs("metrics", self._metrics, output_spec, is_single=_is_flat)
        weighted = output_matching.broadcast_to_outputs(
            "weighted_metrics", self._weighted_metrics, output_spec, is_single=_is_flat
        )
        several = len(output_spec.names) > 1
        self.terms = [
            OutputObjective(
                name,
                losses.get(name),
                float(weights.get(name, 1.0)),
                Mean(name="loss") if several and losses.get(name) is not None else None,
                _own_metrics(metrics.get(name), shared=several and _is_flat(self._metrics)),
                _own_metrics(weighted.get(name), shared=several and _is_flat(self._weighted_metrics)),
            )
            for name in output_spec.names
        ]

    def _resolve(self, bound: BoundOutput, targets: Nested, outputs: Nested) -> None:
        """Settle names such as "accuracy", which depend on loss and shapes, and place the states."""
        target, output, term = bound.target(targets), bound.output(outputs), bound.term
        if term.loss is not None and term.name not in self._checked_outputs:
            self._checked_outputs.add(term.name)
            problem = find_probability_problem(term.loss, output)
            if problem:
                warnings.warn(problem, stacklevel=2)
        self._resolve_metrics(term, target, output, output.device)
        term.shapes = _shape_of(target), _shape_of(output)
        term.compute = target_rank.with_column_targets(term.loss, term.loss)
        term.updates = [target_rank.with_column_targets(metric, metric.update_state) for metric in term.metrics]
        term.weighted_updates = [
            target_rank.with_column_targets(metric, metric.update_state) for metric in term.weighted_metrics
        ]

    def _resolve_metrics(self, term: OutputObjective, target: Tensor, output: Tensor, device: torch.device) -> None:
        for metrics in (term.metrics, term.weighted_metrics):
            metrics[:] = [self._resolve_metric(metric, term.loss, target, output) for metric in metrics]
        for metric in (self.tracker, *term.resolved_metrics):
            metric.to(device)

    def _resolve_metric(self, metric: Any, loss: Any, target: Tensor, output: Tensor) -> Any:
        if not isinstance(metric, DeferredMetric):
            return metric
        from_logits = getattr(loss, "from_logits", False)
        return resolve_metric(metric.name, getattr(loss, "name", None), target.shape, output.shape, from_logits)

    def _name_metrics(self) -> None:
        """Prefix with the output where there are several; number what occurs again, alike in every fit."""
        several = len(self.terms) > 1
        for term in self.terms:
            prefix = f"{term.name}_" if several else ""
            for metric in term.resolved_metrics:
                metric.set_log_name(prefix + metric.given_name)
            plain = {metric.name for metric in term.metrics}
            for metric in term.weighted_metrics:
                if metric.name in plain:
                    metric.set_log_name(f"{prefix}weighted_{metric.given_name}")
        for metric, name in zip(self.metrics, unique_names(metric.name for metric in self.metrics)):
            metric.set_log_name(name)


def _make_selector(bound: list[BoundOutput], sample_weight: Nested) -> Any:
    """Return what takes targets, outputs and weights apart, or the one term that they all belong to as they are."""
    if len(bound) == 1 and _is_whole(bound[0], sample_weight):
        return bound[0].term
    return lambda targets, outputs, weights: [
        (item.term, item.target(targets), item.output(outputs), item.weight(weights)) for item in bound
    ]


def _is_whole(bound: BoundOutput, sample_weight: Nested) -> bool:
    ways = [bound.target, bound.output, *(() if sample_weight is None else (bound.weight,))]
    return all(way is output_matching.identity for way in ways)


def _is_flat(value: Any) -> bool:
    """Tell a list of metrics for every output from a list with a list for each."""
    return tree.is_leaf(value) or (value is not None and all(map(tree.is_leaf, value)))


def _own_metrics(spec: Any, *, shared: bool) -> list[Any]:
    metrics = tree.leaves([spec])
    return copy.deepcopy(metrics) if shared else metrics


def _as_iterable(value: Any) -> Iterable[Any]:
    return () if value is None else (value,)


def _shape_of(value: Any) -> Shape:
    return tuple(getattr(value, "shape", ()))


def _rows(output: Tensor) -> int:
    return output.shape[0] if output.ndim else 1


def _nothing(_: Any) -> None:
    return None
