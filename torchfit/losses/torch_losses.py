"""The losses of `torch.nn` and `torch.nn.functional` as `Loss` objects.

They are called in torch's order, `(y_pred, y_true)`, with targets of the dtype and shape that they need. Their
own reduction and class weights are honoured; sample weights apply to the values that they give unreduced.
"""

import copy
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchfit._utils.registry import find_custom
from torchfit._utils.tensors import as_tensor
from torchfit.functional.alignment import batch_mean, shape_mismatch_error
from torchfit.losses.base import Loss
from torchfit.losses.functional_loss import function_name
from torchfit.losses.reduction import align_weight, safe_divide

TorchFunction = Callable[..., Tensor]

_CLASS_INDEX_LOSSES = {"cross_entropy", "nll_loss", "multi_margin_loss"}
_CLASS_SET_LOSSES = {"multilabel_margin_loss"}
_FUNCTION_OF_MODULE: dict[type, str] = {
    nn.CrossEntropyLoss: "cross_entropy",
    nn.NLLLoss: "nll_loss",
    nn.MultiMarginLoss: "multi_margin_loss",
    nn.MultiLabelMarginLoss: "multilabel_margin_loss",
    nn.BCELoss: "binary_cross_entropy",
    nn.BCEWithLogitsLoss: "binary_cross_entropy_with_logits",
}


