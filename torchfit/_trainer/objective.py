"""`Objective`, which combines the losses and metrics of `compile` into one loss to minimize and the logs."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Real
from typing import NoReturn

import torch
from torch import Tensor, nn

from torchfit._trainer import output_matching
from torchfit._trainer.loss_tracking import NO_LOSSES, LossMean, LossTerm, LossTerms, TotalLoss
from torchfit._trainer.output_matching import (
    Getter,
    OutputSpec,
    broadcast_to_outputs,
    find_own_loss,
    is_builtin,
    match_to_outputs,
    outputs_of_one_target,
)
from torchfit._trainer.output_objective import (
    BoundOutput,
    OutputObjective,
    Part,
    Selector,
    Shape,
    make_selector,
    metric_or_deferred,
    own_metrics,
    resolved,
)
from torchfit._types import Nested, StateDict
from torchfit._utils import tree
from torchfit._utils.console import logger
from torchfit._utils.errors import describe, warn
from torchfit._utils.names import unique_names
from torchfit.losses.checks import check_targets, index_targets
from torchfit.losses.functional_loss import OverOutputs
from torchfit.losses.identifiers import hidden_modules, loss_modules, resolve_loss
from torchfit.metrics.base import Metric

_MAX_CACHED_STRUCTURES = 16


class UncompiledObjective:
    """The objective of a model before `compile`."""

    checks_first_batch = is_builtin = has_losses = False
    index_targets: Mapping[str | None, bool] = {}
    output_bytes = 0
    losses = NO_LOSSES
    outputs: Sequence[OutputObjective] = ()
    metrics: Sequence[Metric] = ()
    output_metrics: Sequence[Metric] = ()
    unreported_metrics: Sequence[Metric] = ()

    @contextmanager
    def isolated(self) -> Iterator[None]:
        """Do nothing: there is no state to protect."""
        yield

    def start_loop(self) -> None:
        """Do nothing: there are no bindings."""

    def loss(self, *_: object) -> NoReturn:
        """Raise an error."""
        raise RuntimeError("There are no losses and metrics yet: call `compile(optimizer, loss, metrics)` first.")

    update_metrics = own_loss = loss

    def loss_modules(self) -> list[nn.Module]:
        """Return no modules."""
        return []

    def hidden_modules(self) -> list[tuple[str, nn.Module]]:
        """Return no modules."""
        return []

    @property
    def tracker(self) -> NoReturn:
        """Raise an error."""
        self.loss()


class Objective:
    """The losses, loss weights and metrics of all outputs, built when the first outputs are seen.

    `loss(...)` and `update_metrics(...)` take targets, outputs and weights in the structures of the data and the
    module. How they are matched is decided once for each combination of structures.

    Args:
        loss: The losses, as in `compile`.
        loss_weights: Numbers by which the losses are multiplied, as in `compile`.
        metrics: Metrics that ignore sample weights, as in `compile`.
        weighted_metrics: Metrics that use sample weights, as in `compile`.
        output_names: The names of the outputs, as the user gave them.

    Attributes:
        tracker: The loss over the epoch.
        metrics: The loss, then each output's loss, then each output's metrics, in the order of the logs.
        outputs: The objectives of the outputs, empty before the first batch.
        checks_first_batch: Whether to check the values of the next batch.
        output_bytes: The size of the last outputs.
        losses: The last losses of the outputs; the reader resets them to `NO_LOSSES`.
        index_targets: Whether integer targets are class indices, by output (`None` for the only one).

    Raises:
        ValueError: If an identifier is unknown.
    """

    def __init__(
        self,
        loss: object = None,
        loss_weights: object = None,
        metrics: object = None,
        weighted_metrics: object = None,
        output_names: Sequence[str] | None = None,
    ) -> None:
        self._losses = tree.map(resolve_loss, loss)
        self._over_outputs = _over_outputs(self._losses, loss_weights)
        self._loss_weights = None if self._over_outputs else tree.map(_loss_weight, loss_weights)
        self._metrics = tree.map(metric_or_deferred, metrics)
        self._weighted_metrics = tree.map(metric_or_deferred, weighted_metrics)
        self._given_names = output_names
        self._bindings: dict[object, Selector] = {}
        self._binding_cache: dict[object, tuple[Selector, list[str]]] = {}
        self._checked_outputs: set[str] = set()
        self._output_spec = OutputSpec((), [])
        self._active_outputs: set[str] | None = None
        self.losses = NO_LOSSES
        self.checks_first_batch = False
        self.output_bytes = 0
        self.tracker = TotalLoss()
        self.metrics: list[Metric] = [self.tracker]
        self._trains_on_own_loss = self._has_told_of_missing_loss = False
        # A custom loss may create modules when it is first called.
        self._builtin_modules = self._find_modules() if all(map(is_builtin, tree.leaves(self._losses))) else None
        self.outputs: list[OutputObjective] = []
        self.index_targets = index_targets(self._losses)
        if self._over_outputs is not None:
            self.tracker.set_outputs((), self._over_outputs.loss.is_sum)

    def __getstate__(self) -> StateDict:
        """Omit the bindings to these objectives: copies bind their own."""
        return {**self.__dict__, "_bindings": {}, "_binding_cache": {}, "losses": NO_LOSSES}

    @property
    def output_names(self) -> list[str]:
        """The names of the outputs, empty before the first batch."""
        return [output.name for output in self.outputs]

    @property
    def has_losses(self) -> bool:
        """Return whether a loss was compiled."""
        return bool(tree.leaves(self._losses))

    def loss_modules(self) -> list[nn.Module]:
        """Return the losses that are modules, such as torch's and those with parameters, each once."""
        return self._find_modules() if self._builtin_modules is None else self._builtin_modules

    def _find_modules(self) -> list[nn.Module]:
        return [*{id(module): module for loss in tree.leaves(self._losses) for module in loss_modules(loss)}.values()]

    def hidden_modules(self) -> list[tuple[str, nn.Module]]:
        """Return the modules that loss functions use without getting them as arguments, by variable name."""
        losses = tree.leaves(self._losses) if self._builtin_modules is None else []
        return [found for loss in losses for found in hidden_modules(loss)]

    def own_loss(self, outputs: Nested, sample_weight: Nested) -> Tensor | None:
        """Return the loss that the module computed itself, or `None`. Its use is logged once.

        A warning is issued if the module returned a loss before and returns none now.

        Raises:
            ValueError: If there are sample weights, which such a loss cannot use.
        """
        loss = find_own_loss(outputs)
        if loss is not None and sample_weight is not None:
            raise ValueError(
                "`sample_weight` (or `class_weight`) does not go with the loss that the module returns, which is one "
                f"value per batch. Received: {describe(sample_weight)}. Pass `loss=` to `compile`, which weighs "
                "samples, or leave the weights out."
            )
        if loss is not None and not self._trains_on_own_loss:
            self._trains_on_own_loss = True
            logger.warning(
                "No loss was compiled: the loss is the scalar that the module returns. Call "
                'model.add_loss(lambda outputs: outputs["loss"], on="") to choose another one.'
            )
        if loss is None and self._trains_on_own_loss and not self._has_told_of_missing_loss:
            self._has_told_of_missing_loss = True
            warn(
                "`loss` is 0: the module returned none here, though it did in training. Pass the targets as in "
                "training, such as among the inputs, or pass `loss=` to `compile`."
            )
        return loss

    def _find_metrics(self) -> list[Metric]:
        losses = self.output_metrics
        known = {id(metric) for metric in losses}
        others = [metric for output in self.outputs for metric in output.resolved_metrics if id(metric) not in known]
        return [self.tracker, *losses, *others]

    @property
    def output_metrics(self) -> list[LossMean]:
        """The losses of the outputs over the epoch, if there are several outputs."""
        return [output.tracked_loss for output in self.outputs if output.tracked_loss is not None]

    @property
    def is_builtin(self) -> bool:
        """Return whether all losses and metrics depend only on targets, outputs and weights."""
        losses = tree.leaves(self._losses)
        metrics = [metric for output in self.outputs for metric in output.resolved_metrics]
        return all(map(is_builtin, (*losses, *metrics)))

    @property
    def unreported_metrics(self) -> list[Metric]:
        """The metrics of outputs without a target in this loop, which are omitted from its logs."""
        active = self._active_outputs
        missing = [] if active is None else [output for output in self.outputs if output.name not in active]
        return [metric for output in missing for metric in output.resolved_metrics]

    @property
    def build_config(self) -> StateDict:
        """The names and shapes of the outputs, from which losses and metrics can be built before the first batch."""
        shapes = {output.name: output.shapes for output in self.outputs if output.shapes is not None}
        return {"names": list(self._output_spec.names), "nest": self._output_spec.structure, "shapes": shapes}

    def build_from_config(self, config: StateDict, device: torch.device) -> None:
        """Build losses and metrics from another objective's `build_config`, unless they are built already."""
        if self.outputs or not config["names"]:
            return
        self._output_spec = OutputSpec(tuple(config["names"]), config["nest"])
        self._build(self._output_spec)
        for output in self.outputs:
            output.shapes = config["shapes"].get(output.name)
            if output.shapes is not None:
                target, prediction = (torch.empty(shape, device="meta") for shape in output.shapes)
                output.resolve_metrics(target, prediction, device)
        self.tracker.to(device)
        self._name_metrics()

    def start_loop(self) -> None:
        """Discard the bindings to the structures of an earlier loop, and report only what this loop computes."""
        self._bindings = {}
        self._active_outputs = None
        self.checks_first_batch = False

    @contextmanager
    def isolated(self) -> Iterator[None]:
        """Protect the bindings of an outer loop from a loop inside it."""
        outer = self._bindings, self._active_outputs, self.checks_first_batch
        self.start_loop()
        try:
            yield
        finally:
            self._bindings, self._active_outputs, self.checks_first_batch = outer

    # -- one batch -----------------------------------------------------------------------------------------

    def loss(self, targets: Nested, outputs: Nested, sample_weight: Nested) -> Tensor | None:
        """Return the weighted sum of the losses of all outputs, or `None` without losses.

        The losses of several outputs are tracked here, so that an overridden `train_step` logs them as well.
        """
        total = None
        terms = []
        kinds = type(targets), type(outputs), type(sample_weight)
        select = self._bindings.get(kinds) or self._bind(kinds, targets, outputs, sample_weight)
        if isinstance(select, OutputObjective):  # A fast path for the usual case.
            parts: Sequence[Part] = ((select, targets, outputs, sample_weight),)
        else:
            parts = select(targets, outputs, sample_weight)
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
        """Update every compiled metric; only weighted metrics get the weights."""
        kinds = type(targets), type(outputs), type(sample_weight)
        select = self._bindings.get(kinds) or self._bind(kinds, targets, outputs, sample_weight)
        if isinstance(select, OutputObjective):
            parts: Sequence[Part] = ((select, targets, outputs, sample_weight),)
        else:
            parts = select(targets, outputs, sample_weight)
        for output, target, prediction, weight in parts:
            for update in output.updates:
                update(target, prediction)
            for update in output.weighted_updates:
                update(target, prediction, weight)

    # -- binding -------------------------------------------------------------------------------------------

    def _bind(self, kinds: object, targets: Nested, outputs: Nested, sample_weight: Nested) -> Selector:
        """Return a selector of (objective, target, output, weight) for every output with a loss or metrics.

        Bindings are cached. For single tensors, the types are the key; other structures may change from batch to batch.
        Bindings for structures of earlier loops are reused, because compiled graphs depend on them.
        """
        structures = tree.treedef(targets), tree.treedef(outputs), tree.treedef(sample_weight)
        if structures in self._bindings:
            return self._bindings[structures]
        if structures not in self._binding_cache:
            bound = self._match(targets, outputs, sample_weight)
            if len(self._binding_cache) >= _MAX_CACHED_STRUCTURES:
                self._binding_cache.clear()
            names = [item.objective.name for item in bound]
            self._binding_cache[structures] = make_selector(bound, sample_weight), names
        select, names = self._binding_cache[structures]
        self._active_outputs = {*(self._active_outputs or ()), *names}
        is_nested = not all(value is None or tree.is_leaf(value) for value in (targets, outputs, sample_weight))
        self._bindings[structures if is_nested else kinds] = select
        self.output_bytes = tree.nbytes(outputs)
        if self.checks_first_batch:
            if isinstance(select, OutputObjective):
                self._check_first_batch([(select, targets, outputs, None)])
            else:
                self._check_first_batch(select(targets, outputs, sample_weight))
        return select

    def _check_first_batch(self, parts: Sequence[Part]) -> None:
        """Check once that targets and outputs fit together."""
        self.checks_first_batch = False
        for output, target, prediction, _ in parts:
            if output.loss is not None:
                check_targets(output.loss, target, prediction)

    def _match(self, targets: Nested, outputs: Nested, sample_weight: Nested) -> list[BoundOutput]:
        spec = self._update_output_spec(outputs)
        if not spec.names and self._over_outputs is None and tree.leaves((self._losses, self._metrics)):
            spec.check_outputs(spec.others)
            end = " Does its `forward` end without `return`?" if outputs is None else ""
            raise ValueError(f"The model returned {describe(outputs)}, which holds no output.{end}")
        find_output = spec.getters(outputs)
        active = [output.name for output in self.outputs if output.needs_target and output.name in find_output]
        bound = self._match_outputs(active, find_output, targets, outputs, sample_weight) if active else []
        for leaf in tree.leaves(outputs):
            if isinstance(leaf, Tensor):
                self.tracker.to(leaf.device)
                break
        for item in bound:
            self._resolve(item, targets, outputs)
        self._name_metrics()
        whole = self._over_outputs
        if whole is not None and (targets is not None or not whole.loss.needs_targets):
            bound.insert(0, _bind_whole(whole, sample_weight))
        return bound

    def _match_outputs(
        self, active: list[str], find_output: dict[str, Getter], targets: Nested, outputs: Nested, sample_weight: Nested
    ) -> list[BoundOutput]:
        """Match the outputs that have a loss or metrics with their targets and weights."""
        found = {name: find_output[name](outputs) for name in active}
        chosen = [output.name for output in self.outputs if output.is_chosen and output.name in found]
        has_common_loss = tree.is_leaf(self._losses) and self._over_outputs is None
        sharing = outputs_of_one_target(found, chosen, has_common_loss=has_common_loss)
        find_target = match_to_outputs("y", targets, self._output_spec, active, sharing)
        find_weight: dict[str, Getter] = {}
        output_matching.check_numbers("sample_weight", sample_weight)
        if tree.is_leaf(sample_weight):
            find_weight = dict.fromkeys(active, output_matching.identity)
        else:
            find_weight = match_to_outputs("sample_weight", sample_weight, self._output_spec, active)
        return [
            BoundOutput(output, find_target[name], find_output[name], find_weight.get(name, _nothing))
            for output in self.outputs
            if (name := output.name) in find_target and name in active
        ]

    def _update_output_spec(self, outputs: Nested) -> OutputSpec:
        """Name these outputs, and rebuild the objectives if there are new ones.

        A module may return fewer outputs in evaluation than in training; a single tensor is then the first output.
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
        by_output = None if self._over_outputs else self._losses
        losses = broadcast_to_outputs("loss", by_output, spec, is_single=tree.is_leaf)
        weights = broadcast_to_outputs("loss_weights", self._loss_weights, spec, is_single=tree.is_leaf)
        metrics = broadcast_to_outputs("metrics", self._metrics, spec, is_single=_is_flat)
        weighted = broadcast_to_outputs("weighted_metrics", self._weighted_metrics, spec, is_single=_is_flat)
        several = len(spec.names) > 1
        common = tree.is_leaf(self._losses), _is_flat(self._metrics), _is_flat(self._weighted_metrics)
        self.outputs = []
        for name in spec.names:
            loss, weight = losses.get(name), float(weights.get(name, 1.0))
            tracked = LossMean(weight, loss.is_sum) if several and loss is not None else None
            own = own_metrics(metrics.get(name), shared=several and common[1])
            own_weighted = own_metrics(weighted.get(name), shared=several and common[2])
            is_chosen = any(part and not shared for part, shared in zip((loss, own, own_weighted), common))
            self.outputs.append(OutputObjective(name, loss, weight, tracked, own, own_weighted, is_chosen=is_chosen))
        single = self._over_outputs or next((output for output in self.outputs if output.loss is not None), None)
        self.metrics = self._find_metrics()
        is_sum = not self.output_metrics and single is not None and single.loss.is_sum
        self.tracker.set_outputs(self.output_metrics, is_sum)

    def _resolve(self, bound: BoundOutput, targets: Nested, outputs: Nested) -> None:
        """Resolve the metrics, check the target and output, and look up the functions of one output."""
        target, prediction, output = bound.target(targets), bound.output(outputs), bound.objective
        output.check_kinds(target, prediction)
        output.resolve_metrics(target, prediction, prediction.device)
        if output.name not in self._checked_outputs:
            self._checked_outputs.add(output.name)
            output.warn_of_problems(target, prediction)
        output.shapes = _shape_of(target), _shape_of(prediction)
        output.bind_functions()

    def _name_metrics(self) -> None:
        """Prefix names with the output if there are several, and number repeated names, the same in every `fit`."""
        several, self.metrics = len(self.outputs) > 1, self._find_metrics()
        for output in self.outputs:
            prefix = f"{output.name}_" if several else ""
            for metric in output.resolved_metrics:
                metric.set_log_name(prefix + metric.given_name)
            plain = {metric.name for metric in output.metrics}
            for metric in resolved(output.weighted_metrics):
                if metric.name in plain:
                    metric.set_log_name(f"{prefix}weighted_{metric.given_name}")
        for metric, name in zip(self.metrics, unique_names(metric.name for metric in self.metrics)):
            metric.set_log_name(name)


def _loss_weight(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(f"`loss_weights` must be numbers, one for each output, but it has {describe(value)}.")
    return float(value)


def _over_outputs(losses: tree.Tree, loss_weight: object) -> OutputObjective | None:
    """Return the objective of a loss over all outputs at once, or `None` if there is no such loss.

    Raises:
        ValueError: If there are other losses or several loss weights as well.
    """
    found = [loss for loss in tree.leaves(losses) if isinstance(loss, OverOutputs)]
    if not found:
        return None
    if losses is not found[0]:
        raise ValueError(
            "`loss` has an OverOutputs, which is a loss over all outputs at once, among losses for single outputs. "
            "Pass it alone, and compute the others in its function or with `add_loss`."
        )
    if loss_weight is not None and not isinstance(loss_weight, Real):
        raise ValueError(
            f"`loss_weights` must be a number for losses.OverOutputs, which is one loss, but it is "
            f"{describe(loss_weight)}."
        )
    return OutputObjective("outputs", found[0], 1.0 if loss_weight is None else float(loss_weight))


def _bind_whole(objective: OutputObjective, sample_weight: Nested) -> BoundOutput:
    """Bind a loss over all outputs to the complete targets, outputs and weights."""
    if sample_weight is not None and not tree.is_leaf(sample_weight):
        raise ValueError(
            f"`sample_weight` is {describe(sample_weight)}, but there is one loss for all outputs, "
            f"{objective.loss.name}. Pass one array of weights."
        )
    output_matching.check_numbers("sample_weight", sample_weight)
    objective.bind_functions()
    whole = output_matching.identity
    return BoundOutput(objective, whole, whole, whole)


def _is_flat(value: Nested) -> bool:
    """Return whether this is a single list of metrics for all outputs, not a list with a list for each."""
    is_list = value is not None and not isinstance(value, Mapping)
    return tree.is_leaf(value) or (is_list and all(map(tree.is_leaf, value)))


def _shape_of(value: object) -> Shape:
    return tuple(getattr(value, "shape", ()))


def _nothing(_: object) -> None:
    return None
