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
from torchfit._utils import tree
from torchfit._utils.names import unique_names

Getter = output_matching.Getter
Pick = Any  # A function (targets, outputs, weights) -> [(term, target, output, weight)], or a single term.
Shape = tuple[int, ...]


@dataclass
class Family:
    """How the objective gets its parts made; handed in, because losses and metrics live beside the engine."""

    as_loss: Callable[[Any], Any]
    loss_problem: Callable[[Any, Tensor], str | None]
    as_metric: Callable[[Any], Any]
    resolve_metric: Callable[[str, Any, Tensor, Tensor], Any]
    mean: Callable[..., Any]
    check_targets: Callable[[Any, Any, Any], None] = lambda *_: None
    follows_loss: Callable[[Any], bool] = lambda _: False
    metric_problem: Callable[[Any, Any, Any, Any], str | None] = lambda *_: None


class Deferred:
    """A metric such as "accuracy", whose class depends on the loss and on shapes not yet seen."""

    def __init__(self, name: str) -> None:
        """Keep the spelling: it is the key in the logs."""
        self.name = name


_MOST_STRUCTURES = 16


@dataclass
class Term:
    """What is computed for one output."""

    name: str
    loss: Any = None
    loss_weight: float = 1.0
    tracker: Any = None
    metrics: list[Any] = field(default_factory=list)
    weighted_metrics: list[Any] = field(default_factory=list)
    shapes: tuple[Shape, Shape] | None = None  # of the target and the output that were seen first
    compute: Callable[..., Any] = output_matching.whole
    updates: list[Callable[..., Any]] = field(default_factory=list)
    weighted_updates: list[Callable[..., Any]] = field(default_factory=list)

    @property
    def is_served(self) -> bool:
        """Tell whether anything here needs a target."""
        return self.loss is not None or bool(self.metrics) or bool(self.weighted_metrics)

    @property
    def members(self) -> list[Any]:
        """All metrics of this output that are settled, the mean of its loss first."""
        metrics = (*_present(self.tracker), *self.metrics, *self.weighted_metrics)
        return [metric for metric in metrics if not isinstance(metric, Deferred)]

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the functions that belong to these very metrics: copies find their own."""
        return {**self.__dict__, "compute": output_matching.whole, "updates": [], "weighted_updates": []}


@dataclass
class Bound:
    """A term with the ways to its target, its output and its weights."""

    term: Term
    target: Getter
    output: Getter
    weight: Getter


class Uncompiled:
    """Stands where the objective will be, before `compile`."""

    examines = sums = is_self_contained = False
    output_bytes = 0
    metrics: Sequence[Any] = ()
    trackers: Sequence[Any] = ()
    silent: Sequence[Any] = ()

    @contextmanager
    def apart(self) -> Iterator[None]:
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
        family: Family,
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        output_names: Sequence[str] | None = None,
    ) -> None:
        """Check every identifier now, so that a wrong name fails in `compile`."""
        self._family = family
        self._losses = tree.map(family.as_loss, loss)
        self._loss_weights = loss_weights
        self._metrics = tree.map(self._as_metric, metrics)
        self._weighted_metrics = tree.map(self._as_metric, weighted_metrics)
        self._given_names = output_names
        self._bound: dict[Any, Pick] = {}
        self._known: dict[Any, tuple[Pick, list[str]]] = {}
        self._checked: set[str] = set()
        self._checked_metrics: set[int] = set()
        self._layout = output_matching.Layout((), [])
        self.examines = False
        self.output_bytes = 0
        self._latest: list[str] | None = None
        self.tracker = family.mean(name="loss")
        self.terms: list[Term] = []

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what was worked out for these very terms: copies match their own."""
        return {**self.__dict__, "_bound": {}, "_known": {}}

    @property
    def output_names(self) -> list[str]:
        """The names of the outputs, empty before they were seen."""
        return [term.name for term in self.terms]

    @property
    def metrics(self) -> list[Any]:
        """The loss tracker, then each output's loss, then each output's metrics, in the order of the logs."""
        compiled = [metric for term in self.terms for metric in term.members if metric is not term.tracker]
        return [self.tracker, *self.trackers, *compiled]

    @property
    def trackers(self) -> list[Any]:
        """The means of the losses of the outputs, where there are several."""
        return [term.tracker for term in self.terms if term.tracker is not None]

    @property
    def sums(self) -> bool:
        """Tell whether the losses are sums over a batch, and not means.

        Raises:
            ValueError: If some are and some are not.
        """
        kinds = {term.loss.reduction == "sum" for term in self.terms if term.loss is not None}
        if len(kinds) > 1:
            raise ValueError("`microbatch` needs losses that all are means, or all are sums (`reduction=`).")
        return True in kinds

    @property
    def is_self_contained(self) -> bool:
        """Tell whether all losses and metrics look at nothing but targets, outputs and weights."""
        members = [member for term in self.terms for member in (*_present(term.loss), *term.members)]
        return all(map(target_rank.is_self_contained, members))

    @property
    def silent(self) -> list[Any]:
        """The metrics of outputs or targets that were not there in this loop: they are left out of its logs."""
        terms = self.terms if self._latest is not None else []
        return [metric for term in terms if term.name not in (self._latest or ()) for metric in term.members]

    @property
    def outlook(self) -> dict[str, Any]:
        """What was seen of the outputs, as plain data: their names, structure, and shapes with those of the targets."""
        shapes = {term.name: term.shapes for term in self.terms if term.shapes is not None}
        return {"names": list(self._layout.names), "nest": self._layout.nest, "shapes": shapes}

    def foresee(self, outlook: Mapping[str, Any], device: torch.device) -> None:
        """Make the losses and metrics for outputs that another objective saw, unless some were seen here."""
        if self.terms or not outlook["names"]:
            return
        self._layout = output_matching.Layout(tuple(outlook["names"]), outlook["nest"])
        self._build(self._layout)
        for term in self.terms:
            term.shapes = outlook["shapes"].get(term.name)
            if term.shapes is not None:
                target, output = (torch.empty(shape, device="meta") for shape in term.shapes)
                self._settle(term, target, output, device)
        self._name_metrics()

    def forget_structures(self) -> None:
        """Look at the structure of data and outputs anew: they may change from one call to the next."""
        self._bound = {}
        self.examines = False

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Put back, after a loop inside of a loop, what was found out about the data of the outer one."""
        bound, latest = self._bound, self._latest
        self._bound = {}
        try:
            yield
        finally:
            self._bound, self._latest = bound, latest

    def loss(self, targets: Any, outputs: Any, sample_weight: Any) -> Tensor | None:
        """Return the weighted sum of the losses of all outputs, or `None` if there is none."""
        total = None
        kinds = type(targets), type(outputs), type(sample_weight)
        pick = self._bound.get(kinds) or self._bind(kinds, targets, outputs, sample_weight)
        alone = isinstance(pick, Term)  # The usual case, which needs no call to take things apart.
        parts = ((pick, targets, outputs, sample_weight),) if alone else pick(targets, outputs, sample_weight)
        for term, target, output, weight in parts:
            if term.loss is None:
                continue
            value = term.compute(target, output, weight)
            if term.tracker is not None:
                term.tracker.update_state(value.detach(), _rows(output))
            weighted = value if term.loss_weight == 1.0 else value * term.loss_weight
            total = weighted if total is None else total + weighted
        return total

    def update_metrics(self, targets: Any, outputs: Any, sample_weight: Any) -> None:
        """Update every compiled metric; only the weighted ones see the weights."""
        kinds = type(targets), type(outputs), type(sample_weight)
        pick = self._bound.get(kinds) or self._bind(kinds, targets, outputs, sample_weight)
        alone = isinstance(pick, Term)  # The usual case, which needs no call to take things apart.
        parts = ((pick, targets, outputs, sample_weight),) if alone else pick(targets, outputs, sample_weight)
        for term, target, output, weight in parts:
            for update in term.updates:
                update(target, output)
            for update in term.weighted_updates:
                update(target, output, weight)

    def _as_metric(self, identifier: Any) -> Any:
        is_deferred = self._family.follows_loss(identifier)
        return Deferred(identifier) if is_deferred else self._family.as_metric(identifier)

    def _bind(self, kinds: Any, targets: Any, outputs: Any, sample_weight: Any) -> Pick:
        """Return what gives (term, target, output, weight) for every output that something is computed for.

        What was worked out for the same structures in an earlier loop is taken up: compiled graphs rely on it.
        """
        key = tree.treedef(targets), tree.treedef(outputs), tree.treedef(sample_weight)
        if key not in self._known:
            bound = self._match(targets, outputs, sample_weight)
            if len(self._known) >= _MOST_STRUCTURES:
                self._known.clear()
            self._known[key] = _picker(bound, sample_weight), [item.term.name for item in bound]
        pick, self._latest = self._known[key]
        self._bound[kinds] = pick
        self.output_bytes = tree.nbytes(outputs)
        if self.examines:
            single = isinstance(pick, Term)
            self._examine([(pick, targets, outputs, None)] if single else pick(targets, outputs, sample_weight))
        return pick

    def _examine(self, parts: Iterable[tuple[Term, Any, Any, Any]]) -> None:
        """Look once at how targets and outputs go together."""
        self.examines = False
        for term, target, output, _ in parts:
            if term.loss is not None:
                self._family.check_targets(term.loss, target, output)

    def _match(self, targets: Any, outputs: Any, sample_weight: Any) -> list[Bound]:
        find_output = self._laid_out(outputs).getters(outputs)
        served = [term.name for term in self.terms if term.is_served and term.name in find_output]
        find_target = output_matching.by_output("y", targets, self._layout, served)
        find_weight: dict[str, Getter] = {}
        if tree.is_leaf(sample_weight):
            find_weight = dict.fromkeys(served, output_matching.whole)
        else:
            find_weight = output_matching.by_output("sample_weight", sample_weight, self._layout, served)
        terms = [term for term in self.terms if term.name in find_target and term.name in served]
        bound = [
            Bound(term, find_target[term.name], find_output[term.name], find_weight.get(term.name, _nothing))
            for term in terms
        ]
        for item in bound:
            self._resolve(item, targets, outputs)
        self._name_metrics()
        return bound

    def _laid_out(self, outputs: Any) -> output_matching.Layout:
        """Name these outputs; where they are more than those seen so far, the terms are built anew.

        A module may return less in evaluation than in training: a single tensor is the first of its outputs then.
        """
        layout = output_matching.Layout.of(outputs, self._given_names)
        known = self._layout.names
        if len(known) > 1 and tree.is_leaf(outputs):
            return output_matching.Layout(known[:1], known[0])
        if not set(layout.names) <= set(known):
            shared = set(layout.names) & set(known)
            self._layout = layout.joined(self._layout) if shared else layout
            self._known.clear()
            self._checked.clear()
            self._build(self._layout)
        return layout

    def _build(self, layout: output_matching.Layout) -> None:
        losses = output_matching.spread("loss", self._losses, layout, is_one=tree.is_leaf)
        weights = output_matching.spread("loss_weights", self._loss_weights, layout, is_one=tree.is_leaf)
        metrics = output_matching.spread("metrics", self._metrics, layout, is_one=_is_flat)
        weighted = output_matching.spread("weighted_metrics", self._weighted_metrics, layout, is_one=_is_flat)
        several = len(layout.names) > 1
        self.terms = [
            Term(
                name,
                losses.get(name),
                float(weights.get(name, 1.0)),
                self._family.mean(name="loss") if several and losses.get(name) is not None else None,
                _own_metrics(metrics.get(name), shared=several and _is_flat(self._metrics)),
                _own_metrics(weighted.get(name), shared=several and _is_flat(self._weighted_metrics)),
            )
            for name in layout.names
        ]

    def _resolve(self, bound: Bound, targets: Any, outputs: Any) -> None:
        """Settle names such as "accuracy", which depend on loss and shapes, and place the states."""
        target, output, term = bound.target(targets), bound.output(outputs), bound.term
        if term.loss is not None and term.name not in self._checked:
            self._checked.add(term.name)
            problem = self._family.loss_problem(term.loss, output)
            if problem:
                warnings.warn(problem, stacklevel=2)
        self._settle(term, target, output, output.device)
        self._check_metrics(term, target, output)
        term.shapes = _shape_of(target), _shape_of(output)
        term.compute = target_rank.suited(term.loss, term.loss)
        term.updates = [target_rank.suited(metric, metric.update_state) for metric in term.metrics]
        term.weighted_updates = [target_rank.suited(metric, metric.update_state) for metric in term.weighted_metrics]

    def _check_metrics(self, term: Term, target: Any, output: Any) -> None:
        """Warn once of metrics that read values which they do not mean."""
        for metric in (*term.metrics, *term.weighted_metrics):
            if id(metric) not in self._checked_metrics:
                self._checked_metrics.add(id(metric))
                problem = self._family.metric_problem(metric, term.loss, target, output)
                if problem:
                    warnings.warn(problem, stacklevel=2)

    def _settle(self, term: Term, target: Tensor, output: Tensor, device: torch.device) -> None:
        for metrics in (term.metrics, term.weighted_metrics):
            metrics[:] = [self._settled(metric, term.loss, target, output) for metric in metrics]
        for metric in (self.tracker, *term.members):
            metric.to(device)

    def _settled(self, metric: Any, loss: Any, target: Tensor, output: Tensor) -> Any:
        if not isinstance(metric, Deferred):
            return metric
        return self._family.resolve_metric(metric.name, loss, target, output)

    def _name_metrics(self) -> None:
        """Prefix with the output where there are several; number what occurs again, alike in every fit."""
        several = len(self.terms) > 1
        for term in self.terms:
            prefix = f"{term.name}_" if several else ""
            for metric in term.members:
                metric.set_log_name(prefix + metric.given_name)
            plain = {metric.name for metric in term.metrics}
            for metric in term.weighted_metrics:
                if metric.name in plain:
                    metric.set_log_name(f"{prefix}weighted_{metric.given_name}")
        for metric, name in zip(self.metrics, unique_names(metric.name for metric in self.metrics)):
            metric.set_log_name(name)


def _picker(bound: list[Bound], sample_weight: Any) -> Any:
    """Return what takes targets, outputs and weights apart, or the one term that they all belong to as they are."""
    if len(bound) == 1 and _is_whole(bound[0], sample_weight):
        return bound[0].term
    return lambda targets, outputs, weights: [
        (item.term, item.target(targets), item.output(outputs), item.weight(weights)) for item in bound
    ]


def _is_whole(bound: Bound, sample_weight: Any) -> bool:
    ways = [bound.target, bound.output, *(() if sample_weight is None else (bound.weight,))]
    return all(way is output_matching.whole for way in ways)


def _is_flat(value: Any) -> bool:
    """Tell a list of metrics for every output from a list with a list for each."""
    return tree.is_leaf(value) or (value is not None and all(map(tree.is_leaf, value)))


def _own_metrics(spec: Any, *, shared: bool) -> list[Any]:
    metrics = tree.leaves([spec])
    return copy.deepcopy(metrics) if shared else metrics


def _present(value: Any) -> Iterable[Any]:
    return () if value is None else (value,)


def _shape_of(value: Any) -> Shape:
    return tuple(getattr(value, "shape", ()))


def _rows(output: Tensor) -> int:
    return output.shape[0] if output.ndim else 1


def _nothing(_: Any) -> None:
    return None
