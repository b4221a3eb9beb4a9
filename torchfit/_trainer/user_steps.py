"""Support for custom steps and metrics with several processes: they read and update the values of all processes."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias, TypeGuard, TypeVar

import torch
from torch import Tensor

from torchfit._data.sharding import BatchPart
from torchfit._distribution.batch_rows import OwnRows
from torchfit._trainer.base_model import BaseModel
from torchfit._trainer.exchange import Exchange, MetricChanges, exchange_dtypes
from torchfit._trainer.logs import LazyLogs, flatten
from torchfit._trainer.loss_tracking import LossMean, LossTerm, LossTerms
from torchfit._trainer.objective import Objective, UncompiledObjective
from torchfit._trainer.output_matching import is_builtin
from torchfit._trainer.steps import count_rows
from torchfit._types import Nested, Results, TensorLike
from torchfit._utils import tree
from torchfit._utils.compat import version_of
from torchfit.losses.base import Denominator
from torchfit.metrics import Mean, Metric
from torchfit.metrics.base import SUM_DTYPE
from torchfit.optimizers._foreach import Scalar
from torchfit.optimizers.base import Closure, Optimizer
from torchfit.optimizers.identifiers import AnyOptimizer

Result = TypeVar("Result")
AttributeOptimizer: TypeAlias = "AnyOptimizer | torch.optim.Optimizer"
"""An optimizer in an attribute of a model, of torchfit or of torch."""


class StepValues:
    """The numbers that a custom step returned, averaged over the rows of all processes."""

    def __init__(self) -> None:
        self._values: dict[str, Tensor] = {}

    def keep(self, results: Results) -> Results:
        """Record the numbers in the results of a step, and return the results."""
        self._values = {}
        if not isinstance(results, LazyLogs):
            found = {name: _tensor_of(value) for name, value in flatten(results or {}).items()}
            self._values = {name: value for name, value in found.items() if value is not None}
        return results

    def tensors(self, share: float) -> list[Tensor]:
        """Return the tensors to sum; `share` is the fraction of the rows that this process has."""
        values = self._values.values()
        return [value * share if share else torch.zeros_like(value) for value in values]

    def finish(self, sums: Sequence[Tensor]) -> None:
        """Store the sums of `tensors`."""
        self._values = {name: value.clone() for name, value in zip(self._values, sums)}

    def logs(self, results: Results) -> LazyLogs:
        """Return the logs of the step, with the numbers of all processes."""
        values, self._values = self._values, {}
        return LazyLogs.wrap(results if isinstance(results, LazyLogs) else {**flatten(results or {}), **values})


def _tensor_of(value: object) -> Tensor | None:
    if isinstance(value, Tensor):
        return value.detach().to(SUM_DTYPE if value.device.type in ("cpu", "cuda") else torch.float32)
    return torch.tensor(float(value), dtype=SUM_DTYPE) if isinstance(value, (bool, int, float)) else None


class SharedMetrics:
    """Updates metrics with the values of all processes when a custom step reads them.

    Args:
        exchange: Sums tensors over the processes.
        changes: The changes of the metrics in the step.
        model: The model.
        part: The rows of this process.
    """

    def __init__(self, exchange: Exchange, changes: MetricChanges, model: BaseModel, part: BatchPart) -> None:
        self._exchange, self._changes, self._model, self._part = exchange, changes, model, part
        self._attached: dict[int, Metric] = {}
        self._versions: list[int] = []

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Exchange the changes whenever a metric is read inside the context."""
        self.attach()
        self._versions = self._find_versions()
        try:
            yield
        finally:
            for metric in self._attached.values():
                vars(metric).pop("result", None)

    def attach(self) -> None:
        """Intercept reads of the current metrics."""
        for metric in self._model.metrics:
            if id(metric) not in self._attached and "result" not in vars(metric):
                self._attached[id(metric)] = metric
                vars(metric)["result"] = self._reader(metric.result)

    def _reader(self, result: Callable[[], Result]) -> Callable[[], Result]:
        def read() -> Result:
            self._exchange_changes()
            return result()

        return read

    def _exchange_changes(self) -> None:
        if self._find_versions() == self._versions:
            return
        metrics, processes = self._model.metrics, self._exchange.processes
        tensors = self._changes.tensors(metrics, self._part.rows > 0, processes)
        if tensors:
            self._changes.finish(self._exchange.sum(tensors, SUM_DTYPE, tensors[0].device))
        self._changes.restart(metrics)
        self._versions = self._find_versions()

    def _find_versions(self) -> list[int]:
        return [version_of(variable) for metric in self._model.metrics for variable in getattr(metric, "variables", ())]


