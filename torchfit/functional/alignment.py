"""Aligns the ranks, shapes and masks of targets and predictions."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from torchfit._types import Config, Nested, TensorLike
from torchfit._utils.compat import TorchDispatchMode
from torchfit._utils.errors import describe
from torchfit._utils.tensors import as_tensor

Result = TypeVar("Result")


def get_mask(values: Nested) -> Nested:
    """Return the mask attached to outputs or loss values, or `None`."""
    return getattr(values, "_keras_mask", None)


def with_mask(values: Tensor, mask: TensorLike) -> Tensor:
    """Attach a mask to a new tensor, and return the tensor."""
    values._keras_mask = mask  # type: ignore[attr-defined]
    return values


def as_mask(mask: TensorLike, device: torch.device) -> Tensor:
    """Return a mask of any dtype, or an array, as a boolean tensor."""
    tensor = as_tensor(mask, device=device)
    return tensor if tensor.dtype is torch.bool else tensor != 0


def drop_unusable(values: Nested, mask: Tensor) -> Nested:
    """Replace NaN and infinity where `mask (batch, …)` is false, so that they do not affect sums and gradients.

    Finite values are kept, because losses may compare samples with each other. The mask is attached to the result.
    """
    if not isinstance(values, Tensor) or not values.is_floating_point():
        return values
    fitted = fit_mask(mask, values)
    return values if fitted is None else with_mask(torch.where(fitted | values.isfinite(), values, 0), mask)


def fit_mask(mask: Tensor, values: Tensor) -> Tensor | None:
    """Return a mask with the first dimensions of `values` such that it broadcasts, or `None` if it does not fit.

    >>> fit_mask(torch.ones(4, 1), torch.zeros(4)).shape, fit_mask(torch.ones(4), torch.zeros(4, 5, 6)).shape
    (torch.Size([4]), torch.Size([4, 1, 1]))
    """
    while mask.dim() > values.dim() and mask.shape[-1] == 1:
        mask = mask.squeeze(-1)
    if mask.dim() > values.dim() or any(one not in (1, other) for one, other in zip(mask.shape, values.shape)):
        return None
    return mask.reshape(mask.shape + (1,) * (values.dim() - mask.dim()))


def require_mask(mask: Tensor, values: Tensor) -> Tensor:
    """Return a mask that broadcasts to `values`; raise `ValueError` if it does not fit them."""
    fitted = fit_mask(mask, values)
    if fitted is None:
        raise ValueError(
            "The mask of y_pred must have its shape or its first dimensions. "
            f"Received: the mask, {describe(mask)}, and y_pred, {describe(values)}."
        )
    return fitted


def align_ranks(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Add or drop a last dimension of size 1 if the ranks differ by one; else return both unchanged.

    With `(batch, 1)`, a vector `(batch,)` becomes `(batch, 1)`; from rank 2 on, the extra dimension is dropped.

    >>> [tuple(t.shape) for t in align_ranks(torch.zeros(4), torch.zeros(4, 1))]
    [(4, 1), (4, 1)]
    >>> [tuple(t.shape) for t in align_ranks(torch.zeros(4, 5, 1), torch.zeros(4, 5))]
    [(4, 5), (4, 5)]
    """
    surplus = first.dim() - second.dim()
    if surplus == 1 and first.shape[-1] == 1:
        return (first, second.unsqueeze(-1)) if second.dim() == 1 else (first.squeeze(-1), second)
    if surplus == -1 and second.shape[-1] == 1:
        return (first.unsqueeze(-1), second) if first.dim() == 1 else (first, second.squeeze(-1))
    return first, second


