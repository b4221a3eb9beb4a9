"""`LossTraits`, the outputs and labels that a loss expects, and checks of the first batch of a training run."""

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from torchfit._types import Nested
from torchfit._utils import tree
from torchfit._utils.errors import warn
from torchfit.losses import probabilistic, regression
from torchfit.losses.base import Loss
from torchfit.losses.functional_loss import LossFunctionWrapper
from torchfit.losses.identifiers import resolve_loss
from torchfit.losses.probabilistic import (
    BinaryCrossentropy,
    BinaryFocalCrossentropy,
    CategoricalGeneralizedCrossEntropy,
    Crossentropy,
    SparseCategoricalCrossentropy,
)
from torchfit.losses.torch_losses import TorchLoss

Kind = Literal["binary", "categorical", "sparse", "other"]


@dataclass(frozen=True)
class LossTraits:
    """The kind of outputs and labels that a loss expects.

    Attributes:
        kind: "binary" for an independent decision per output, "categorical" for one of several classes with one-hot
            labels, "sparse" for class indices, "other" for numbers; `None` if the loss is unknown or missing.
        axis: The dimension of the classes in the outputs `(batch, …)`.
        from_logits: Whether outputs are logits, or scores that are positive for a positive label, not probabilities.
        ignore_class: The class index whose samples are ignored.
    """

    kind: Kind | None = None
    axis: int = -1
    from_logits: bool = False
    ignore_class: int | None = None

    @property
    def is_multiclass(self) -> bool:
        """Whether the outputs are scores of exclusive classes."""
        return self.kind in ("categorical", "sparse")


_KINDS: dict[type[Loss], Kind] = {
    probabilistic.BinaryCrossentropy: "binary",
    probabilistic.CategoricalCrossentropy: "categorical",
    probabilistic.SparseCategoricalCrossentropy: "sparse",
    probabilistic.BinaryFocalCrossentropy: "binary",
    probabilistic.CategoricalFocalCrossentropy: "categorical",
    probabilistic.CategoricalGeneralizedCrossEntropy: "sparse",
    regression.Hinge: "binary",
    regression.SquaredHinge: "binary",
    regression.CategoricalHinge: "categorical",
}
_MARGINS = (regression.Hinge, regression.SquaredHinge, regression.CategoricalHinge)
_TORCH_KINDS: dict[str, Kind] = {
    "binary_cross_entropy": "binary",
    "binary_cross_entropy_with_logits": "binary",
    "cross_entropy": "sparse",
    "multi_margin_loss": "sparse",
    "multilabel_soft_margin_loss": "binary",
    "nll_loss": "sparse",
    "soft_margin_loss": "binary",
}


def loss_traits(loss: object) -> LossTraits:
    """Return the traits of anything that `compile(loss=)` accepts.

    >>> loss_traits("binary_crossentropy")
    LossTraits(kind='binary', axis=-1, from_logits=False, ignore_class=None)
    >>> import torch
    >>> loss_traits(torch.nn.CrossEntropyLoss(ignore_index=255))
    LossTraits(kind='sparse', axis=1, from_logits=True, ignore_class=255)
    """
    loss = resolve_loss(loss)
    if isinstance(loss, TorchLoss):
        return _torch_traits(loss)
    if isinstance(loss, LossFunctionWrapper):
        return _function_traits(loss)
    kind = next((kind for known, kind in _KINDS.items() if isinstance(loss, known)), None)
    if kind is None and type(loss).__module__.startswith("torchfit."):
        return LossTraits("other")
    axis, ignored = getattr(loss, "axis", None), getattr(loss, "ignore_class", None)
    return LossTraits(
        kind or _kind_by_name(loss),
        axis if kind in ("categorical", "sparse") and isinstance(axis, int) else -1,
        isinstance(loss, _MARGINS) or bool(getattr(loss, "from_logits", False)),
        ignored if isinstance(ignored, int) else None,
    )


def _torch_traits(loss: TorchLoss) -> LossTraits:
    kind = _TORCH_KINDS.get(loss.torch_name)
    if kind is None:
        return LossTraits("other" if loss.torch_name else None)
    from_logits = loss.torch_name != "binary_cross_entropy"
    return LossTraits(kind, 1 if kind == "sparse" else -1, from_logits, loss.ignore_index)


def _function_traits(loss: LossFunctionWrapper) -> LossTraits:
    """Return the traits of a function of this package with its arguments."""
    function: Any = getattr(loss.fn, "function", loss.fn)  # a module that takes the predictions first
    given = dict(loss.fn_kwargs)
    if isinstance(function, functools.partial):
        given.update(function.keywords)
        function = function.func
    if not str(getattr(function, "__module__", "")).startswith("torchfit."):
        return LossTraits(_kind_by_name(loss), from_logits=bool(given.get("from_logits", False)))
    traits = loss_traits(function)
    names = ("axis", "from_logits", "ignore_class") if traits.is_multiclass else ("from_logits",)
    return replace(traits, **{name: given[name] for name in names if name in given})


