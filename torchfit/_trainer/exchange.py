"""The exchange between the processes of a training run: one tensor per step that contains everything."""

from collections.abc import Iterable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from torchfit._distribution.process_group import ProcessGroup, do_nothing
from torchfit._trainer.microbatches import Gradients, LossPart, compute_gradients
from torchfit._trainer.output_matching import is_builtin
from torchfit._utils.tensors import real
from torchfit.losses.base import Denominator
from torchfit.metrics.base import SUM_DTYPE, Metric, Variable
from torchfit.optimizers._foreach import copy_, divide
from torchfit.optimizers.identifiers import AnyOptimizer

_EXTREMES = {"max": 1.0, "min": -1.0}

Groups = tuple[tuple[int, bool], ...]
"""The groups of a loss, by number, and whether the gradients of each are divided by a denominator."""

Dtypes = torch.dtype | Sequence[torch.dtype]

MeanGradients = tuple[dict[int, tuple[Gradients, Tensor | None]], Tensor]
"""The mean gradients and the denominator of each group, and the loss."""


class Exchange:
    """Sums tensors over all processes, in buffers that are reused.

    Args:
        processes: The processes.
    """

    def __init__(self, processes: ProcessGroup) -> None:
        self.processes = processes
        self._shapes: list[torch.Size] = []
        self._dtypes: list[torch.dtype] = []
        self._device = torch.device("cpu")
        self._buffers: list[Tensor] = []
        self._views: list[Tensor] = []

    def sum(self, tensors: Sequence[Tensor], dtypes: Dtypes, device: torch.device) -> list[Tensor]:
        """Return the sums of tensors over all processes, with the same shapes, as views of the buffers.

        Args:
            tensors: The tensors.
            dtypes: The dtype in which each is exchanged, or one for all.
            device: The device of the sums.
        """
        self.sum_flat(tensors, dtypes, device)
        return self._views

    def sum_flat(self, tensors: Sequence[Tensor], dtypes: Dtypes, device: torch.device) -> list[Tensor]:
        """Return the sums one after the other: the buffers themselves, one for each dtype, in the order of `dtypes`."""
        shapes = [tensor.shape for tensor in tensors]
        each = [dtypes] * len(shapes) if isinstance(dtypes, torch.dtype) else list(dtypes)
        if shapes != self._shapes or each != self._dtypes or self._device != device:
            self._allocate(shapes, each, device)
        copy_(self._views, list(tensors))
        return [self.processes.sum(buffer) for buffer in self._buffers]

    def _allocate(self, shapes: list[torch.Size], dtypes: list[torch.dtype], device: torch.device) -> None:
        self._shapes, self._dtypes, self._device, self._buffers = shapes, dtypes, device, []
        views: dict[int, Tensor] = {}
        with torch.inference_mode(False):  # Later calls may be outside of it.
            for dtype in dict.fromkeys(dtypes):
                own = [index for index, other in enumerate(dtypes) if other is dtype]
                sizes = [shapes[index].numel() for index in own]
                buffer = torch.empty(sum(sizes), dtype=dtype, device=device)
                self._buffers.append(buffer)
                parts = torch.split(buffer, sizes)
                views |= {index: part.view(shapes[index]) for index, part in zip(own, parts)}
        self._views = [views[index] for index in range(len(shapes))]


def exchange_dtypes(
    groups: int, parameters: int, count: int, dtype: torch.dtype, reduce_dtype: torch.dtype | None
) -> list[torch.dtype]:
    """Return the dtypes in which the tensors of a step are exchanged: those of `LossTotals`, then others.

    Only gradients are exchanged in `reduce_dtype`, unless they are complex; denominators, losses and metrics are not.

    Args:
        groups: The number of groups of the loss.
        parameters: The number of parameters, each of which has a gradient in every group.
        count: The number of tensors.
        dtype: The dtype of what is not a gradient.
        reduce_dtype: The dtype of gradients; `None` for the same.
    """
    narrow = dtype if reduce_dtype is None or dtype.is_complex else reduce_dtype
    found = ([narrow] * parameters + [dtype] * 2) * groups
    return found + [dtype] * (count - len(found))