class TargetForms:
    """Calls functions of users with targets in the form that they expect.

    If a target `(batch,)` belongs to an output `(batch, 1)`, code that combines them as they are broadcasts one against
    the other to `(batch, batch)` and computes a wrong number: it expects a column. Other code drops the last axis of
    the output itself, and would do the same with a column. The first batch of more than one row shows which form a
    function expects: that with which it neither broadcasts nor fails, at first that of the data. If it does so with
    both, it compares samples with each other, and gets the form of equal shapes, or else that of the data.
    """

    def __init__(self) -> None:
        self._takes_other: dict[tuple[int, int], bool] = {}

    def call(
        self,
        function: Callable[..., Result],
        target: Nested,
        output: Nested,
        *weights: Tensor | None,
        save: Callable[[], Callable[[], object]] = lambda: _restore_nothing,
    ) -> Result:
        """Return `function(target, output, *weights)` for the form that it expects.

        If a call changes a state, `save` saves it and returns a function that restores it.
        """
        rank, output_rank = getattr(target, "ndim", 0), getattr(output, "ndim", 0)
        if rank and rank == output_rank and target.shape[-1] != 1:  # The usual case.
            return function(target, output, *weights)
        given = target, output, *weights
        takes_other = self._takes_other.get((rank, output_rank))
        other = None if takes_other is False else _other_form(*given)
        if other is None:
            return function(*given)
        if takes_other is None:
            if not torch.compiler.is_compiling():
                return self._call_first(function, given, other, save())
            takes_other = other[0].shape == other[1].shape
        return function(*(other if takes_other else given))

    def _call_first(
        self,
        function: Callable[..., Result],
        given: tuple[Nested, ...],
        other: tuple[Nested, ...],
        restore: Callable[[], object],
    ) -> Result:
        """Try both forms, and remember the one that fits."""
        target, output, errors = given[0], given[1], []
        for takes_other, arguments in ((False, given), (True, other)):
            search = _BroadcastSearch(target.numel(), len(target))
            try:
                with search:
                    result = function(*arguments)
            except Exception as error:
                errors.append((takes_other, error))
            else:
                if not search.has_found:
                    self._remember(target, output, takes_other)
                    return result
            restore()
        if len(errors) == 2:
            raise errors[0][1]
        takes_other = not errors[0][0] if errors else other[0].shape == other[1].shape
        self._remember(target, output, takes_other)
        return function(*(other if takes_other else given))

    def _remember(self, target: Tensor, output: Tensor, takes_other: bool) -> None:
        """Remember the form, unless there is only one row, with which nothing can be broadcast."""
        if len(target) > 1:
            self._takes_other[target.dim(), output.dim()] = takes_other


def _restore_nothing() -> None:
    """Do nothing: the call of a function changes no state."""


def _other_form(target: Nested, output: Nested, *weights: Tensor | None) -> tuple[Nested, ...] | None:
    """Return the arguments with an axis of size 1 more or less in the target, or `None` if there is no other form."""
    if not isinstance(target, Tensor) or not isinstance(output, Tensor):
        return None
    surplus = target.dim() - output.dim()
    if surplus == -1 and target.dim() and (target.dim() == 1 or output.shape[-1] == 1):
        columns = [weight.unsqueeze(-1) if weight is not None and weight.dim() == 1 else weight for weight in weights]
        return target.unsqueeze(-1), output, *(columns if target.dim() == 1 else weights)
    if target.dim() < 2 or target.shape[-1] != 1:
        return None
    if surplus == 1:
        return (target, output.unsqueeze(-1), *weights) if output.dim() == 1 else (target.squeeze(-1), output, *weights)
    return (target.squeeze(-1), output, *weights) if target.dim() == output.dim() == 2 else None


