"""What every loss is: a function of targets and predictions per sample, weighted and reduced."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from torchfit._utils.dtypes import as_dtype, dtype_name
from torchfit._utils.names import snake_case
from torchfit._utils.tensors import as_tensor
from torchfit._utils.tree import children, rebuild
from torchfit.losses.reduction import check_reduction, reduce_weighted

AnyLoss = TypeVar("AnyLoss", bound="Loss")


class Loss:
    """Base of all losses: subclass it and define `call(y_true, y_pred)`.

    `call` returns one value per sample, `(batch, …)`, or a scalar. Calling the loss converts targets and
    predictions, weights the values and reduces them:

    - `"sum_over_batch_size"` (the default) and `"mean"`: the sum divided by the number of values;
    - `"mean_with_sample_weight"`: the sum divided by the sum of the weights;
    - `"sum"`; `"none"` or `None`: the values as they are.

    Arguments:
        name: what the loss is called in logs; the class name in snake case by default.
        reduction: see above.
        dtype: the dtype of the computation and of the result, float32 by default.

    Raises `ValueError` for an unknown reduction or dtype.

    >>> class Distance(Loss):
    ...     def call(self, y_true, y_pred):
    ...         return (y_pred - y_true).abs().mean(-1)
    >>> Distance()([[0.0], [1.0]], [[1.0], [3.0]]).item()
    1.5
    >>> Distance(reduction="sum")([[0.0], [1.0]], [[1.0], [3.0]], sample_weight=[1, 0]).item()
    1.0
    """

    expects_probabilities: str | None = None
    """What `y_pred` has to hold: "single" probabilities, a "distribution" over classes, or anything (`None`)."""

    _fused_mean: Callable[[Tensor, Tensor], Tensor] | None = None
    """The mean over a whole batch in fewer torch calls than `call`, used when nothing is weighted."""

    def __init__(self, name: str | None = None, reduction: str | None = "sum_over_batch_size", dtype: Any = None):
        self.name = name or snake_case(type(self).__name__)
        self.reduction = check_reduction(reduction)
        self.dtype = compute_dtype(dtype)
        self._target_dtype = self.dtype

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Tensor:
        """Return the reduced loss, a scalar unless the reduction is `None`.

        `y_true` and `y_pred` are tensors, NumPy arrays, lists or nests of them; `sample_weight` is a number
        or has the shape of the per-sample values or of their first dimensions. `y_pred._keras_mask`, if
        there, says which values count.
        """
        mask = getattr(y_pred, "_keras_mask", None)
        if type(y_pred) is not Tensor or y_pred.dtype is not self.dtype:
            y_pred = as_tensors(y_pred, self.dtype)
        if type(y_true) is not Tensor or y_true.dtype is not self._target_dtype:
            y_true = self._as_targets(y_true, y_pred)
        if mask is None and sample_weight is None and self._fused_mean is not None:
            return self._fused_mean(y_true, y_pred)
        return self._reduced(self.call(y_true, y_pred), sample_weight, mask)

    def call(self, y_true: Any, y_pred: Any) -> Tensor:
        """Return the loss of each sample `(batch, …)`, or a scalar. Defined by subclasses."""
        raise NotImplementedError(
            f"{type(self).__name__} does not say how to compute the loss: define call(self, y_true, y_pred)."
        )

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as plain data; subclasses add their own."""
        config: dict[str, Any] = {"name": self.name, "reduction": self.reduction}
        return config if self.dtype is torch.float32 else {**config, "dtype": dtype_name(self.dtype)}

    @classmethod
    def from_config(cls: type[AnyLoss], config: Mapping[str, Any]) -> AnyLoss:
        """Build a loss from what `get_config` returned."""
        return cls(**config)

    def _reduced(self, values: Tensor, sample_weight: Any, mask: Any) -> Tensor:
        if values.dtype is not self.dtype:
            values = as_tensor(values, self.dtype)
        own_mask = getattr(values, "_keras_mask", None)
        if own_mask is not None:
            mask = own_mask if mask is None else mask & own_mask
        return reduce_weighted(values, sample_weight, mask, self.reduction)

    def _as_targets(self, y_true: Any, y_pred: Any) -> Any:
        """Convert the targets; integers stay integers, so that class indices can index."""
        return as_tensors(y_true, self._target_dtype, getattr(y_pred, "device", None), integers=True)


def as_tensors(value: Any, dtype: torch.dtype, device: torch.device | None = None, integers: bool = False) -> Any:
    """Convert a value, or the leaves of a nest of tensors or arrays, to tensors of `dtype`.

    With `integers`, integers keep their kind. A list of numbers is one array.
    """
    parts = [part for _, part in children(value)]
    if isinstance(value, Mapping) or any(hasattr(part, "shape") or isinstance(part, Mapping) for part in parts):
        return rebuild(value, [as_tensors(part, dtype, device, integers) for part in parts])
    tensor = as_tensor(value, device=device)
    keep = integers and not tensor.is_floating_point() and tensor.dtype is not torch.bool
    return tensor if keep else tensor.to(dtype)


def compute_dtype(dtype: Any) -> torch.dtype:
    """Return the dtype that a name, a dtype or a precision policy computes in; `None` is float32."""
    dtype = getattr(dtype, "compute_dtype", dtype)
    return as_dtype(dtype.removeprefix("mixed_") if isinstance(dtype, str) else dtype)
