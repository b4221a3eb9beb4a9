"""Adapter that gives a `torchmetrics` metric the interface of ours; torchmetrics itself is never imported."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from torchfit._distribution.processes import current
from torchfit._types import Nested, StateDict, TensorLike
from torchfit._utils.errors import describe
from torchfit._utils.names import snake_case
from torchfit._utils.tensors import as_tensor
from torchfit.functional.alignment import as_mask, get_mask
from torchfit.metrics.base import Metric

_MODES = {True: "max", False: "min", None: None}


def is_torchmetrics(value: object) -> bool:
    """Return whether a class or object is a torchmetrics metric or collection."""
    kind = value if isinstance(value, type) else type(value)
    return any(base.__module__.partition(".")[0] == "torchmetrics" for base in kind.__mro__) and all(
        hasattr(kind, method) for method in ("update", "compute", "reset")
    )


class TorchMetric(Metric):
    """A torchmetrics metric: called as `update(y_pred, y_true)`, read with `compute()`.

    Args:
        metric: the torchmetrics metric or collection; it is not copied, and keeps its own state.
        name: default: the class name in snake case.

    Raises:
        ValueError: if `metric` is none, or on an update with sample weights, which torchmetrics cannot take.
    """

    def __init__(self, metric: object, name: str | None = None):
        if isinstance(metric, type) or not is_torchmetrics(metric):
            raise ValueError(f"`metric` must be a torchmetrics object. Received: {describe(metric)}.")
        super().__init__(name=name or snake_case(type(metric).__name__))
        self.metric: Any = metric
        self.mode = _MODES[getattr(metric, "higher_is_better", None)]
        if current().size > 1:  # Processes exchange states when all of them do, not when one of them reads.
            self._let_exchange(_never)

    def update_state(self, y_true: TensorLike, y_pred: TensorLike, sample_weight: TensorLike = None) -> None:
        """Pass one batch on, predictions first."""
        if sample_weight is not None:
            raise ValueError(
                f"`sample_weight` cannot be used with the torchmetrics metric {type(self.metric).__name__}: "
                "torchmetrics has no sample weights. Pass it in `metrics=`, not in `weighted_metrics=`."
            )
        mask = get_mask(y_pred)
        y_pred = as_tensor(y_pred).detach()
        y_true = as_tensor(y_true, device=y_pred.device)
        if mask is not None:
            y_true, y_pred = _masked(y_true, y_pred, as_mask(mask, y_pred.device))
        if getattr(self.metric, "device", None) != y_pred.device:
            self.metric.to(y_pred.device)
        self.metric.update(y_pred, y_true)

    def result(self) -> Any:
        """Return what the metric computes."""
        return self.metric.compute()

    def synchronize(self) -> None:
        """Exchange the state, and keep the result of all processes until the next update."""
        if current().size > 1:
            for part in self.metric.modules():
                _fill_empty_lists(part, current().gather)
            self._let_exchange(_always)
            try:
                self.metric.compute()
            finally:
                self._let_exchange(_never)

    def _let_exchange(self, may_exchange: Callable[[], bool]) -> None:
        for part in self.metric.modules():
            known = vars(part)
            known.update({name: None for name in ("_computed",) if name in known and may_exchange is _always})
            known.update({name: may_exchange for name in ("distributed_available_fn",) if name in known})

    def reset_state(self) -> None:
        """Reset the metric."""
        self.metric.reset()

    def get_extra_state(self) -> list[StateDict]:
        """Return the state, which torchmetrics leaves out of its `state_dict`."""
        return [_state_of(part) for part in self.metric.modules()]

    def set_extra_state(self, state: list[StateDict]) -> None:
        """Load a state, onto the device of the metric."""
        for part, values in zip(self.metric.modules(), state):
            device = getattr(part, "device", None)
            vars(part).update({name: _moved(value, device) for name, value in values.items()})

    def snapshot_state(self) -> Any:
        """Return a copy of the state of all parts."""
        return [(part, copy.deepcopy(_state_of(part))) for part in self.metric.modules()]

    def restore_state(self, snapshot: Any) -> None:
        """Write what `snapshot_state` returned back."""
        for part, state in snapshot:
            vars(part).update(copy.deepcopy(state))


def _masked(y_true: Tensor, y_pred: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values that the mask `(batch, …)` keeps, `(values, …)`; this waits for the device."""
    while mask.ndim > 1 and mask.shape[-1] == 1:
        mask = mask.squeeze(-1)
    return y_true[mask], y_pred[mask]


def _moved(value: Nested, device: torch.device | None) -> Nested:
    if isinstance(value, list):
        return [_moved(part, device) for part in value]
    return value.to(device) if isinstance(value, Tensor) else value


def _state_of(part: object) -> StateDict:
    """Return the attributes in which a torchmetrics metric, or a part of one, keeps its state."""
    names = [*getattr(part, "_defaults", ()), "_update_count", "_computed"]
    return {name: vars(part)[name] for name in names if name in vars(part)}


def _fill_empty_lists(part: Any, gather: Callable[[object], list[Any]]) -> None:
    """Put a tensor without rows, like those of other processes, into lists of a process that has had no rows."""
    for name in getattr(part, "_defaults", ()):
        value = vars(part).get(name)
        if isinstance(value, list):
            examples = gather([(tensor.dtype, tensor.shape[1:]) for tensor in value[:1]])
            for dtype, shape in next(filter(None, examples), []) if not value else ():
                value.append(torch.empty((0, *shape), dtype=dtype, device=part.device))


def _always() -> bool:
    return True


def _never() -> bool:
    return False
