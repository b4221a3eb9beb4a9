"""The objective: from the arguments of `compile` to one loss to minimise, and the metrics beside it."""

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from torchfit._trainer import output_matching
from torchfit._trainer.loss_tracking import NO_LOSSES, LossMean, LossTerm, LossTerms, TotalLoss
from torchfit._trainer.output_matching import Getter, OutputSpec, broadcast_to_outputs, match_to_outputs
from torchfit._trainer.target_rank import is_builtin, with_column_targets
from torchfit._types import Nested, StateDict
from torchfit._utils import tree
from torchfit._utils.errors import describe
from torchfit._utils.names import unique_names
from torchfit.losses.checks import check_targets, find_probability_problem, has_index_targets
from torchfit.losses.identifiers import loss_modules, resolve_loss
from torchfit.metrics.checks import metric_problem
from torchfit.metrics.identifiers import as_metric, follows_loss, resolve_metric

Shape = tuple[int, ...]
Selector = Any
"""A function (targets, outputs, weights) -> [(objective, target, output, weight)], or the only `OutputObjective`."""

_MAX_CACHED_STRUCTURES = 16


class DeferredMetric:
    """A metric such as "accuracy", whose class depends on the loss and on shapes not yet seen."""

    def __init__(self, name: str) -> None:
        """Keep the spelling: it is the key in the logs."""
        self.name = name


@dataclass
class OutputObjective:
    """The loss and the metrics of one output.

    Attributes:
        name: The name of the output.
        loss: Its `Loss`, `None` without one.
        loss_weight: By which the loss is multiplied.
        tracked_loss: The loss over the epoch, where there are several outputs.
        metrics: The metrics, which do not see weights.
        weighted_metrics: The metrics that see weights.
        shapes: The shapes of the first target and output that were seen.
        is_sum: Whether the loss is a sum over samples, not a mean.
    """

    name: str
    loss: Any = None
    loss_weight: float = 1.0
    tracked_loss: LossMean | None = None
    metrics: list[Any] = field(default_factory=list)
    weighted_metrics: list[Any] = field(default_factory=list)
    shapes: tuple[Shape, Shape] | None = None
    is_sum: bool = False
    compute: Callable[..., Any] = output_matching.identity
    updates: list[Callable[..., Any]] = field(default_factory=list)
    weighted_updates: list[Callable[..., Any]] = field(default_factory=list)

    @property
    def needs_target(self) -> bool:
        """Return whether anything here needs a target."""
        return self.loss is not None or bool(self.metrics) or bool(self.weighted_metrics)

    @property
    def resolved_metrics(self) -> list[Any]:
        """All metrics of this output that are resolved, the mean of its loss first."""
        tracked = [] if self.tracked_loss is None else [self.tracked_loss]
        metrics = (*tracked, *self.metrics, *self.weighted_metrics)
        return [metric for metric in metrics if not isinstance(metric, DeferredMetric)]

    def __getstate__(self) -> StateDict:
        """Leave out the functions that belong to these metrics: copies find their own."""
        return {**self.__dict__, "compute": output_matching.identity, "updates": [], "weighted_updates": []}

    def bind_functions(self) -> None:
        """Look up what computes the loss and updates the metrics."""
        if self.loss is not None:
            self.is_sum = self.loss.is_sum
            self.compute = with_column_targets(self.loss, self.loss.with_denominator)
        self.updates = [with_column_targets(metric, metric.update_state) for metric in self.metrics]
        self.weighted_updates = [with_column_targets(metric, metric.update_state) for metric in self.weighted_metrics]


@dataclass
class BoundOutput:
    """An output objective, with what takes its target, output and weights from those of a batch."""

    objective: OutputObjective
    target: Getter
    output: Getter
    weight: Getter


