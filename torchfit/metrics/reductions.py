"""Means and sums of values, of functions and of losses."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from torchfit import functional as F
from torchfit import losses
from torchfit._types import Config, DTypeLike, TensorLike
from torchfit._utils.errors import describe
from torchfit._utils.registry import Registry
from torchfit._utils.tensors import as_tensor
from torchfit.functional.alignment import align_ranks, as_mask, get_mask
from torchfit.losses.base import zero_if_empty
from torchfit.losses.functional_loss import with_keras_argument_order
from torchfit.losses.identifiers import resolve_loss
from torchfit.metrics.base import SUM_DTYPE, Metric, Self, Variable
from torchfit.metrics.checks import merge_weights, weigh

_LOSSES_ONLY = {"categorical_generalized_cross_entropy", "circle", "ctc", "dice", "tversky"}

METRIC_FUNCTIONS = Registry(
    "metric function",
    "torchfit.metrics",
    {name: getattr(F, name) for name in F.__all__ if name not in _LOSSES_ONLY},
)

ELEMENTWISE = (
    F.binary_crossentropy,
    F.binary_focal_crossentropy,
    F.hinge,
    F.huber,
    F.log_cosh,
    F.mean_absolute_error,
    F.mean_absolute_percentage_error,
    F.mean_squared_error,
    F.mean_squared_logarithmic_error,
    F.poisson,
    F.squared_hinge,
)
"""The functions that average over the last dimension, so that a mask may exclude single elements."""


class Sum(Metric):
    """Sum of all values, weighted if weights are given.

    `update_state(values, sample_weight=None)`: `values` of any shape; weights have the same shape or its
    first dimensions. The sum is kept in float64.

    >>> Sum()([1.0, 2.0, 3.0]).item()
    6.0
    """

    def __init__(self, name: str | None = "sum", dtype: DTypeLike = None):
        super().__init__(name=name, dtype=dtype)
        self.total = self.add_weight(name="total", dtype=SUM_DTYPE)

    def update_state(self, values: TensorLike, sample_weight: TensorLike = None) -> None:
        """Add one batch of values."""
        mask = get_mask(values)
        values = self._as_values(values)
        if values.device != self.total.device:
            self.to(values.device)
        self.total.add_(weigh(values, merge_weights(sample_weight, mask, values)).sum())

    def result(self) -> Tensor:
        """Return the sum, a scalar."""
        return self.total.clone()


class Mean(Metric):
    """Mean of all values, weighted if weights are given; 0 before the first value.

    `update_state(values, sample_weight=None)`: `values` is a scalar or `(batch, …)`. Each value counts once, or as
    much as its weight. Weights broadcast to `values` from the left. A scalar with a number as weight, such as the mean
    loss of a batch and what it was divided by, costs two operations.

    Total and count are kept in float64, so that they stay exact over any number of batches.

    >>> mean = Mean()
    >>> mean.update_state([1.0, 3.0])
    >>> mean.update_state(5.0, sample_weight=2)
    >>> mean.result().item()
    3.5
    """

    def __init__(self, name: str | None = "mean", dtype: DTypeLike = None):
        super().__init__(name=name, dtype=dtype)
        self.total = self.add_weight(name="total", dtype=SUM_DTYPE)
        self.count = self.add_weight(name="count", dtype=SUM_DTYPE)
        # A variable, because compilers treat a plain float64 scalar as a changing number, and trace twice.
        self._unit = Variable(torch.ones((), dtype=SUM_DTYPE))

    def update_state(self, values: TensorLike, sample_weight: TensorLike = None) -> None:
        """Add one batch of values."""
        if values.__class__ is Tensor and values.ndim == 0 and sample_weight.__class__ in (int, float):
            self._follow_dtype(values)
            self.total.add_(values.detach() if values.requires_grad else values, alpha=sample_weight)
            # In the same kernel as the total; adding a number would first convert it to a tensor.
            self.count.add_(self._unit, alpha=sample_weight)
        else:
            mask = get_mask(values) if sample_weight is not None else None
            self._accumulate(as_tensor(values).detach(), sample_weight, mask)

    def _apply(self: Self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the unit with the count."""
        super()._apply(fn, recurse)
        count = self._buffers["count"]
        assert count is not None
        self._unit = Variable(torch.ones((), dtype=count.dtype, device=count.device))
        return self

    def _accumulate(self, values: Tensor, sample_weight: TensorLike = None, mask: TensorLike = None) -> None:
        """Add values that need no gradient."""
        if values.is_complex():
            raise TypeError(f"The values of the metric {self.name} must be real. Received: {describe(values)}.")
        self._follow_dtype(values)
        if values.device != self.total.device:
            self.to(values.device)
        if sample_weight is None and mask is None:
            self.total.add_(_sum(values))
            self.count.add_(self._unit, alpha=values.numel())
        else:
            values = values.to(self._dtype)
            weights = merge_weights(sample_weight, mask, values)
            assert weights is not None
            self.total.add_(_sum(weigh(values, weights)))
            self.count.add_(_sum(weights))

    def result(self) -> Tensor:
        """Return the mean, a scalar."""
        return torch.where(torch.ne(self.count, 0), self.total / self.count, 0.0).to(self._dtype)


