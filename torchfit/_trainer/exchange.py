"""What the processes of a training exchange: once a step, everything in one tensor."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from torchfit._distribution.process_group import ProcessGroup
from torchfit._trainer.microbatches import Gradients, LossPart, compute_gradients
from torchfit._trainer.output_matching import is_builtin
from torchfit.losses.base import Denominator
from torchfit.metrics.base import SUM_DTYPE, Metric, Variable
from torchfit.optimizers.identifiers import AnyOptimizer

_EXTREMES = {"max": 1.0, "min": -1.0}


class Exchange:
    """Adds up tensors of all processes, in one tensor whose memory is used again.

    Args:
        processes: The processes.
    """

    def __init__(self, processes: ProcessGroup) -> None:
        self.processes = processes
        self._buffer: Tensor | None = None

    def sum(self, tensors: Sequence[Tensor], dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        """Return the sums of tensors over all processes, in their shapes, of `dtype`; they are views of the buffer."""
        flat = [tensor.detach().to(device, dtype).reshape(-1) for tensor in tensors]
        sizes = [part.numel() for part in flat]
        buffer = self._buffer
        if buffer is None or buffer.numel() != sum(sizes) or buffer.dtype is not dtype:
            buffer = self._buffer = torch.empty(sum(sizes), dtype=dtype, device=device)
        torch.cat(flat, out=buffer)
        self.processes.sum(buffer)
        return [part.view(tensor.shape) for part, tensor in zip(torch.split(buffer, sizes), tensors)]


class LossTotals:
    """The gradients of the totals of a loss, and what these are divided by, of the rows of one process.

    A loss is a total over a denominator. The processes add up both, and then divide. Losses with denominators of their
    own are separate groups, as in `LossSplitter`. All numbers are divided by the number of rows of the whole batch, so
    that they are of the size of means.

    Args:
        optimizer: The optimizer, which holds the parameters and scales the loss.
        rows: How many rows this process has; without any, nothing counts.
        total: How many rows the whole batch has.
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
        """Return what is to be summed: of each group gradients, denominator and loss; last, which gradients exist."""
        parameters, found = self._optimizer.parameters, []
        for group in sorted(self.groups):
            gradients = self.groups[group]
            found += [_dense(gradient, parameter) for gradient, parameter in zip(gradients, parameters)]
            found += [torch.as_tensor(self._denominators[group] or 0.0), self._losses[group]]
        return [*found, torch.tensor(list(map(float, self._are_present())))] if self.groups else []

    def _are_present(self) -> list[bool]:
        return [any(gradient is not None for gradient in column) for column in zip(*self.groups.values())]

    def finish(self, sums: list[Tensor]) -> tuple[dict[int, tuple[Gradients, Tensor | None]], Tensor]:
        """Return the mean gradients and the denominator of each group, and the loss, from the sums of `tensors`."""
        parameters, presence = self._optimizer.parameters, sums[-1]
        present = self._are_present()
        if not all(present):  # Waits for the device, but only where a gradient is missing in this process.
            present = [count > 0 for count in presence.tolist()]
        size, found, loss = len(parameters) + 2, {}, torch.zeros((), device=presence.device)
        for number, group in enumerate(sorted(self.groups)):
            *totals, denominator, value = sums[number * size : (number + 1) * size]
            has_mean = self._denominators[group] is not None
            if has_mean:
                divisor = torch.where(denominator == 0, 1.0, denominator)
                totals = [total.div_(divisor) for total in totals]
                value = value / divisor
            gradients = [
                total.to(parameter.dtype) if is_there else None
                for total, parameter, is_there in zip(totals, parameters, present)
            ]
            found[group] = gradients, denominator * self._total if has_mean else None
            loss = loss + value
        return found, loss

    @property
    def dtype(self) -> torch.dtype:
        """The dtype to exchange in: that of the widest gradient, at least float32; float64 without gradients."""
        if not self.groups:
            return SUM_DTYPE
        dtype = torch.float32
        for gradients in self.groups.values():
            for gradient in gradients:
                dtype = dtype if gradient is None else torch.promote_types(dtype, gradient.dtype)
        for parameter in self._optimizer.parameters:
            dtype = torch.promote_types(dtype, parameter.dtype)
        return dtype


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
    """How the states of metrics change in one or several steps of this process, and what all processes make of it.

    States that are sums start from zero, so that what is in them afterwards is the change, to the last bit.

    Args:
        metrics: The metrics before the first of the steps.
        from_zero: Whether sums start from zero; else the change is a difference, and a metric can be read in between.
    """

    def __init__(self, metrics: Iterable[Metric], from_zero: bool) -> None:
        metrics = list(metrics)
        self._before: dict[int, tuple[Variable, Tensor]] = {}
        self._opaque = [(metric, metric.snapshot_state()) for metric in metrics if _is_opaque(metric)]
        self.restart(metrics)
        self._changed: list[Variable] = []
        zeroed = [
            metric for metric in metrics if from_zero and is_builtin(metric) and not metric.updates_depend_on_state
        ]
        self._zeroed = {id(variable) for variable in _variables(zeroed) if variable.aggregation == "sum"}
        for variable, _ in self._before.values():
            if id(variable) in self._zeroed:
                variable.zero_()

    def tensors(self, metrics: Iterable[Metric], counts: bool, processes: ProcessGroup) -> list[Tensor]:
        """Return what is to be summed. With `counts=False`, what this process did does not count."""
        metrics = list(metrics)
        if not counts:
            self._undo_opaque(metrics)
        for metric in metrics:
            getattr(metric, "align", _nothing)(processes.share)
        variables = list(_variables(metrics))
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
        """Return the value before the steps: the initial one of a state that they created."""
        if id(variable) in self._before:
            return self._before[id(variable)][1]
        return variable.initial_value()

    def _exchange_extreme(self, variable: Variable, counts: bool, processes: ProcessGroup) -> None:
        value = variable if counts else self._base(variable)
        sign = _EXTREMES[variable.aggregation]
        variable.copy_(processes.largest(value * sign) * sign)

    def finish(self, sums: Sequence[Tensor]) -> None:
        """Set the states from the sums of `tensors`, and count from there."""
        for variable, change in zip(self._changed, sums):
            if variable.aggregation == "sum":
                variable.copy_(self._base(variable) + change.to(variable.device))
            else:
                variable.copy_(change)

    def undo(self, metrics: Iterable[Metric]) -> None:
        """Set the states back to what they were before the steps."""
        metrics = list(metrics)
        self._undo_opaque(metrics)
        for variable in _variables(metrics):
            variable.copy_(self._base(variable))

    def _undo_opaque(self, metrics: Iterable[Metric]) -> None:
        """Set back the states that are in no variables, such as those of torchmetrics."""
        known = {id(metric): state for metric, state in self._opaque}
        for metric in filter(_is_opaque, metrics):
            metric.restore_state(known[id(metric)]) if id(metric) in known else metric.reset_state()

    def restart(self, metrics: Iterable[Metric]) -> None:
        """Count changes from the present states on."""
        self._before = {id(variable): (variable, variable.clone()) for variable in _variables(metrics)}


def _is_opaque(metric: object) -> bool:
    return hasattr(metric, "metric") and hasattr(metric, "snapshot_state")


def _variables(metrics: Iterable[Metric]) -> Iterable[Variable]:
    for metric in metrics:
        yield from getattr(metric, "variables", ())


def _nothing(*_: object) -> None:
    return None