class UncompiledObjective:
    """The objective of a model before `compile`."""

    checks_first_batch = is_builtin = has_losses = False
    index_targets: Mapping[str | None, bool] = {}
    output_bytes = 0
    losses = NO_LOSSES
    metrics: Sequence[Any] = ()
    output_metrics: Sequence[Any] = ()
    unreported_metrics: Sequence[Any] = ()

    @contextmanager
    def isolated(self) -> Iterator[None]:
        """Do nothing: there is nothing to protect."""
        yield

    def start_loop(self) -> None:
        """Do nothing: there are no structures."""

    def loss(self, *_: Any) -> NoReturn:
        """Raise an error."""
        raise RuntimeError("There are no losses and metrics yet: call `compile(optimizer, loss, metrics)` first.")

    update_metrics = loss

    def loss_modules(self) -> list[nn.Module]:
        """Return no modules."""
        return []

    @property
    def tracker(self) -> NoReturn:
        """Raise an error."""
        self.loss()


class Objective:
    """The losses, loss weights and metrics of all outputs, built when the first outputs are seen.

    `loss(...)` and `update_metrics(...)` take targets, outputs and weights in the structures that data and module have.
    How they belong together is decided once for each combination of structures.

    Args:
        loss: As in `compile`; likewise the other arguments.
        loss_weights: Numbers by which the losses are multiplied.
        metrics: Metrics that do not see weights.
        weighted_metrics: Metrics that see weights.
        output_names: The names of the outputs, as the user gave them.

    Attributes:
        tracker: The loss over the epoch.
        outputs: The objectives of the outputs, empty before the first outputs were seen.
        checks_first_batch: Whether to check the values of the next batch.
        output_bytes: The size of the outputs seen last.
        losses: The losses of the outputs that were computed last; whoever reads them sets `NO_LOSSES`.

    Raises:
        ValueError: If an identifier is unknown.
    """

    def __init__(
        self,
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        output_names: Sequence[str] | None = None,
    ) -> None:
        self._losses = tree.map(resolve_loss, loss)
        self._loss_weights = loss_weights
        self._metrics = tree.map(_metric_or_deferred, metrics)
        self._weighted_metrics = tree.map(_metric_or_deferred, weighted_metrics)
        self._given_names = output_names
        self._bindings: dict[Any, Selector] = {}
        self._binding_cache: dict[Any, tuple[Selector, list[str]]] = {}
        self._checked_outputs: set[str] = set()
        self._output_spec = OutputSpec((), [])
        self._active_outputs: set[str] | None = None
        self.losses = NO_LOSSES
        self.checks_first_batch = False
        self.output_bytes = 0
        self.tracker = TotalLoss()
        self.outputs: list[OutputObjective] = []

    def __getstate__(self) -> StateDict:
        """Leave out the bindings to these objectives: copies bind their own."""
        return {**self.__dict__, "_bindings": {}, "_binding_cache": {}, "losses": NO_LOSSES}

    @property
    def output_names(self) -> list[str]:
        """The names of the outputs, empty before they were seen."""
        return [output.name for output in self.outputs]

    @property
    def has_losses(self) -> bool:
        """Return whether a loss was compiled."""
        return bool(tree.leaves(self._losses))

    def loss_modules(self) -> list[nn.Module]:
        """Return the losses that are modules, each once, such as torch's and those with parameters."""
        return [*{id(module): module for loss in tree.leaves(self._losses) for module in loss_modules(loss)}.values()]

    @property
    def index_targets(self) -> dict[str | None, bool]:
        """For each output (`None` for the only one) whether its integer targets are class indices, by its loss."""
        losses = self._losses if isinstance(self._losses, Mapping) else {None: self._losses}
        return {name: has_index_targets(loss) for name, loss in losses.items() if tree.is_leaf(loss)}

    @property
    def metrics(self) -> list[Any]:
        """The loss, then each output's loss, then each output's metrics, in the order of the logs."""
        losses = self.output_metrics
        known = {id(metric) for metric in losses}
        others = [metric for output in self.outputs for metric in output.resolved_metrics if id(metric) not in known]
        return [self.tracker, *losses, *others]

    @property
    def output_metrics(self) -> list[LossMean]:
        """The losses of the outputs over the epoch, where there are several."""
        return [output.tracked_loss for output in self.outputs if output.tracked_loss is not None]

    @property
    def is_builtin(self) -> bool:
        """Return whether all losses and metrics depend on nothing but targets, outputs and weights."""
        losses = [output.loss for output in self.outputs if output.loss is not None]
        metrics = [metric for output in self.outputs for metric in output.resolved_metrics]
        return all(map(is_builtin, (*losses, *metrics)))

    @property
    def unreported_metrics(self) -> list[Any]:
        """The metrics of outputs that had no target in this loop, which are left out of its logs."""
        active = self._active_outputs
        missing = [] if active is None else [output for output in self.outputs if output.name not in active]
        return [metric for output in missing for metric in output.resolved_metrics]

    @property
    def build_config(self) -> StateDict:
        """What is needed to build losses and metrics without data: names, structure, and shapes of the outputs."""
        shapes = {output.name: output.shapes for output in self.outputs if output.shapes is not None}
        return {"names": list(self._output_spec.names), "nest": self._output_spec.structure, "shapes": shapes}

    def build_from_config(self, config: Mapping[str, Any], device: torch.device) -> None:
        """Build losses and metrics from another objective's `build_config`, unless outputs were seen here."""
        if self.outputs or not config["names"]:
            return
        self._output_spec = OutputSpec(tuple(config["names"]), config["nest"])
        self._build(self._output_spec)
        for output in self.outputs:
            output.shapes = config["shapes"].get(output.name)
            if output.shapes is not None:
                target, prediction = (torch.empty(shape, device="meta") for shape in output.shapes)
                self._resolve_metrics(output, target, prediction, device)
        self._name_metrics()

    def start_loop(self) -> None:
        """Look at the structures of data and outputs again, and report only what this loop computes."""
        self._bindings = {}
        self._active_outputs = None
        self.checks_first_batch = False

    @contextmanager
    def isolated(self) -> Iterator[None]:
        """Protect what an outer loop found out about its data from a loop inside of it."""
        bindings, active = self._bindings, self._active_outputs
        self._bindings, self._active_outputs = {}, None
        try:
            yield
        finally:
            self._bindings, self._active_outputs = bindings, active

    # -- one batch -----------------------------------------------------------------------------------------

    def loss(self, targets: Nested, outputs: Nested, sample_weight: Nested) -> Tensor | None:
        """Return the weighted sum of the losses of all outputs, or `None` if there is none.

        The losses of several outputs are tracked here, so that an overridden `train_step` logs them as well.
        """
        total = None
        terms = []
        kinds = type(targets), type(outputs), type(sample_weight)
        select = self._bindings.get(kinds) or self._bind(kinds, targets, outputs, sample_weight)
        is_single = isinstance(select, OutputObjective)  # The usual case, which needs no call to take things apart.
        parts = ((select, targets, outputs, sample_weight),) if is_single else select(targets, outputs, sample_weight)
        for output, target, prediction, weight in parts:
            if output.loss is None:
                continue
            value, denominator = output.compute(target, prediction, weight)
            if output.tracked_loss is not None:
                output.tracked_loss.add(value.detach(), denominator)
            if output.loss_weight != 1.0:
                value = value * output.loss_weight
            terms.append(LossTerm(output.name, value, denominator, output.is_sum, output.loss.is_separable))
            total = value if total is None else total + value
        self.losses = LossTerms(terms, total)
        return total

    def update_metrics(self, targets: Nested, outputs: Nested, sample_weight: Nested) -> None:
        """Update every compiled metric; only the weighted ones see the weights."""
        kinds = type(targets), type(outputs), type(sample_weight)
        select = self._bindings.get(kinds) or self._bind(kinds, targets, outputs, sample_weight)
        is_single = isinstance(select, OutputObjective)
        parts = ((select, targets, outputs, sample_weight),) if is_single else select(targets, outputs, sample_weight)
        for output, target, prediction, weight in parts:
            for update in output.updates:
                update(target, prediction)
            for update in output.weighted_updates:
                update(target, prediction, weight)

    # -- binding -------------------------------------------------------------------------------------------

    def _bind(self, kinds: Any, targets: Nested, outputs: Nested, sample_weight: Nested) -> Selector:
        """Return what selects (objective, target, output, weight) for every output that something is computed for.

        Of single tensors, the types tell which binding it is; structures may change from batch to batch. Bindings for
        structures seen in earlier loops are reused; compiled graphs depend on that.
        """
        structures = tree.treedef(targets), tree.treedef(outputs), tree.treedef(sample_weight)
        if structures in self._bindings:
            return self._bindings[structures]
        if structures not in self._binding_cache:
            bound = self._match(targets, outputs, sample_weight)
            if len(self._binding_cache) >= _MAX_CACHED_STRUCTURES:
                self._binding_cache.clear()
            names = [item.objective.name for item in bound]
            self._binding_cache[structures] = _make_selector(bound, sample_weight), names
        select, names = self._binding_cache[structures]
        self._active_outputs = {*(self._active_outputs or ()), *names}
        is_nested = not all(value is None or tree.is_leaf(value) for value in (targets, outputs, sample_weight))
        self._bindings[structures if is_nested else kinds] = select
        self.output_bytes = tree.nbytes(outputs)
        if self.checks_first_batch:
            is_single = isinstance(select, OutputObjective)
            parts = [(select, targets, outputs, None)] if is_single else select(targets, outputs, sample_weight)
            self._check_first_batch(parts)
        return select

    def _check_first_batch(self, parts: Iterable[tuple[OutputObjective, Any, Any, Any]]) -> None:
        """Check once that targets and outputs go together."""
        self.checks_first_batch = False
        for output, target, prediction, _ in parts:
            if output.loss is not None:
                check_targets(output.loss, target, prediction)

    def _match(self, targets: Nested, outputs: Nested, sample_weight: Nested) -> list[BoundOutput]:
        find_output = self._update_output_spec(outputs).getters(outputs)
        active = [output.name for output in self.outputs if output.needs_target and output.name in find_output]
        find_target = match_to_outputs("y", targets, self._output_spec, active)
        find_weight: dict[str, Getter] = {}
        if tree.is_leaf(sample_weight):
            find_weight = dict.fromkeys(active, output_matching.identity)
        else:
            find_weight = match_to_outputs("sample_weight", sample_weight, self._output_spec, active)
        bound = [
            BoundOutput(output, find_target[name], find_output[name], find_weight.get(name, _nothing))
            for output in self.outputs
            if (name := output.name) in find_target and name in active
        ]
        for item in bound:
            self._resolve(item, targets, outputs)
        self._name_metrics()
        return bound

    def _update_output_spec(self, outputs: Nested) -> OutputSpec:
        """Name these outputs; if they are more than those seen so far, build the objectives again.

        A module may return less in evaluation than in training: a single tensor is the first of its outputs then.
        """
        output_spec = OutputSpec.of(outputs, self._given_names)
        known = self._output_spec.names
        if len(known) > 1 and tree.is_leaf(outputs):
            return OutputSpec(known[:1], known[0])
        if not set(output_spec.names) <= set(known):
            shared = set(output_spec.names) & set(known)
            self._output_spec = output_spec.merge(self._output_spec) if shared else output_spec
            self._binding_cache.clear()
            self._bindings.clear()
            self._checked_outputs.clear()
            self._build(self._output_spec)
        return output_spec

    def _build(self, spec: OutputSpec) -> None:
        losses = broadcast_to_outputs("loss", self._losses, spec, is_single=tree.is_leaf)
        weights = broadcast_to_outputs("loss_weights", self._loss_weights, spec, is_single=tree.is_leaf)
        metrics = broadcast_to_outputs("metrics", self._metrics, spec, is_single=_is_flat)
        weighted = broadcast_to_outputs("weighted_metrics", self._weighted_metrics, spec, is_single=_is_flat)
        several = len(spec.names) > 1
        self.outputs = []
        for name in spec.names:
            loss, weight = losses.get(name), float(weights.get(name, 1.0))
            tracked = LossMean(weight, loss.is_sum) if several and loss is not None else None
            own = _own_metrics(metrics.get(name), shared=several and _is_flat(self._metrics))
            own_weighted = _own_metrics(weighted.get(name), shared=several and _is_flat(self._weighted_metrics))
            self.outputs.append(OutputObjective(name, loss, weight, tracked, own, own_weighted))
        is_sum = not several and any(output.loss is not None and output.loss.is_sum for output in self.outputs)
        self.tracker.set_outputs(self.output_metrics, is_sum)

    def _resolve(self, bound: BoundOutput, targets: Nested, outputs: Nested) -> None:
        """Resolve names such as "accuracy", which depend on loss and shapes, and move the states to the device."""
        target, prediction, output = bound.target(targets), bound.output(outputs), bound.objective
        _check_kinds(output, target, prediction)
        self._resolve_metrics(output, target, prediction, prediction.device)
        if output.name not in self._checked_outputs:
            self._checked_outputs.add(output.name)
            self._warn_of_problems(output, target, prediction)
        output.shapes = _shape_of(target), _shape_of(prediction)
        output.bind_functions()

    def _warn_of_problems(self, output: OutputObjective, target: Tensor, prediction: Tensor) -> None:
        """Warn once of a loss and of metrics that read values which they do not mean."""
        problems = [] if output.loss is None else [find_probability_problem(output.loss, prediction)]
        metrics = (*output.metrics, *output.weighted_metrics)
        for problem in (*problems, *(metric_problem(metric, output.loss, target, prediction) for metric in metrics)):
            if problem:
                warnings.warn(problem, stacklevel=2)

    def _resolve_metrics(
        self, output: OutputObjective, target: Tensor, prediction: Tensor, device: torch.device
    ) -> None:
        for metrics in (output.metrics, output.weighted_metrics):
            metrics[:] = [_resolve_deferred(metric, output.loss, target, prediction) for metric in metrics]
        for metric in (self.tracker, *output.resolved_metrics):
            metric.to(device)

    def _name_metrics(self) -> None:
        """Prefix names with the output where there are several; number repeated names, alike in every fit."""
        several = len(self.outputs) > 1
        for output in self.outputs:
            prefix = f"{output.name}_" if several else ""
            for metric in output.resolved_metrics:
                metric.set_log_name(prefix + metric.given_name)
            plain = {metric.name for metric in output.metrics}
            for metric in output.weighted_metrics:
                if metric.name in plain:
                    metric.set_log_name(f"{prefix}weighted_{metric.given_name}")
        for metric, name in zip(self.metrics, unique_names(metric.name for metric in self.metrics)):
            metric.set_log_name(name)