class MeanMetricWrapper(Mean):
    """Mean over all samples of a function of targets and predictions.

    Predictions are cast to the metric's dtype, targets too unless they are integers. Samples that a mask on the
    predictions (`y_pred._keras_mask`) leaves out do not count.

    Args:
        fn: `fn(y_true, y_pred, **kwargs)` returning `(batch, …)`, or a scalar, which counts as much as the batch has
            samples. Parameters named in torch's order, such as `(preds, target)`, are passed in that order.
        name: Default: the function's name.
        dtype: See `Metric`.
        **kwargs: Passed on to `fn`.

    Raises:
        ValueError: If `fn` cannot be called.

    >>> def distance(y_true, y_pred):
    ...     return (y_true - y_pred).abs().sum(-1)
    >>> MeanMetricWrapper(distance)([[1.0, 2.0]], [[2.0, 4.0]]).item()
    3.0
    """

    _applies_ignored = False
    """Whether samples that the function ignores are not counted; with weights they never are, as in Keras."""

    def __init__(self, fn: Callable[..., Tensor], name: str | None = None, dtype: DTypeLike = None, **kwargs: object):
        if not callable(fn):
            raise ValueError(f"`fn` must be a callable (y_true, y_pred). Received: {describe(fn)}.")
        super().__init__(name=name or _name_of(fn), dtype=dtype)
        self._fn = fn
        self._function = with_keras_argument_order(fn)
        self._fn_kwargs: Config = kwargs
        self._averages_elements = kwargs.get("axis", -1) == -1 and any(fn is known for known in ELEMENTWISE)

    @property
    def function(self) -> Callable[..., Tensor]:
        """The wrapped function."""
        return self._fn

    def update_state(  # type: ignore[override]
        self, y_true: TensorLike, y_pred: TensorLike, sample_weight: TensorLike = None
    ) -> None:
        """Add one batch, as the function takes it, with `sample_weight (batch,)` or `(batch, …)`."""
        mask = get_mask(y_pred)
        y_pred = self._as_values(y_pred)
        y_true = as_tensor(y_true, device=y_pred.device)
        if y_true.is_floating_point() or y_true.dtype == torch.bool:
            y_true = y_true.to(self._dtype)
        if mask is not None:
            mask = as_mask(mask, y_pred.device)
            if self._averages_elements and mask.shape == y_pred.shape:
                y_true, y_pred = (part.unsqueeze(-1) for part in align_ranks(y_true, y_pred))
        values = self._values(y_true, y_pred, mask)
        ignored = get_mask(values)
        if ignored is not None and (self._applies_ignored or sample_weight is not None):
            mask = ignored if mask is None else merge_weights(None, mask, values) * ignored
        if values.ndim:
            self._accumulate(values, sample_weight, mask)
        else:
            self._accumulate_scalar(values, y_pred, sample_weight, mask)

    def _values(self, y_true: Tensor, y_pred: Tensor, mask: Tensor | None) -> Tensor:
        """Return the values of the function; masked ones may be arbitrary."""
        values: TensorLike = self._function(y_true, y_pred, **self._fn_kwargs)
        if isinstance(values, Tensor):
            return values
        if values is None:
            raise TypeError(f"The metric {self.name} returned None. Does its function end without `return`?")
        try:
            return as_tensor(values)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"The function of the metric {self.name} must return one value per sample, (batch, …), or a number. "
                f"Received: {describe(values)}."
            ) from error

    def _accumulate_scalar(self, value: Tensor, y_pred: Tensor, sample_weight: TensorLike, mask: TensorLike) -> None:
        """Add a value for a whole batch."""
        if sample_weight is not None or mask is not None:
            given = "`sample_weight`" if mask is None else "A mask of y_pred"
            raise ValueError(
                f"{given} cannot be used with the metric {self.name}, whose function returns one value per batch. Let "
                "it return one value per sample, (batch,)."
            )
        if value.device != self.total.device:
            self.to(value.device)
        Mean.update_state(self, value, y_pred.shape[0] if y_pred.ndim else 1)

    def get_config(self) -> Config:
        """Return the constructor's arguments; the function by name."""
        config = {**super().get_config(), **self._fn_kwargs}
        return {**config, "fn": METRIC_FUNCTIONS.serialize(self._fn)} if type(self) is MeanMetricWrapper else config

    @classmethod
    def from_config(cls: type[Self], config: Config) -> Self:
        """Build a metric from what `get_config` returned."""
        if "fn" not in config:
            return cls(**config)
        return cls(**{**config, "fn": METRIC_FUNCTIONS.deserialize(config["fn"])})