class TorchLoss(Loss):
    """A `torch.nn` loss module, or a loss function of `torch.nn.functional`, as a `Loss`.

    The dtype of `y_pred` is left as it is. The name is the class or function name in snake case.

    >>> import torch
    >>> loss = TorchLoss(torch.nn.CrossEntropyLoss())
    >>> loss.name, loss([1.0], torch.tensor([[0.0, 0.0]])).item()  # doctest: +ELLIPSIS
    ('cross_entropy_loss', 0.6931...)
    """

    def __init__(self, fn: Any, name: str | None = None):
        _check_two_arguments(fn)
        super().__init__(name or function_name(fn))
        self.fn = fn
        self._function_name = _get_function_name(fn)
        self._unreduced_fn = _unreduced(fn)
        self._torch_reduction = str(_argument(fn, "reduction", "mean"))
        self._holds_weights = isinstance(fn, nn.Module) and any(True for _ in fn.buffers())
        if self._function_name == "binary_cross_entropy":
            self.expects_probabilities = "single"
        if self._function_name in ("cross_entropy", "binary_cross_entropy_with_logits"):
            self.from_logits = True

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Tensor:
        """Return the reduced loss; see `Loss`."""
        mask = getattr(y_pred, "_keras_mask", None)
        if type(y_pred) is not Tensor:
            y_pred = as_tensor(y_pred)
        if self._holds_weights:
            self._to_device(y_pred.device)
        y_true = self._as_targets(y_true, y_pred)
        if mask is not None or sample_weight is not None:
            return self._weighted(y_true, y_pred, sample_weight, mask)
        result: Tensor = self.fn(y_pred, y_true)
        return batch_mean(result) if self._torch_reduction == "none" else result

    def call(self, y_true: Any, y_pred: Any) -> Tensor:
        """Return the unreduced values."""
        return self._unreduced_fn(y_pred, y_true)

    def expects_class_indices(self, y_true: Tensor, y_pred: Tensor) -> bool:
        """Return whether these targets are class indices, rather than one-hot or soft labels or values."""
        return self._function_name in _CLASS_INDEX_LOSSES and not _is_distribution(y_true, y_pred)

    @property
    def ignore_index(self) -> int | None:
        """The class index that does not count."""
        ignored: int | None = _argument(self.fn, "ignore_index", -100)
        return ignored if self._function_name in ("cross_entropy", "nll_loss") else None

    @property
    def expected_output(self) -> str | None:
        """What is compared: a "distribution" over classes, "single" probabilities, or neither."""
        if self._function_name == "cross_entropy":
            return "distribution"
        return "single" if self._function_name.startswith("binary_cross_entropy") else None

    def get_config(self) -> dict[str, Any]:
        """Return the torch loss as plain data: its name and its arguments, tensors as lists."""
        inner = getattr(self.fn, "func", self.fn)
        name = type(inner).__name__ if isinstance(inner, nn.Module) else inner.__name__
        return {"name": self.name, "fn": name, "arguments": _arguments_of(self.fn)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "TorchLoss":
        """Build the loss from what `get_config` returned, looking its name up in torch and among custom objects."""
        name = config["fn"]
        found = find_custom(name) or getattr(nn, name, None) or getattr(F, name, None)
        if found is None:
            raise ValueError(f"Unknown loss: {name!r}. Pass it in custom_objects={{{name!r}: ...}}.")
        given = {key: torch.tensor(v) if isinstance(v, list) else v for key, v in config["arguments"].items()}
        return cls(found(**given) if isinstance(found, type) else functools.partial(found, **given), config["name"])

    def _as_targets(self, targets: Any, y_pred: Tensor) -> Tensor:
        y_true: Tensor = as_tensor(targets, device=y_pred.device)
        if self._function_name in _CLASS_SET_LOSSES:
            return y_true.long()
        if self._function_name in _CLASS_INDEX_LOSSES and not _is_distribution(y_true, y_pred):
            return _squeeze_class_indices(y_true, y_pred)
        if y_true.dtype is not y_pred.dtype:
            y_true = y_true.to(y_pred.dtype)
        return y_true if y_true.shape == y_pred.shape else _align_shape(y_true, y_pred)

    def _to_device(self, device: torch.device) -> None:
        """Move the class weights to where the predictions are."""
        if next(self.fn.buffers()).device != device:
            self.fn.to(device)

    def _weighted(self, y_true: Tensor, y_pred: Tensor, sample_weight: Any, mask: Any) -> Tensor:
        values = self.call(y_true, y_pred)
        weight = torch.ones((), dtype=values.dtype, device=values.device)
        for name, given in (("sample_weight", sample_weight), ("the mask of y_pred", mask)):
            if given is not None:
                given = as_tensor(given, values.dtype, values.device)
                weight = weight * align_weight(given, values, name)[1]
        total = (values * weight).sum()
        if self._torch_reduction == "sum":
            return total
        if self._torch_reduction == "batchmean":
            return total / y_pred.shape[0]
        counted = torch.ones_like(values) if mask is None else as_tensor(mask, values.dtype, values.device)
        counted = align_weight(counted, values, "mask")[1]
        return safe_divide(total, (self._value_weights(y_true, y_pred, values) * counted).sum())

    def _value_weights(self, y_true: Tensor, y_pred: Tensor, values: Tensor) -> Tensor:
        """Return how much each value counts in torch's mean: its class weight, 0 if ignored, usually 1."""
        if self._function_name not in ("cross_entropy", "nll_loss") or _is_distribution(y_true, y_pred):
            return torch.ones_like(values)
        weight, ignored = _argument(self.fn, "weight", None), _argument(self.fn, "ignore_index", -100)
        return F.nll_loss(torch.full_like(y_pred, -1), y_true, weight, ignore_index=ignored, reduction="none")


def _unreduced(fn: Any) -> TorchFunction:
    """Return the same loss, sharing its buffers, without the reduction."""
    if not isinstance(fn, nn.Module):
        return functools.partial(fn, reduction="none")
    module = copy.copy(fn)
    module.__dict__["reduction"] = "none"
    return module


def is_torch_loss(identifier: Any) -> bool:
    """Return whether this is a loss module of `torch.nn`, or a function of `torch.nn.functional`."""
    if isinstance(identifier, nn.modules.loss._Loss):
        return True
    inner = getattr(identifier, "func", identifier)
    return getattr(inner, "__module__", None) == F.__name__ and not isinstance(inner, type)


def _get_function_name(fn: Any) -> str:
    """Return the name of the function of `torch.nn.functional` that this amounts to."""
    named = (kind for known, kind in _FUNCTION_OF_MODULE.items() if isinstance(fn, known))
    return next(named, "") if isinstance(fn, nn.Module) else function_name(fn)


def _argument(fn: Any, name: str, default: Any) -> Any:
    """Return what a module or a partial function was given for an argument."""
    return getattr(fn, name, default) if isinstance(fn, nn.Module) else getattr(fn, "keywords", {}).get(name, default)


def _arguments_of(fn: Any) -> dict[str, Any]:
    """Return what a module was built with, or a partial function was given, as plain data."""
    given = dict(getattr(fn, "keywords", {}))
    if isinstance(fn, nn.Module):
        names = inspect.signature(type(fn)).parameters
        given = {name: getattr(fn, name) for name in names if hasattr(fn, name)}
    return {name: value.tolist() if isinstance(value, Tensor) else value for name, value in given.items()}


def _check_two_arguments(fn: Any) -> None:
    """Refuse the losses of torch that need more than predictions and targets."""
    inner = fn.forward if isinstance(fn, nn.Module) else fn
    parameters = inspect.signature(inner).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    if len(needed) > 2:
        raise ValueError(
            f"loss: {function_name(fn)} needs {', '.join(needed)}, but a loss is given y_pred and y_true only. "
            "Write a function (y_true, y_pred) that calls it with the rest."
        )


def _is_distribution(y_true: Tensor, y_pred: Tensor) -> bool:
    """Return whether labels are soft or one-hot, rather than class indices."""
    return y_true.shape == y_pred.shape and y_true.is_floating_point()


def _squeeze_class_indices(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Return labels as int64 without the dimension of the classes, which torch puts second."""
    expected = y_pred.shape[:1] + y_pred.shape[2:] if y_pred.dim() > 1 else y_pred.shape[:0]
    if y_true.dim() == len(expected) + 1 and y_true.shape[-1] == 1:
        y_true = y_true.squeeze(-1)
    if y_true.shape != expected:
        raise shape_mismatch_error(
            y_true, y_pred, f"class indices of shape {tuple(expected)}", "torch puts the classes second."
        )
    return y_true if y_true.dtype is torch.int64 else y_true.long()


def _align_shape(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Return targets of the shape of the predictions, which keep theirs."""
    given = y_true
    surplus = y_true.dim() - y_pred.dim()
    if surplus == 1 and y_true.shape[-1] == 1:
        y_true = y_true.squeeze(-1)
    elif surplus == -1 and y_pred.shape[-1] == 1:
        y_true = y_true.unsqueeze(-1)
    if y_true.shape != y_pred.shape:
        raise shape_mismatch_error(given, y_pred, "of the same shape", "Reshape one of them to the shape of the other.")
    return y_true