def _metric_or_deferred(identifier: Any) -> Any:
    return DeferredMetric(identifier) if follows_loss(identifier) else as_metric(identifier)


def _resolve_deferred(metric: Any, loss: Any, target: Tensor, output: Tensor) -> Any:
    if not isinstance(metric, DeferredMetric):
        return metric
    return resolve_metric(metric.name, loss, target.shape, output.shape)


def _make_selector(bound: list[BoundOutput], sample_weight: Nested) -> Selector:
    """Return what takes targets, outputs and weights apart, or the only objective if they all belong to it whole."""
    if len(bound) == 1 and _is_whole(bound[0], sample_weight):
        return bound[0].objective
    return lambda targets, outputs, weights: [
        (item.objective, item.target(targets), item.output(outputs), item.weight(weights)) for item in bound
    ]


def _is_whole(bound: BoundOutput, sample_weight: Nested) -> bool:
    getters = [bound.target, bound.output, *(() if sample_weight is None else (bound.weight,))]
    return all(getter is output_matching.identity for getter in getters)


def _check_kinds(output: OutputObjective, target: Any, prediction: Any) -> None:
    """Check that an output is a tensor, and that a target is one where the loss wants that."""
    if not hasattr(prediction, "device"):
        raise TypeError(
            f"The output {output.name!r} of the model is {describe(prediction)}, but losses and metrics need tensors. "
            "Return a tensor from `forward`, or a tuple, list, dictionary, named tuple or dataclass of tensors."
        )
    if not isinstance(target, Tensor) and (output.loss is None or is_builtin(output.loss)):
        output_matching.check_numbers("y", target)


def _is_flat(value: Any) -> bool:
    """Return whether this is a list of metrics for every output, and not a list with a list for each."""
    return tree.is_leaf(value) or (value is not None and all(map(tree.is_leaf, value)))


def _own_metrics(spec: Any, *, shared: bool) -> list[Any]:
    metrics = tree.leaves([spec])
    return copy.deepcopy(metrics) if shared else metrics


def _shape_of(value: Any) -> Shape:
    return tuple(getattr(value, "shape", ()))


def _nothing(_: Any) -> None:
    return None