class _BroadcastSearch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Looks for operations that broadcast `size` values in `rows` rows against each other."""

    def __init__(self, size: int, rows: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._size, self._rows = size, rows
        self.has_found = False

    def __torch_dispatch__(
        self,
        operation: Callable[..., Nested],
        types: object,
        arguments: tuple[Nested, ...] = (),
        keywords: Config | None = None,
    ) -> Nested:
        result = operation(*arguments, **(keywords or {}))
        if self._rows > 1 and isinstance(result, Tensor) and result.numel() == self._size * self._rows:
            sizes = [argument.numel() for argument in arguments if isinstance(argument, Tensor)]
            self.has_found |= bool(sizes) and max(sizes) <= self._size
        return result


def mean_per_sample(values: Tensor, axis: int = -1) -> Tensor:
    """Return the mean of `values (batch, …, values)` over `axis`.

    A vector `(batch,)` holds one value per sample already and is returned as it is.

    >>> mean_per_sample(torch.tensor([[1.0, 3.0]])).tolist(), mean_per_sample(torch.tensor([1.0, 3.0])).tolist()
    ([2.0], [1.0, 3.0])
    """
    return values.mean(axis) if values.dim() > 1 else values


def check_has_vectors(name: str, y_pred: Tensor, shape: str, way_out: str) -> None:
    """Raise `ValueError` unless predictions have dimensions besides the batch, along which to compare values."""
    if y_pred.dim() < 2:
        raise ValueError(
            f"{name} compares values within a sample, so y_pred must be {shape}. "
            f"Received: y_pred, {describe(y_pred)}. {way_out}"
        )


def detach_below(values: Tensor, floor: float) -> Tensor:
    """Return `values` without gradient below `floor`, such as at 0, where the slope of a power is infinite."""
    return torch.where(values < floor, values.detach(), values)


def as_floating(values: object) -> Tensor:
    """Return `values` as a tensor of real numbers; integers and booleans become float32."""
    tensor = as_tensor(values)
    return tensor if tensor.is_floating_point() else as_tensor(tensor, torch.float32)


def align_pair(y_true: TensorLike, y_pred: TensorLike) -> tuple[Tensor, Tensor]:
    """Return targets and predictions as tensors of one shape, in the predictions' dtype and on their device.

    Raises `ValueError` if the shapes differ by more than a last dimension of size 1: nothing is broadcast.
    """
    if (
        type(y_pred) is Tensor
        and type(y_true) is Tensor
        and y_true.dtype is y_pred.dtype
        and y_true.shape == y_pred.shape
        and y_pred.is_floating_point()
    ):
        return y_true, y_pred
    y_pred = as_floating(y_pred)
    y_true = as_tensor(y_true, y_pred.dtype, y_pred.device)
    y_true, y_pred = align_ranks(y_true, y_pred)
    if y_true.shape != y_pred.shape:
        raise shape_mismatch_error(y_true, y_pred, "of the same shape", suggest_shape(y_true, y_pred))
    return y_true, y_pred


def align_one_hot(y_true: TensorLike, y_pred: TensorLike) -> tuple[Tensor, Tensor]:
    """Call `align_pair` for one-hot or soft labels, with a hint in the error for class indices."""
    y_pred = as_floating(y_pred)
    y_true = as_tensor(y_true, y_pred.dtype, y_pred.device)
    if y_true.shape != y_pred.shape:
        raise shape_mismatch_error(
            y_true,
            y_pred,
            "one-hot or soft labels of the shape of y_pred",
            "If the labels are class indices, use sparse_categorical_crossentropy.",
        )
    return y_true, y_pred


def align_class_indices(y_true: TensorLike, y_pred: TensorLike, axis: int = -1) -> tuple[Tensor, Tensor]:
    """Return class indices as int64 without the dimension `axis` of `y_pred (batch, …, classes)`.

    A dimension of size 1 instead of the classes, or at the end, is dropped. Labels of other dtypes are cast, which
    truncates fractions.
    """
    if (
        axis == -1
        and type(y_pred) is Tensor
        and type(y_true) is Tensor
        and y_true.dtype is torch.int64
        and y_true.shape == y_pred.shape[:-1]
        and y_pred.is_floating_point()
    ):
        return y_true, y_pred
    y_pred = as_floating(y_pred)
    y_true = as_tensor(y_true, device=y_pred.device).long()
    expected = list(y_pred.shape)
    if not -len(expected) <= axis < len(expected):
        raise ValueError(f"`axis` must be a dimension of y_pred. Received: {axis}, and y_pred, {describe(y_pred)}.")
    del expected[axis]
    if y_true.dim():
        check_has_vectors("The loss", y_pred, "(batch, …, classes)", "For one output, use a binary loss.")
    if y_true.dim() == y_pred.dim():
        y_true = squeeze_class_axis(y_true, axis, expected)
    if list(y_true.shape) != expected:
        raise shape_mismatch_error(
            y_true,
            y_pred,
            f"class indices of the shape of y_pred without its dimension {axis}, {tuple(expected)}",
            "If the labels are one-hot, use categorical_crossentropy.",
        )
    return y_true, y_pred


def kind_of_labels(target_shape: Sequence[int], output_shape: Sequence[int]) -> str:
    """Return whether labels and outputs of these shapes are "binary", "sparse_categorical" or "categorical".

    >>> kind_of_labels((8,), (8, 1)), kind_of_labels((8,), (8, 3)), kind_of_labels((8, 3), (8, 3))
    ('binary', 'sparse_categorical', 'categorical')
    """
    if len(output_shape) <= 1 or output_shape[-1] == 1:
        return "binary"
    if len(target_shape) < len(output_shape) or target_shape[-1] == 1:
        return "sparse_categorical"
    return "categorical"


def squeeze_class_axis(labels: Tensor, axis: int, expected: Sequence[int]) -> Tensor:
    """Drop a dimension of size 1, at `axis` or else the last one, if that leaves the `expected` shape."""
    for dimension in (axis, -1):
        squeezed = labels.squeeze(dimension)
        if list(squeezed.shape) == list(expected):
            return squeezed
    return labels


def shape_mismatch_error(y_true: Tensor, y_pred: Tensor, expected: str, way_out: str) -> ValueError:
    """Return the error for a `y_true` that does not fit `y_pred`."""
    return ValueError(
        f"y_true must be {expected}. Received: y_true, {describe(y_true)}, and y_pred, {describe(y_pred)}. {way_out}"
    )


def suggest_shape(y_true: Tensor, y_pred: Tensor) -> str:
    """Return a hint for targets whose shape differs from the outputs; one value per sample may be a class index.

    >>> suggest_shape(torch.ones(2), torch.ones(2, 3))
    'If the targets are class indices, use sparse_categorical_crossentropy; else let the model have one output unit.'
    """
    if y_true.shape == y_pred.shape[:-1] or y_true.shape == (*y_pred.shape[:-1], 1):
        return (
            "If the targets are class indices, use sparse_categorical_crossentropy; else let the model have one output "
            "unit."
        )
    return "Reshape one of them to the shape of the other."


def batch_mean(values: Tensor) -> Tensor:
    """Return the mean of all values, or 0 if there are none."""
    return values.mean() if values.numel() else values.sum()