def _kind_by_name(loss: object) -> Kind | None:
    """Return the kind that the name of a user-defined loss suggests."""
    return "binary" if str(getattr(loss, "name", "")).startswith("binary") else None


_TOLERANCE = 1e-3
_LOW_PRECISION_TOLERANCE = 1e-2  # half-precision probabilities sum to 1 with about this error
_SIGMOIDS = ("SigmoidBackward", "SoftmaxBackward")


def check_targets(loss: Loss, y_true: Nested, y_pred: Nested) -> None:
    """Check for mistakes that shapes do not reveal, before they lead to a wrong number or stop a GPU.

    This reads values, which synchronizes with the device: call it once, not at every step.

    Args:
        loss: A `Loss`.
        y_true: Its targets `(batch, …)`.
        y_pred: The outputs `(batch, …)`.

    Raises:
        ValueError: If class indices are missing or not integers, or out of range of the outputs.

    Warns of targets outside [0, 1] if the loss expects that range, of a single class, and of probabilities instead of
    logits.

    >>> check_targets(SparseCategoricalCrossentropy(), torch.tensor([3]), torch.tensor([[0.5, 0.5]]))
    Traceback (most recent call last):
    ValueError: `y` holds a class index that the outputs have no class for: `y` goes from 3 to 3, ...
    """
    if not isinstance(y_true, Tensor) or not isinstance(y_pred, Tensor) or not y_true.numel() or not y_pred.numel():
        return
    if isinstance(loss, Crossentropy):
        loss = loss.select(y_true, y_pred)
    y_pred = y_pred.detach() if y_pred.grad_fn is None else y_pred
    classes = _class_axis(loss, y_true, y_pred)
    if classes is not None:
        axis, ignored = classes
        _check_class_indices(y_true.detach(), y_pred.shape[axis], ignored)
    for problem in _find_mistakes(loss, y_true.detach(), y_pred):
        warn(problem)


def has_index_targets(loss: Loss | None) -> bool:
    """Return whether the integer targets of a loss are class indices, as those of a sparse crossentropy."""
    if isinstance(loss, TorchLoss):
        return loss.has_index_targets
    return getattr(loss, "name", "").startswith("sparse_") or type(loss).__name__.startswith("Sparse")


def index_targets(losses: Nested) -> dict[str | None, bool]:
    """Return `has_index_targets` by output, `None` for the only one; losses by position are left out."""
    by_output = losses if isinstance(losses, Mapping) else {None: losses}
    return {name: has_index_targets(loss) for name, loss in by_output.items() if tree.is_leaf(loss)}


def _class_axis(loss: Loss, y_true: Tensor, y_pred: Tensor) -> tuple[int, int | None] | None:
    """Return the axis of the classes and the ignored class, if the targets are class indices."""
    if isinstance(loss, (SparseCategoricalCrossentropy, CategoricalGeneralizedCrossEntropy)):
        found: tuple[int, int | None] = getattr(loss, "axis", -1), getattr(loss, "ignore_class", None)
    elif isinstance(loss, TorchLoss) and loss.expects_class_indices(y_true, y_pred):
        found = min(1, y_pred.ndim - 1), loss.ignore_index
    else:
        return None
    return found if y_true.numel() * y_pred.shape[found[0]] == y_pred.numel() else None


def _check_class_indices(labels: Tensor, classes: int, ignored: int | None) -> None:
    counted = labels if ignored is None else labels.masked_fill(labels == ignored, 0)
    lowest, highest = counted.aminmax() if counted.dtype is not torch.bool else (counted, counted)
    if labels.is_floating_point():
        values = torch.stack([lowest, highest, (counted - counted.round()).abs().amax()]).tolist()
        if any(math.isnan(value) for value in values):
            raise ValueError(
                "`y` must hold class indices for this loss, but some are missing (NaN). Leave these samples out, or "
                "give them a label for `ignore_class=` (torch: `ignore_index=`)."
            )
        if values[2] > 0:
            raise ValueError(
                "`y` must hold class indices for this loss, but not all are whole numbers. Use a loss for regression, "
                "such as 'mse', or one for soft labels, 'categorical_crossentropy', or pass whole numbers."
            )
        low, high = int(values[0]), int(values[1])
    else:
        low, high = (0, 1) if labels.dtype is torch.bool else torch.stack([lowest, highest]).tolist()
    if low < 0 or high >= classes:
        raise ValueError(
            f"`y` holds a class index that the outputs have no class for: `y` goes from {low} to {high}, and the "
            f"outputs have {_classes(classes)}. Renumber the classes from 0, give the "
            "last layer more units, or leave a number out of the loss with `ignore_class=` (torch: `ignore_index=`)."
        )