class LossTotals:
    """The gradients of the totals of a loss, and their denominators, for the rows of one process.

    A loss is a total divided by a denominator. The processes sum both, and then divide. Losses with different
    denominators are separate groups, as in `LossSplitter`. All numbers are divided by the number of rows of the whole
    batch, so that they have the magnitude of means.

    Args:
        optimizer: The optimizer, which holds the parameters and scales the loss.
        rows: The number of rows of this process; with 0, nothing counts.
        total: The number of rows of the whole batch.
    """

    def __init__(self, optimizer: AnyOptimizer, rows: int, total: int) -> None:
        self._optimizer, self._rows, self._total = optimizer, rows, total
        self.groups: dict[int, Gradients] = {}
        self._denominators: dict[int, Denominator | None] = {}
        self._losses: dict[int, Tensor] = {}

    def add(self, parts: list[LossPart]) -> None:
        """Add the loss of all rows of this process, or of a part of them."""
        for number, part in enumerate(parts):
            share = None if part.denominator is None else _share(part.denominator, self._total)
            value = part.value if share is None else _times(part.value, share)
            gradients = compute_gradients(self._optimizer, value, keep_graph=number + 1 < len(parts))
            if isinstance(share, Tensor):
                gradients = [_where_counted(gradient, share) for gradient in gradients]
            self._add(part.group, gradients, share, value.detach())

    def _add(self, group: int, gradients: Gradients, share: Denominator | None, loss: Tensor) -> None:
        if not self._rows:
            gradients, loss = [None] * len(gradients), torch.zeros_like(loss)
            share = None if share is None else 0.0
        known = group in self.groups
        self.groups[group] = list(map(_plus, self.groups[group], gradients)) if known else gradients
        self._losses[group] = self._losses[group] + loss if known else loss
        other = self._denominators.get(group)
        self._denominators[group] = share if share is None or other is None else share + other

    def tensors(self) -> list[Tensor]:
        """Return the tensors to sum: gradients, denominator and loss of each group, then which gradients exist."""
        parameters, found = self._optimizer.parameters, []
        for group in sorted(self.groups):
            gradients = self.groups[group]
            found += [_dense(gradient, parameter) for gradient, parameter in zip(gradients, parameters)]
            found += [_tensor_of(self._denominators[group]), self._losses[group]]
        return [*found, torch.tensor(list(map(float, self._are_present())))] if self.groups else []

    def _are_present(self) -> list[bool]:
        return [any(gradient is not None for gradient in column) for column in zip(*self.groups.values())]

    @property
    def presence(self) -> tuple[bool, ...] | None:
        """Which parameters have a gradient, if all have one here; `None` where the others must be asked."""
        present = tuple(self._are_present())
        return present if all(present) else None

    def dtypes(self, count: int, reduce_dtype: torch.dtype | None) -> list[torch.dtype]:
        """Return the dtypes in which `count` tensors are exchanged, the first of which are those of `tensors`."""
        parameters = len(self._optimizer.parameters)
        return exchange_dtypes(len(self.groups), parameters, count, self.dtype, reduce_dtype)

    def finish(self, sums: Sequence[Tensor]) -> MeanGradients:
        """Return the mean gradients and the denominator of each group, and the loss, from the sums of `tensors`."""
        present = self._are_present()
        if not all(present):  # Synchronizes with the device, but only if a gradient is missing in this process.
            present = [count > 0 for count in real(sums[-1]).tolist()]
        return mean_gradients(sums, self._optimizer.parameters, self.layout, present, self._total)

    @property
    def layout(self) -> Groups:
        """The groups, in the order of `tensors`, and whether each is divided."""
        return tuple((group, self._denominators[group] is not None) for group in sorted(self.groups))

    @cached_property
    def dtype(self) -> torch.dtype:
        """The dtype of the exchange: that of the widest gradient, and at least float32; float64 without gradients."""
        if not self.groups:
            return SUM_DTYPE
        dtype = torch.float32
        for gradients in self.groups.values():
            for gradient in gradients:
                dtype = dtype if gradient is None else torch.promote_types(dtype, gradient.dtype)
        for parameter in self._optimizer.parameters:
            dtype = torch.promote_types(dtype, parameter.dtype)
        return dtype


