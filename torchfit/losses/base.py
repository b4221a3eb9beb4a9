"""The base class of losses, reductions and denominators."""

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

from torchfit._types import Config, DTypeLike, Nested, TensorLike
from torchfit._utils.errors import describe
from torchfit._utils.names import SuggestsKeywords, snake_case
from torchfit._utils.tensors import as_dtype, as_tensor, compute_dtype, dtype_name
from torchfit._utils.tree import children, leaves, rebuild
from torchfit.functional.alignment import align_ranks, as_mask, drop_unusable, get_mask

Denominator = Tensor | float
"""A `float` if it follows from shapes, else a 0-dimensional tensor, left on its device."""

Reduced = tuple[Tensor, Denominator]
"""A reduced loss and its denominator."""

REDUCTIONS = ("sum_over_batch_size", "mean", "mean_with_sample_weight", "sum", "none", None)
MEANS = REDUCTIONS[:3]


def check_reduction(reduction: object) -> str | None:
    """Return `reduction` if it is valid, else raise `ValueError`."""
    if not isinstance(reduction, (str, type(None))) or reduction not in REDUCTIONS:
        names = ", ".join(repr(name) for name in REDUCTIONS)
        raise ValueError(f"`reduction` must be one of {names}. Received: {describe(reduction)}.")
    return reduction


def reduce_weighted(
    values: Tensor, sample_weight: TensorLike, masks: tuple[object, ...], reduction: str | None
) -> Reduced:
    """Weight per-sample `values (batch, …)`, reduce them, and return the result with its denominator.

    The denominator is the divisor of a mean, so that result times denominator is the total. It is 1 for a sum.

    Args:
        values: The loss values `(batch, …)`.
        sample_weight: `None`, a number, or weights with the shape of `values` or of its first dimensions (`(batch,)`
            for values `(batch, steps)`), in which sizes may also be 1.
        masks: Booleans of these shapes, or `None`. A value does not count if any mask is false.
        reduction: One of `REDUCTIONS`. Without a reduction, the result is the values and the denominator their number.

    Raises:
        ValueError: If weights or a mask do not fit the values.

    If all weights or masks are zero, the result is 0 and the denominator is 0.
    """
    mask = None
    for given in masks:
        if given is not None:
            values, mask = _combine(mask, as_mask(given, values.device), values)
    weight = None
    if sample_weight is not None:
        weight = as_tensor(sample_weight, values.dtype, values.device)
        values, weight = align_weight(weight, values, "sample_weight")
        values = values * weight
    if mask is not None:
        mask = _match_rank(mask, values)
        values = torch.where(mask, values, 0)
    if reduction == "sum":
        return values.sum(), 1.0
    denominator = count(values, weight if reduction == "mean_with_sample_weight" else None, mask)
    return (values if reduction not in MEANS else divide(values, denominator)), denominator