@contextmanager
def weighted_scalars(own: OwnRows) -> Iterator[None]:
    """Weight a number for a whole batch, such as its loss, in a mean by the fraction of the rows of this process.

    With one process its weight is 1, which is also the sum of the fractions of all processes. Nothing changes outside
    steps, or inside another such context.
    """
    kinds = () if own.are_scalars_weighted else (Mean, LossMean)
    updates = [kind.update_state for kind in kinds]
    for kind, update in zip(kinds, updates):
        setattr(kind, "update_state", _with_share(update, own))  # noqa: B010
    was_weighted, own.are_scalars_weighted = own.are_scalars_weighted, True
    try:
        yield
    finally:
        own.are_scalars_weighted = was_weighted
        for kind, update in zip(kinds, updates):
            setattr(kind, "update_state", update)  # noqa: B010


def _with_share(update: Callable[..., None], own: OwnRows) -> Callable[..., None]:
    def weighted(mean: Metric, values: TensorLike, sample_weight: TensorLike = None) -> None:
        if own.counts and sample_weight is None and not getattr(values, "ndim", isinstance(values, (list, tuple))):
            update(mean, torch.as_tensor(values), own.rows / own.total)
        else:
            update(mean, values, sample_weight)

    return weighted


@contextmanager
def whole_losses(
    objective: Objective | UncompiledObjective, exchange: Exchange, part: BatchPart, attach: Callable[[], None]
) -> Iterator[None]:
    """Let `compute_loss` return losses whose mean over the rows of all processes is the loss of the whole batch.

    That holds already for a mean over rows. A denominator that depends on data, such as a mask, is exchanged.
    """
    compute = objective.loss

    def loss(targets: Nested, outputs: Nested, sample_weight: Nested) -> Tensor | None:
        total: Tensor | None = compute(targets, outputs, sample_weight)
        attach()  # The first batch creates metrics.
        terms = objective.losses.terms
        if total is None or not any(term.is_sum or isinstance(term.denominator, Tensor) for term in terms):
            return total
        factors = _factors(terms, exchange, part, total.device)
        values = [term.value * factor for term, factor in zip(terms, factors)]
        total = torch.stack([value.reshape(()) for value in values]).sum() if len(values) > 1 else values[0]
        objective.losses = LossTerms(terms, total)
        return total

    vars(objective)["loss"] = loss
    try:
        yield
    finally:
        del vars(objective)["loss"]


def _factors(terms: Sequence[LossTerm], exchange: Exchange, part: BatchPart, device: torch.device) -> list[Denominator]:
    """Return the factors for the losses of the outputs."""
    inverse = part.total / part.rows if part.rows else 0.0
    own = [term.denominator.detach() for term in terms if isinstance(term.denominator, Tensor) and not term.is_sum]
    counted = [value if part.rows else torch.zeros_like(value) for value in own]
    sums = iter(exchange.sum(counted, SUM_DTYPE, device) if counted else ())
    factors: list[Denominator] = []
    for term in terms:
        if term.is_sum:
            factors.append(inverse)
        elif isinstance(term.denominator, Tensor):
            whole = next(sums).clone()
            share = torch.where(whole == 0, 0.0, term.denominator.detach() * inverse / whole)
            factors.append(share.to(term.value.dtype))
        else:
            factors.append(1.0 if part.rows else 0.0)
    return factors


# -- gradients ---------------------------------------------------------------------------------------------