def _name_of(fn: object) -> str:
    while isinstance(fn, functools.partial):
        fn = fn.func
    return str(getattr(fn, "__name__", type(fn).__name__)).strip("<>")


def _sum(values: Tensor) -> Tensor:
    """Return the sum, in at least float32."""
    if values.dtype is torch.bool:
        return values.count_nonzero()
    return values.sum(dtype=torch.float32) if values.dtype in (torch.float16, torch.bfloat16) else values.sum()


class MeanLoss(Mean):
    """The loss over all samples, as `compile(loss=)` computes it: batches are weighted by their denominators.

    Args:
        loss: Anything that `compile(loss=)` takes.
        name: Default: the name of the loss.
        dtype: See `Metric`.

    Raises:
        ValueError: If `loss` is `None` or invalid.

    >>> metric = MeanLoss(torch.nn.MSELoss())
    >>> metric.update_state([[0.0], [0.0], [0.0]], [[1.0], [1.0], [1.0]])
    >>> metric.update_state([[0.0]], [[3.0]])
    >>> metric.result().item()
    3.0
    """

    mode = "min"

    def __init__(self, loss: object, name: str | None = None, dtype: DTypeLike = None):
        self.loss = resolve_loss(loss)
        super().__init__(name=name or self.loss.name, dtype=dtype)

    def update_state(  # type: ignore[override]
        self, y_true: TensorLike, y_pred: TensorLike, sample_weight: TensorLike = None
    ) -> None:
        """Add one batch, as the loss takes it."""
        with torch.no_grad():
            value, denominator = self.loss.with_denominator(y_true, y_pred, sample_weight)
        if value.device != self.total.device:
            self.to(value.device)
        if self.loss.is_sum:
            self.total.add_(value)
            self.count.fill_(1)
        else:
            super().update_state(zero_if_empty(value, denominator), denominator)

    def get_config(self) -> Config:
        """Return the constructor's arguments."""
        return {**super().get_config(), "loss": losses.serialize(self.loss)}

    @classmethod
    def from_config(cls: type[Self], config: Config) -> Self:
        """Build a metric from what `get_config` returned."""
        return cls(**{**config, "loss": losses.deserialize(config["loss"])})