def _classes(number: int) -> str:
    return "one class, number 0" if number == 1 else f"{number} classes, numbered from 0 to {number - 1}"


def _find_mistakes(loss: Loss, y_true: Tensor, y_pred: Tensor) -> Iterator[str]:
    kind = _output_kind(loss)
    if kind == "single" and _exceeds_unit_interval(y_true):
        yield (
            f"The loss {loss.name} takes targets from 0 to 1, but `y` holds others. Rescale them; for class indices "
            "use 'sparse_categorical_crossentropy' and an output for each class."
        )
    axis = 1 if isinstance(loss, TorchLoss) and y_pred.ndim > 1 else getattr(loss, "axis", -1)
    if kind == "distribution" and y_pred.ndim and y_pred.shape[axis] == 1:
        yield (
            f"The loss {loss.name} compares classes, but the outputs have one, so that it is constant. Use "
            "'binary_crossentropy', or an output for each class."
        )
    elif getattr(loss, "from_logits", False) and _are_probabilities(y_pred, kind, axis):
        way_out = "Remove it" if isinstance(loss, TorchLoss) else "Remove it, or use from_logits=False"
        yield (
            f"The loss {loss.name} expects logits, but the model outputs probabilities: it seems to end with a "
            f"sigmoid or softmax, which this loss applies itself. {way_out}."
        )


def _output_kind(loss: Loss) -> str | None:
    if isinstance(loss, (BinaryCrossentropy, BinaryFocalCrossentropy)):
        return "single"
    if isinstance(loss, TorchLoss):
        return loss.expected_output
    return getattr(loss, "expects_probabilities", None) if hasattr(loss, "from_logits") else None


def _exceeds_unit_interval(values: Tensor) -> bool:
    return bool(((values < 0) | (values > 1)).any()) if values.dtype is not torch.bool else False


def _are_probabilities(y_pred: Tensor, kind: str | None, axis: int) -> bool:
    """Return whether outputs are probabilities, judging by the operation that computed them or by sums of rows."""
    if y_pred.grad_fn is not None and y_pred.grad_fn.name().startswith(_SIGMOIDS):
        return True
    if kind != "distribution":
        return False
    values = y_pred.detach().float()
    return not _exceeds_unit_interval(values) and bool(((values.sum(axis) - 1).abs() < _TOLERANCE).all())


def find_probability_problem(loss: Loss, y_pred: Nested) -> str | None:
    """Return a line with the fix if `loss` expects probabilities and `y_pred (batch, …)` are not, else `None`.

    Probabilities lie in [0, 1], and those of exclusive classes sum to 1 along the loss's `axis`. NaN is no
    evidence. This reads the values, which synchronizes with the device: call it once, not at every step.

    >>> find_probability_problem(BinaryCrossentropy(), torch.tensor([[0.5], [0.9]]))
    >>> print(find_probability_problem(BinaryCrossentropy(), torch.tensor([[0.5], [3.0]])))
    The loss binary_crossentropy expects probabilities, but the model outputs values outside [0, 1]. \
Use BinaryCrossentropy(from_logits=True), or end the model with a sigmoid.
    """
    if isinstance(loss, Crossentropy):
        loss = loss.select(y_pred, y_pred)
    expected = getattr(loss, "expects_probabilities", None)
    if expected is None or getattr(loss, "from_logits", False) or not isinstance(y_pred, Tensor):
        return None
    finding = _describe_values(y_pred.detach().float(), expected, getattr(loss, "axis", -1))
    if finding is None:
        return None
    end = "a sigmoid" if expected == "single" else "a softmax"
    return (
        f"The loss {loss.name} expects probabilities, but the model outputs {finding}. "
        f"{_suggest_loss(loss)} the model with {end}."
    )


def _describe_values(y_pred: Tensor, expected: str, axis: int) -> str | None:
    if bool(((y_pred < 0) | (y_pred > 1)).any()):
        return "values outside [0, 1]"
    if expected == "distribution" and bool(((y_pred.sum(axis) - 1).abs() > _LOW_PRECISION_TOLERANCE).any()):
        return "rows that do not sum to 1"
    return None


def _suggest_loss(loss: Loss) -> str:
    return f"Use {type(loss).__name__}(from_logits=True), or end" if hasattr(loss, "from_logits") else "End"