@contextmanager
def shared_gradients(model: BaseModel, exchange: Exchange, share: float) -> Iterator[None]:
    """Make the optimizers of a model update with the mean gradients over the rows of all processes."""
    gradients = SharedGradients(exchange, share)
    with ExitStack() as stack:
        for optimizer in _optimizers_of(model):
            stack.enter_context(_shared(optimizer, gradients))
        yield


def _optimizers_of(model: BaseModel) -> list[AttributeOptimizer]:
    """Return the optimizers in attributes of a model, including lists and dictionaries, each once."""
    found: dict[int, AttributeOptimizer] = {}
    for value in vars(model).values():
        parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else [value]
        found.update({id(part): part for part in parts if _is_optimizer(part)})
    return list(found.values())


def _is_optimizer(value: object) -> TypeGuard[AttributeOptimizer]:
    return isinstance(value, torch.optim.Optimizer) or (hasattr(value, "apply") and hasattr(value, "scale_loss"))


@contextmanager
def _shared(optimizer: AttributeOptimizer, gradients: "SharedGradients") -> Iterator[None]:
    if isinstance(optimizer, torch.optim.Optimizer):
        handle = optimizer.register_step_pre_hook(lambda *_: gradients.set_in_place(_parameters_of(optimizer)))
        try:
            yield
        finally:
            handle.remove()
        return
    name, function = gradients.replacement(optimizer)
    vars(optimizer)[name] = function
    try:
        yield
    finally:
        del vars(optimizer)[name]


def _parameters_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


class SharedGradients:
    """Computes the mean of the gradients of all processes, each weighted by its fraction of the rows.

    Args:
        exchange: Sums tensors over the processes.
        share: The fraction of the rows that this process has.
    """

    def __init__(self, exchange: Exchange, share: float) -> None:
        self._exchange, self._share = exchange, share

    def replacement(self, optimizer: Any) -> tuple[str, Callable[..., object]]:
        """Return the name of the method of a torchfit optimizer that first gets gradients, and its replacement."""
        if not hasattr(optimizer, "update"):
            return "step", self._before_step(optimizer, optimizer.step)
        if optimizer.gradient_accumulation_steps is None:
            return "update", self._before_update(optimizer, optimizer.update)
        return "accumulate", self._before_accumulation(optimizer, optimizer.accumulate)

    def _before_update(self, optimizer: Optimizer, update: Callable[..., None]) -> Callable[..., None]:
        def shared(gradients: Sequence[Tensor | None], *numbers: Scalar) -> None:
            update(self.mean(gradients, optimizer.parameters)[0], *numbers)

        return shared

    def _before_accumulation(self, optimizer: Optimizer, accumulate: Callable[..., Result]) -> Callable[..., Result]:
        def shared(gradients: Sequence[Tensor | None], denominator: Denominator | None = 1.0, group: int = 0) -> Result:
            means, whole = self.mean(gradients, optimizer.parameters, 0.0 if denominator is None else denominator)
            return accumulate(means, None if denominator is None else whole, group)

        return shared

    def _before_step(self, optimizer: AnyOptimizer, step: Callable[..., Result]) -> Callable[..., Result]:
        def shared(num_samples: "Scalar | Closure | None" = 1.0, closure: "Closure | None" = None) -> Result:
            evaluate = num_samples if callable(num_samples) else closure
            if evaluate is None:
                self.set_in_place(optimizer.parameters)
                return step(num_samples)
            return step(closure=lambda: self._evaluate(evaluate, optimizer))

        return shared

    def _evaluate(self, closure: Closure, optimizer: AnyOptimizer) -> Tensor:
        loss = closure()
        self.set_in_place(optimizer.parameters)
        own = loss.detach() * self._share if self._share else torch.zeros_like(loss.detach())
        return self._exchange.sum([own], SUM_DTYPE, own.device)[0].clone()

    def set_in_place(self, parameters: Sequence[Tensor]) -> None:
        """Replace the gradients in `grad`."""
        means, _ = self.mean([parameter.grad for parameter in parameters], parameters)
        for parameter, gradient in zip(parameters, means):
            parameter.grad = gradient

    def mean(
        self, gradients: Sequence[Tensor | None], parameters: Sequence[Tensor], denominator: Denominator = 0.0
    ) -> tuple[list[Tensor | None], Tensor]:
        """Return the means, `None` for parameters without a gradient in any process, and the total denominator."""
        own = [None if gradient is None or not self._share else gradient for gradient in gradients]
        dtype = torch.float32
        for parameter in parameters:
            dtype = torch.promote_types(dtype, parameter.dtype)
        tensors = [
            torch.zeros_like(parameter) if gradient is None else _dense(gradient) * self._share
            for gradient, parameter in zip(own, parameters)
        ]
        present = torch.tensor([float(gradient is not None) for gradient in own])
        counted = torch.as_tensor(denominator) * float(self._share > 0)
        device = parameters[0].device if parameters else torch.device("cpu")
        reduce_dtype = self._exchange.processes.reduce_dtype
        dtypes = exchange_dtypes(1, len(tensors), len(tensors) + 2, dtype, reduce_dtype)
        *sums, presence, whole = self._exchange.sum([*tensors, present, counted], dtypes, device)
        is_there = [True] * len(own) if all(present.tolist()) else [count > 0 for count in presence.tolist()]
        means = [
            total.to(parameter.dtype, copy=True) if there else None
            for total, parameter, there in zip(sums, parameters, is_there)
        ]
        return means, whole.clone()