def align_weight(weight: Tensor, values: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Return `values` and `weight` with aligned ranks; raise if the weight fits no leading dimensions."""
    if weight.shape == values.shape:
        return values, weight
    given = weight
    values, weight = align_ranks(values, weight)
    if 0 < weight.dim() < values.dim():
        weight = weight.reshape(weight.shape + (1,) * (values.dim() - weight.dim()))
    if weight.numel() != 1 and not _broadcasts_to(weight, values):
        raise ValueError(
            f"{name} must be a number, or of the shape of the loss values or of their first dimensions: "
            f"(batch,) or {tuple(values.shape)}. Received: {describe(given)}."
        )
    return values, weight.reshape(()) if weight.dim() > values.dim() else weight


def count(values: Tensor, weight: Tensor | None, mask: Tensor | None) -> Denominator:
    """Return the number of unmasked values, or the sum of their weights."""
    if weight is None and mask is None:
        return float(values.numel())
    if weight is None or mask is None:
        counted: TensorLike = mask if weight is None else weight
    else:
        counted = torch.where(mask, weight, 0)
    total: Tensor = counted.sum(dtype=torch.promote_types(values.dtype, torch.float32))
    return total if counted.numel() == values.numel() else total * (values.numel() / max(counted.numel(), 1))


def divide(values: Tensor, denominator: Denominator) -> Tensor:
    """Return the sum of `values` divided by the denominator, or 0 if that is 0."""
    if not isinstance(denominator, Tensor):
        return values.mean() if values.numel() else values.sum()
    return safe_divide(values.sum(dtype=denominator.dtype), denominator).to(values.dtype)


def safe_divide(total: Tensor, count: Tensor) -> Tensor:
    """Return `total / count`, or 0, without NaN gradients, where `count` is 0."""
    empty = count == 0
    return (total / count.masked_fill(empty, 1)).masked_fill(empty, 0)


def zero_if_empty(loss: Tensor, denominator: Denominator) -> Tensor:
    """Return a loss, or 0 if its denominator is 0, where the loss itself may be NaN."""
    if isinstance(denominator, Tensor):
        return torch.where(denominator == 0, 0, loss)
    return loss if denominator else torch.zeros_like(loss)


def _broadcasts_to(weight: Tensor, values: Tensor) -> bool:
    return weight.dim() == values.dim() and all(one in (1, other) for one, other in zip(weight.shape, values.shape))


def _combine(mask: Tensor | None, other: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    values, other = align_weight(other, values, "the mask of y_pred")
    return values, other if mask is None else _match_rank(mask, values) & other


def _match_rank(mask: Tensor, values: Tensor) -> Tensor:
    """Add or drop the last dimension of size 1 that `values` got or lost when they were aligned with weights."""
    if mask.dim() == values.dim() or not mask.dim():
        return mask
    return mask.squeeze(-1) if mask.dim() > values.dim() else mask.unsqueeze(-1)


AnyLoss = TypeVar("AnyLoss", bound="Loss")


class Loss(SuggestsKeywords):
    """Base class of all losses: subclass it and define `call(y_true, y_pred)`.

    `call` returns one value per sample, `(batch, …)`, or a scalar for the whole batch. Calling the loss converts
    targets and predictions, weights the values and reduces them:

    - `"sum_over_batch_size"` (the default) and `"mean"`: the sum divided by the number of values;
    - `"mean_with_sample_weight"`: the sum divided by the sum of the weights;
    - `"sum"`; `"none"` or `None`: the values as they are.

    Values that are masked by the predictions (`y_pred._keras_mask`) count neither in the sum nor in the number.

    Args:
        name: The name of the loss in logs; by default the class name in snake case.
        reduction: One of the reductions above.
        dtype: The dtype of the computation and of the result; by default float32, or that of the predictions if they
            are float64. Functions of complex predictions are called with them as they are, and return real values.

    Raises:
        ValueError: If the reduction or dtype is unknown.

    >>> class Distance(Loss):
    ...     def call(self, y_true, y_pred):
    ...         return (y_pred - y_true).abs().mean(-1)
    >>> Distance()([[0.0], [1.0]], [[1.0], [3.0]]).item()
    1.5
    >>> Distance(reduction="sum")([[0.0], [1.0]], [[1.0], [3.0]], sample_weight=[1, 0]).item()
    1.0
    """

    expects_probabilities: str | None = None
    """What `y_pred` must hold: "single" probabilities, a "distribution" over classes, or any values (`None`)."""

    is_separable: bool = True
    """Whether the loss is a sum over samples, so that the totals of parts of a batch add up to that of the whole.

    False for losses that compare samples with each other or compute one number per batch. Of a `call` that returns a
    scalar this is known after the first batch."""

    _fused_mean: Callable[[Tensor, Tensor], Tensor | None] | None = None
    """A function that computes the mean over a batch with fewer calls of torch than `call`; used without weights."""

    _applies_mask = False
    """Whether `call` applies the mask of the predictions itself."""

    def __init__(self, name: str | None = None, reduction: str | None = "sum_over_batch_size", dtype: DTypeLike = None):
        self.name = name or snake_case(type(self).__name__)
        self.reduction = check_reduction(reduction)
        self.dtype = named_dtype(dtype)
        self._target_dtype: torch.dtype | None = None  # By default that of the predictions.
        self._overrides_call = type(self).__call__ is not Loss.__call__

    @property
    def is_sum(self) -> bool:
        """Whether losses of parts of a batch are summed without division."""
        return self.reduction == "sum"

    def __call__(self, y_true: Nested, y_pred: Nested, sample_weight: TensorLike | None = None) -> Tensor:
        """Return the reduced loss, a scalar unless the reduction is `None`.

        Args:
            y_true: The targets `(batch, …)`: a tensor, a NumPy array, a list or a nest of them.
            y_pred: The predictions `(batch, …)`, likewise. `y_pred._keras_mask`, if present, says which values count.
            sample_weight: A number, or weights of the shape of the per-sample values or of their first dimensions.

        Raises:
            ValueError: If shapes do not fit, or there are weights per sample and the loss is one number per batch.
        """
        return self._compute(y_true, y_pred, sample_weight)[0]

    def with_denominator(self, y_true: Nested, y_pred: Nested, sample_weight: TensorLike | None = None) -> Reduced:
        """Return the loss of a batch, a scalar, and its denominator.

        The loss of several batches at once is `sum(loss * denominator) / sum(denominator)`; for losses that are sums
        (`is_sum`), it is the sum of the losses. The denominator is a `float` if it follows from shapes, else a
        0-dimensional tensor. It counts the values that are not excluded by weights, masks or ignored classes. If there
        are none, it is 0, and the loss does not count: it is 0, or NaN if a loss of torch returns that. For losses that
        are one number per batch, the denominator is the number of rows of the targets. Without a reduction, the loss is
        the mean of the values. The arguments and errors are those of a call.

        >>> from torchfit.losses import MeanSquaredError
        >>> MeanSquaredError().with_denominator([[0.0], [0.0]], [[1.0], [3.0]])
        (tensor(5.), 2.0)
        """
        if self._overrides_call:
            return self._of_own_call(y_true, y_pred, sample_weight)
        loss, denominator = self._compute(y_true, y_pred, sample_weight)
        return (divide(loss, denominator) if loss.dim() else loss), denominator

    def call(self, y_true: Nested, y_pred: Nested) -> Tensor:
        """Return the loss of each sample `(batch, …)`, or a scalar. Subclasses must define it."""
        raise NotImplementedError(
            f"{type(self).__name__} does not say how to compute the loss: define call(self, y_true, y_pred)."
        )

    def get_config(self) -> Config:
        """Return the constructor's arguments as plain data; subclasses add their own."""
        config: Config = {"name": self.name, "reduction": self.reduction}
        return config if self.dtype is torch.float32 else {**config, "dtype": dtype_name(self.dtype)}

    @classmethod
    def from_config(cls: type[AnyLoss], config: Config) -> AnyLoss:
        """Build a loss from the result of `get_config`."""
        return cls(**config)

    def _compute(self, y_true: Nested, y_pred: Nested, sample_weight: TensorLike) -> Reduced:
        """Return the reduced loss, or the values if there is no reduction, and the denominator."""
        mask = getattr(y_pred, "_keras_mask", None)
        dtype = self.dtype
        if type(y_pred) is not Tensor or y_pred.dtype is not dtype:
            dtype = compute_dtype(dtype, y_pred)
            y_pred = as_tensors(y_pred, dtype)
        dtype = self._target_dtype or dtype
        if type(y_true) is not Tensor or y_true.dtype is not dtype:
            y_true = self._as_targets(y_true, y_pred, dtype)
        if mask is None and sample_weight is None and self._fused_mean is not None and not dtype.is_complex:
            loss = self._fused_mean(y_true, y_pred)
            if loss is not None:
                shape = y_pred.shape
                return loss, y_pred.numel() / shape[-1] if len(shape) > 1 else float(y_pred.numel())
        if mask is not None and isinstance(y_pred, Tensor):
            mask = as_mask(mask, y_pred.device)
            y_true, y_pred = self._without_masked(y_true, y_pred, mask)
        return self._reduce(self.call(y_true, y_pred), y_true, sample_weight, None if self._applies_mask else mask)

    def _reduce(self, values: object, y_true: Nested, sample_weight: TensorLike, mask: Tensor | None) -> Reduced:
        """Reduce the values that `call` returned."""
        own_mask = get_mask(values)
        if not isinstance(values, Tensor) or values.dtype is not self.dtype:
            check_is_value(self.name, values)
            values = as_tensor(values, compute_dtype(self.dtype, values))
        if self._is_of_batch(values, y_true):
            return self._reduce_batch_value(values, y_true, sample_weight)
        return reduce_weighted(values, sample_weight, (own_mask, mask), self.reduction)

    def _is_of_batch(self, values: Tensor, y_true: Nested) -> bool:
        """Return whether the values are one number for the batch, of any size, instead of one per sample."""
        if values.numel() != 1:
            return False
        rows = count_rows(y_true)
        return rows is not None and (not values.dim() or rows > 1)

    def _reduce_batch_value(self, values: Tensor, y_true: Nested, sample_weight: TensorLike) -> Reduced:
        """Reduce a loss that is one number per batch, or whose values do not belong to single samples."""
        check_no_sample_weights(self.name, sample_weight)
        rows = float(count_rows(y_true) or 0)
        if self.is_separable and rows != 1:
            self.is_separable = False
        if sample_weight is not None:
            values = values * as_tensor(sample_weight, values.dtype, values.device).reshape(())
        if not rows:
            values = values.nan_to_num(0.0)
        if values.dim():
            values, _ = reduce_weighted(values, None, (), self.reduction)
        return values, 1.0 if self.is_sum else rows

    def _without_masked(self, y_true: Nested, y_pred: Tensor, mask: Tensor) -> tuple[Nested, Tensor]:
        """Replace NaN and infinity in masked positions, because they would affect the gradients of other positions."""
        return drop_unusable(y_true, mask), drop_unusable(y_pred, mask)

    def _of_own_call(self, y_true: Nested, y_pred: Nested, sample_weight: TensorLike) -> Reduced:
        """Return the result of a subclass's own `__call__`, whose denominator is unknown."""
        self.is_separable = False
        loss = self(y_true, y_pred, sample_weight)
        if loss.dim():
            loss = divide(loss, float(loss.numel()))
        return loss, 1.0 if self.is_sum else float(count_rows(as_tensors(y_true, self.dtype)) or 1)

    def _as_targets(self, y_true: Nested, y_pred: Nested, dtype: torch.dtype) -> Nested:
        """Convert the targets; integers stay integers, so that class indices can index."""
        return as_tensors(y_true, dtype, getattr(y_pred, "device", None), integers=True)


def count_rows(y_true: Nested) -> int | None:
    """Return the size of the first dimension of targets `(batch, …)`, or of the first of several, or `None`."""
    if not isinstance(y_true, Tensor):
        y_true = next((leaf for leaf in leaves(y_true) if isinstance(leaf, Tensor)), None)
    return len(y_true) if y_true is not None and y_true.dim() else None


def check_no_sample_weights(name: str, sample_weight: TensorLike) -> None:
    """Raise `ValueError` for weights per sample with a loss that has no values per sample."""
    if sample_weight is not None and as_tensor(sample_weight).numel() > 1:
        raise ValueError(
            f"`sample_weight` (or `class_weight`) does not go with the loss {name}, which returns one value per batch. "
            f"Received: {describe(sample_weight)}. Let the loss return one value per sample, or omit the weights."
        )


def check_is_value(name: str, value: object) -> None:
    """Raise `TypeError` if the result of a loss function is neither a real tensor nor a number."""
    if isinstance(value, Tensor) and value.is_complex():
        raise TypeError(
            f"The loss {name} returned complex numbers: {describe(value)}. A loss is real: use a function such as "
            "`lambda y_true, y_pred: (y_pred - y_true).abs().square()`."
        )
    if isinstance(value, Tensor) or type(value) in (int, float, bool):
        return
    if value is None:
        raise TypeError(f"The loss {name} returned None. Does its function end without `return`?")
    raise TypeError(
        f"The loss {name} must return a tensor, of one value per sample `(batch, …)` or without dimensions. Received: "
        f"{describe(value)}. Gradients pass through operations of torch only."
    )


def as_tensors(value: Nested, dtype: torch.dtype, device: torch.device | None = None, integers: bool = False) -> Nested:
    """Convert a value, or the leaves of a nest of tensors or arrays, to tensors of `dtype`.

    With `integers`, integers keep their dtype. A list of numbers is one array.
    """
    parts = [part for _, part in children(value)]
    if isinstance(value, Mapping) or any(hasattr(part, "shape") or isinstance(part, Mapping) for part in parts):
        return rebuild(value, [as_tensors(part, dtype, device, integers) for part in parts])
    tensor = as_tensor(value, device=device)
    keep = integers and not tensor.is_floating_point() and tensor.dtype is not torch.bool
    return tensor if keep else as_tensor(tensor, dtype)


def named_dtype(dtype: DTypeLike) -> torch.dtype:
    """Return the dtype of computations for a name, a dtype or a precision policy; `None` means float32."""
    dtype = getattr(dtype, "compute_dtype", dtype)
    return as_dtype(dtype.removeprefix("mixed_") if isinstance(dtype, str) else dtype)
