"""Running sums and means, and the wrapper that makes a metric of any function."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from torchfit._utils.errors import describe
from torchfit._utils.tensors import as_tensor
from torchfit.functional.confusion import broadcast_weights
from torchfit.metrics.base import Metric, Self
from torchfit.metrics.functions import METRIC_FUNCTIONS


class Sum(Metric):
    """Sum of all values, weighted if weights are given.

    `update_state(values, sample_weight=None)`: `values` of any shape; weights have the same shape or its
    first dimensions.

    >>> Sum()([1.0, 2.0, 3.0]).item()
    6.0
    """

    def __init__(self, name: str | None = "sum", dtype: Any = None):
        super().__init__(name=name, dtype=dtype)
        self.total = self.add_weight(name="total")

    def update_state(self, values: Any, sample_weight: Any = None) -> None:
        """Add one batch of values."""
        values = as_tensor(values, dtype=self._dtype).detach()
        if values.device != self.total.device:
            self.to(values.device)
        if sample_weight is not None:
            values = values * broadcast_weights(sample_weight, values)
        self.total.add_(values.sum())

    def result(self) -> Tensor:
        """Return the sum, a scalar."""
        return self.total.clone()


class Mean(Metric):
    """Mean of all values, weighted if weights are given; 0 before the first.

    `update_state(values, sample_weight=None)`: `values` is a scalar or `(batch, …)`. Each sample counts
    once, or as much as its weight, with the mean of its values. Weights broadcast to `values` from the left.
    A scalar with a number as weight, such as the mean loss of a batch and its rows, costs two operations.

    >>> mean = Mean()
    >>> mean.update_state([1.0, 3.0])
    >>> mean.update_state(5.0, sample_weight=2)
    >>> mean.result().item()
    3.5
    """

    def __init__(self, name: str | None = "mean", dtype: Any = None):
        super().__init__(name=name, dtype=dtype)
        self.total = self.add_weight(name="total")
        self.count = self.add_weight(name="count")
        self._unit = torch.ones((), dtype=self._dtype)

    def update_state(self, values: Any, sample_weight: Any = None) -> None:
        """Add one batch of values."""
        if sample_weight.__class__ in (int, float) and values.__class__ is Tensor and values.ndim == 0:
            self.total.add_(values.detach(), alpha=sample_weight)
            self._count(sample_weight)
        else:
            mask = getattr(values, "_keras_mask", None) if sample_weight is not None else None
            self._accumulate(as_tensor(values).detach(), sample_weight, mask)

    def _count(self, samples: float) -> None:
        """Add to the count in the same kernel as to the total: adding a number would first make a tensor of it."""
        self.count.add_(self._unit, alpha=samples)

    def _apply(self: Self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the unit with the count."""
        super()._apply(fn, recurse)
        self._unit = self._unit.to(self._device())
        return self

    def _accumulate(self, values: Tensor, sample_weight: Any = None, mask: Any = None) -> None:
        """Add values that need no gradient."""
        if values.device != self.total.device:
            self.to(values.device)
        if sample_weight is not None or mask is not None:
            self._accumulate_weighted(values.to(self._dtype), sample_weight, mask)
        elif values.ndim == 1 or (values.ndim and values.numel() == values.shape[0]):
            self.total.add_(values.sum())
            self._count(values.shape[0])
        else:
            samples = values.shape[0] if values.ndim else 1
            self.total.add_(values.sum(dtype=self._dtype), alpha=samples / max(values.numel(), 1))
            self._count(samples)

    def _accumulate_weighted(self, values: Tensor, sample_weight: Any, mask: Any) -> None:
        weights = _weights(sample_weight, mask, self._dtype, values.device)
        values, weights = _broadcast(values, weights)
        size = _sample_size(values)
        self.total.add_((values * weights).sum() / size)
        self.count.add_(weights.sum() / size)

    def result(self) -> Tensor:
        """Return the mean, a scalar."""
        return torch.where(torch.ne(self.count, 0), self.total / self.count, 0.0)