def _dense(gradient: Tensor) -> Tensor:
    return gradient.to_dense() if gradient.is_sparse else gradient


# -- metrics -----------------------------------------------------------------------------------------------


@contextmanager
def additive_metrics(objective: Objective | UncompiledObjective) -> Iterator[None]:
    """Check with the first batch that the states of custom metrics are sums over rows, as they declare.

    Raises:
        ValueError: If the state of a batch is not the sum of those of its parts.
    """
    update = objective.update_metrics

    def checked(targets: Nested, outputs: Nested, sample_weight: Nested) -> None:
        parts = targets, outputs, sample_weight
        rows = count_rows(targets, outputs)
        update(*parts)  # creates the metrics if this is the first time
        if rows > 1:
            vars(objective).pop("update_metrics", None)
            _require_additive(objective.metrics, update, parts, rows)

    vars(objective)["update_metrics"] = checked
    try:
        yield
    finally:
        vars(objective).pop("update_metrics", None)


def _require_additive(
    metrics: Sequence[Metric], update: Callable[..., None], parts: tuple[Nested, ...], rows: int
) -> None:
    own = [metric for metric in metrics if hasattr(metric, "variables") and not is_builtin(metric)]
    sums = [(metric, variable) for metric in own for variable in metric.variables if variable.aggregation == "sum"]
    if not sums:
        return
    before = [(metric, metric.snapshot_state()) for metric in metrics]
    found = []
    for selected in (slice(0, rows), slice(0, rows // 2), slice(rows // 2, rows)):
        for metric in metrics:
            metric.reset_state()
        initial = [variable.clone() for _, variable in sums]
        update(*(tree.map(_slicer(selected, rows), part) for part in parts))
        found.append([variable - start for (_, variable), start in zip(sums, initial)])
    for metric, state in before:
        metric.restore_state(state)
    for (metric, variable), whole, first, second in zip(sums, *found):
        if torch.allclose(whole, first + second, rtol=1e-3, atol=1e-4, equal_nan=True):
            continue
        if isinstance(metric, Mean):
            warnings.warn(
                f"The metric {metric.name!r} is one number for a batch, not a sum over rows, so with several processes "
                "it is the mean over their parts of the batches. Let it return one value per row.",
                stacklevel=2,
            )
        else:
            raise ValueError(
                f"The state {variable.name!r} of the metric {metric.name!r} is not a sum over rows: that of a batch is "
                "not the sum of those of its parts. Several processes would add up what does not add up. Say how they "
                'combine it, such as add_variable(…, aggregation="max"), or keep sums, such as a total and a count.'
            )


def _slicer(selected: slice, rows: int) -> Callable[[object], object]:
    return lambda leaf: leaf[selected] if isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == rows else leaf