def _tensor_of(denominator: Denominator | None) -> Tensor:
    if isinstance(denominator, Tensor):
        return denominator
    return torch.tensor(denominator or 0.0, dtype=SUM_DTYPE)  # Which float32 would round, also where all is float64.


def flatten(tensors: Sequence[Tensor], dtypes: Sequence[torch.dtype], device: torch.device) -> list[Tensor]:
    """Return tensors in the form in which they are exchanged: one after the other, a tensor for each dtype."""
    found: dict[torch.dtype, list[Tensor]] = {dtype: [] for dtype in dtypes}
    for tensor, dtype in zip(tensors, dtypes):
        found[dtype].append(tensor.detach().to(device, dtype).reshape(-1))
    return [torch.cat(parts) for parts in found.values()]


def mean_gradients(
    sums: Sequence[Tensor],
    parameters: Sequence[Tensor],
    groups: Groups,
    is_present: Sequence[bool],
    total: float | Tensor,
) -> MeanGradients:
    """Divide sums over all processes by their denominators.

    Args:
        sums: Those of `LossTotals.tensors`, perhaps followed by others.
        parameters: The parameters that the gradients belong to.
        groups: The groups, and whether each is divided.
        is_present: Which parameters have a gradient in some process.
        total: How many rows the whole batch has.

    Returns:
        The mean gradients and the denominator of each group, and the loss.
    """
    size, found, loss = len(parameters) + 2, {}, torch.zeros((), device=sums[-1].device)
    for number, (group, has_mean) in enumerate(groups):
        *totals, denominator, value = sums[number * size : (number + 1) * size]
        totals = [each.to(denominator.dtype) for each in totals]  # Which were perhaps exchanged in another one.
        if has_mean:
            divisor = torch.where(denominator == 0, 1.0, denominator)
            totals, value = divide(totals, divisor), value / divisor
        gradients = [  # Copies, if they were not divided: the next exchange overwrites the sums.
            each.to(parameter.dtype, copy=not has_mean) if is_there else None
            for each, parameter, is_there in zip(totals, parameters, is_present)
        ]
        found[group] = gradients, denominator * total if has_mean else None
        loss = loss + value
    return found, loss


def _share(denominator: Denominator, total: int) -> Denominator:
    return (denominator.detach() if isinstance(denominator, Tensor) else denominator) / total


def _times(value: Tensor, share: Denominator) -> Tensor:
    return torch.where(share == 0, 0.0, value * share).to(value.dtype) if isinstance(share, Tensor) else value * share


def _where_counted(gradient: Tensor | None, share: Tensor) -> Tensor | None:
    if gradient is None:
        return None
    dense = gradient.to_dense() if gradient.is_sparse else gradient
    return torch.where(share == 0, 0.0, dense)