class MeanMetricWrapper(Mean):
    """Mean over all samples of a function of targets and predictions.

    Predictions are cast to the metric's dtype, targets too unless they are integers. A mask on the
    predictions (`y_pred._keras_mask`) leaves out what it says.

    Args:
        fn: `fn(y_true, y_pred, **kwargs)` returning `(batch, …)`, or a scalar that counts once per batch.
        name: default: the function's name.
        dtype: see `Metric`.
        **kwargs: passed on to `fn`.

    Raises:
        ValueError: if `fn` cannot be called.

    >>> def distance(y_true, y_pred):
    ...     return (y_true - y_pred).abs().sum(-1)
    >>> MeanMetricWrapper(distance)([[1.0, 2.0]], [[2.0, 4.0]]).item()
    3.0
    """

    def __init__(self, fn: Callable[..., Tensor], name: str | None = None, dtype: Any = None, **kwargs: Any):
        if not callable(fn):
            raise ValueError(f"`fn` must be a callable (y_true, y_pred). Received: {describe(fn)}.")
        super().__init__(name=name or _name_of(fn), dtype=dtype)
        self._fn = fn
        self._fn_kwargs = kwargs

    def update_state(  # type: ignore[override]
        self, y_true: Any, y_pred: Any, sample_weight: Any = None
    ) -> None:
        """Add one batch, as the function takes it, with `sample_weight (batch,)` or `(batch, …)`."""
        mask = getattr(y_pred, "_keras_mask", None)
        y_pred = as_tensor(y_pred, dtype=self._dtype).detach()
        y_true = as_tensor(y_true, device=y_pred.device)
        if y_true.is_floating_point() or y_true.dtype == torch.bool:
            y_true = y_true.to(self._dtype)
        values = as_tensor(self._fn(y_true, y_pred, **self._fn_kwargs))
        self._accumulate(values, sample_weight, mask)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments; the function by name."""
        config = {**super().get_config(), **self._fn_kwargs}
        return {**config, "fn": METRIC_FUNCTIONS.serialize(self._fn)} if type(self) is MeanMetricWrapper else config

    @classmethod
    def from_config(cls: type[Self], config: Mapping[str, Any]) -> Self:
        """Build a metric from what `get_config` returned."""
        if "fn" not in config:
            return cls(**config)
        return cls(**{**config, "fn": METRIC_FUNCTIONS.deserialize(config["fn"])})


def _name_of(fn: Any) -> str:
    while isinstance(fn, functools.partial):
        fn = fn.func
    return str(getattr(fn, "__name__", type(fn).__name__)).strip("<>")


def _sample_size(values: Tensor) -> int:
    """How many values a sample of `(batch, …)` has."""
    return max(math.prod(values.shape[1:]), 1)


def _weights(sample_weight: Any, mask: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return weights and mask as one tensor; either may be missing."""
    if mask is None:
        return as_tensor(sample_weight, dtype, device)
    kept = as_tensor(mask, dtype, device)
    if sample_weight is None:
        return kept
    weights = as_tensor(sample_weight, dtype, device)
    if weights.ndim > kept.ndim and weights.shape[-1] == 1:
        weights = weights.squeeze(-1)
    return kept * weights.reshape(weights.shape + (1,) * (kept.ndim - weights.ndim))


def _broadcast(values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Take the mean over what the weights do not tell apart, and repeat the weights over the rest."""
    if weights.ndim == values.ndim + 1 and weights.shape[-1] == 1:
        weights = weights.squeeze(-1)
    if weights.ndim > values.ndim or any(size not in (1, wanted) for size, wanted in zip(weights.shape, values.shape)):
        raise ValueError(
            f"`sample_weight` of shape {tuple(weights.shape)} does not broadcast to values of shape "
            f"{tuple(values.shape)}: its dimensions must be the first ones of the values, or 1."
        )
    if weights.ndim < values.ndim:
        values = values.mean(dim=tuple(range(weights.ndim, values.ndim)))
    return values, weights.expand_as(values)