def _plus(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def _dense(gradient: Tensor | None, parameter: Tensor) -> Tensor:
    if gradient is None:
        return torch.zeros_like(parameter)
    return gradient.to_dense() if gradient.is_sparse else gradient


class MetricChanges:
    """The changes of metric states in one or several steps of this process, and their sums over all processes.

    States that are sums start from zero, so that afterwards they contain exactly the change.

    Args:
        metrics: The metrics before the first of the steps.
        from_zero: Whether sums start from zero; else the change is a difference, and metrics can be read in between.
    """

    def __init__(self, metrics: Iterable[Metric], from_zero: bool) -> None:
        self._before: dict[int, tuple[Variable, Tensor]] = {}
        self._opaque: list[tuple[Metric, object]] = []
        self._changed: list[Variable] = []
        self._zeroed: set[int] = set()
        for metric in metrics:
            if _is_opaque(metric):
                self._opaque.append((metric, metric.snapshot_state()))
            is_zeroed = from_zero and starts_from_zero(metric)
            for variable in variables_of([metric]):
                self._before.setdefault(id(variable), (variable, variable.clone()))
                if is_zeroed and variable.aggregation == "sum":
                    self._zeroed.add(id(variable))
                    variable.zero_()

    def tensors(self, metrics: Iterable[Metric], counts: bool, processes: ProcessGroup) -> list[Tensor]:
        """Return the tensors to sum. With `counts=False`, the changes of this process do not count."""
        metrics = list(metrics)
        if not counts:
            self._undo_opaque(metrics)
        for metric in metrics:
            getattr(metric, "align", do_nothing)(processes.share)
        variables = list(variables_of(metrics))
        for variable in variables:
            if variable.aggregation in _EXTREMES:
                self._exchange_extreme(variable, counts, processes)
        self._changed = [each for each in variables if each.aggregation in ("sum", "mean", "only_first_replica")]
        return [self._change(variable, counts, processes) for variable in self._changed]

    def _change(self, variable: Variable, counts: bool, processes: ProcessGroup) -> Tensor:
        if variable.aggregation == "mean":
            return variable / processes.size
        if variable.aggregation == "only_first_replica":
            return variable * float(processes.rank == 0)
        if not counts:
            return torch.zeros_like(variable).as_subclass(Tensor)
        return variable if id(variable) in self._zeroed else variable - self._base(variable)

    def _base(self, variable: Variable) -> Tensor:
        """Return the value before the steps; for a state that they created, the initial value."""
        if id(variable) in self._before:
            return self._before[id(variable)][1]
        return variable.initial_value()

    def _exchange_extreme(self, variable: Variable, counts: bool, processes: ProcessGroup) -> None:
        value = variable if counts else self._base(variable)
        sign = _EXTREMES[variable.aggregation]
        variable.copy_(processes.largest(value * sign) * sign)

    @property
    def changed(self) -> list[Variable]:
        """The states that `tensors` returned the changes of."""
        return self._changed

    def finish(self, sums: Sequence[Tensor]) -> None:
        """Set the states from the sums of `tensors`, and count changes from there."""
        for variable, change in zip(self._changed, map(real, sums)):
            if variable.aggregation == "sum":
                variable.copy_(self._base(variable) + change.to(variable.device))
            else:
                variable.copy_(change)

    def undo(self, metrics: Iterable[Metric]) -> None:
        """Restore the states from before the steps."""
        metrics = list(metrics)
        self._undo_opaque(metrics)
        for variable in variables_of(metrics):
            variable.copy_(self._base(variable))

    def _undo_opaque(self, metrics: Iterable[Metric]) -> None:
        """Restore states that are not variables, such as those of torchmetrics."""
        known = {id(metric): state for metric, state in self._opaque}
        for metric in filter(_is_opaque, metrics):
            metric.restore_state(known[id(metric)]) if id(metric) in known else metric.reset_state()

    def restart(self, metrics: Iterable[Metric]) -> None:
        """Count changes from the current states on."""
        self._before = {id(variable): (variable, variable.clone()) for variable in variables_of(metrics)}


def starts_from_zero(metric: Metric) -> bool:
    """Return whether what a metric adds to its sums does not depend on them."""
    return is_builtin(metric) and not metric.updates_depend_on_state


def adds_up(metric: object) -> bool:
    """Return whether the changes of all processes add up, and nothing else is to be exchanged."""
    variables = variables_of([metric])
    is_sum = all(variable.aggregation == "sum" for variable in variables)
    return is_sum and not _is_opaque(metric) and not getattr(metric, "updates_depend_on_state", True)


class TracedChanges:
    """How the states of metrics change in a step that is traced.

    Args:
        states: The states, all of which are sums.
        are_zeroed: Which of them start from zero.
    """

    def __init__(self, states: Sequence[Tensor], are_zeroed: Sequence[bool]) -> None:
        self._states, self._are_zeroed = states, are_zeroed
        self._before = [state.clone() for state in states]
        for state, is_zeroed in zip(states, are_zeroed):
            if is_zeroed:
                state.zero_()

    def take(self) -> list[Tensor]:
        """Return the changes, and undo them."""
        columns = list(zip(self._states, self._before, self._are_zeroed))
        changes = [state.clone() if is_zeroed else state - before for state, before, is_zeroed in columns]
        for state, before, _ in columns:
            state.copy_(before)
        return changes


def _is_opaque(metric: object) -> bool:
    return hasattr(metric, "metric") and hasattr(metric, "snapshot_state")


def variables_of(metrics: Iterable[object]) -> Iterable[Variable]:
    """Return the states of metrics, each once, but for those that keep them otherwise."""
    found = (variable for metric in metrics for variable in getattr(metric, "variables", ()))
    return {id(variable): variable for variable in found}.values()
