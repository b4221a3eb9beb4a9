"""`TorchLoss`, which wraps losses of `torch.nn` and `torch.nn.functional`.

They are called in torch's order, `(y_pred, y_true)`, with targets of the dtype and shape that they expect. Their own
reduction and class weights are respected; sample weights are applied to the unreduced values.
"""

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchfit._types import Config, Nested, TensorLike
from torchfit._utils.compat import MEAN, SUM, ModuleTables, TorchLossModule, nll_loss
from torchfit._utils.registry import find_custom
from torchfit._utils.tensors import as_tensor, at_least_float32
from torchfit.functional.alignment import (
    as_mask,
    batch_mean,
    check_has_vectors,
    fit_mask,
    shape_mismatch_error,
    squeeze_class_axis,
    suggest_shape,
)
from torchfit.losses.base import Loss, Reduced, count_rows, reduce_weighted, safe_divide
from torchfit.losses.functional_loss import function_name

TorchFunction = Callable[..., Tensor]

_CLASS_INDEX_LOSSES = {"cross_entropy", "nll_loss", "multi_margin_loss"}
_LABEL_COUNTING_LOSSES = {"cross_entropy", "nll_loss"}
_CLASS_SET_LOSSES = {"multilabel_margin_loss"}
_ROW_LOSSES = {"multi_margin_loss", "multilabel_margin_loss", "multilabel_soft_margin_loss"}
_ELEMENTWISE_LOSSES = {
    "l1_loss",
    "mse_loss",
    "smooth_l1_loss",
    "huber_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "kl_div",
    "poisson_nll_loss",
    "soft_margin_loss",
    "hinge_embedding_loss",
}
_SETTINGS = {
    *("weight", "pos_weight", "ignore_index", "label_smoothing", "margin", "p", "beta", "delta"),
    *("log_input", "full", "eps", "log_target"),
}
_FUNCTION_OF_MODULE: dict[type[nn.Module], str] = {
    nn.CrossEntropyLoss: "cross_entropy",
    nn.NLLLoss: "nll_loss",
    nn.MultiMarginLoss: "multi_margin_loss",
    nn.MultiLabelMarginLoss: "multilabel_margin_loss",
    nn.MultiLabelSoftMarginLoss: "multilabel_soft_margin_loss",
    nn.L1Loss: "l1_loss",
    nn.MSELoss: "mse_loss",
    nn.SmoothL1Loss: "smooth_l1_loss",
    nn.HuberLoss: "huber_loss",
    nn.BCELoss: "binary_cross_entropy",
    nn.BCEWithLogitsLoss: "binary_cross_entropy_with_logits",
    nn.KLDivLoss: "kl_div",
    nn.PoissonNLLLoss: "poisson_nll_loss",
    nn.SoftMarginLoss: "soft_margin_loss",
    nn.HingeEmbeddingLoss: "hinge_embedding_loss",
}

TORCH_NAMES: dict[str, object] = {
    **{module.__name__: module for module in _FUNCTION_OF_MODULE},
    **{name: getattr(F, name) for name in _FUNCTION_OF_MODULE.values()},
    "bce_with_logits": F.binary_cross_entropy_with_logits,
    "l1": F.l1_loss,
    "l2": F.mse_loss,
    "nll": F.nll_loss,
    "smooth_l1": F.smooth_l1_loss,
}
"""The losses of torch by their names in torch and by the usual short names."""


class TorchLoss(Loss):
    """A `torch.nn` loss module, or a loss function of `torch.nn.functional`, as a `Loss`.

    Predictions and class weights in float16 and bfloat16 are converted to float32, as `torch.autocast` does. The
    default name is the class or function name in snake case. Means have the same divisor as in torch: the number of
    values, of rows (`"batchmean"`), or of labels that are not ignored, weighted by class. Sample weights multiply the
    values, and do not change the divisor. Settings of a module, such as its class weights or `label_smoothing`, may
    change between two batches.

    >>> import torch
    >>> loss = TorchLoss(torch.nn.CrossEntropyLoss())
    >>> loss.name, loss([1.0], torch.tensor([[0.0, 0.0]])).item()  # doctest: +ELLIPSIS
    ('cross_entropy_loss', 0.6931...)
    """

    def __init__(self, fn: Any, name: str | None = None):
        _check_two_arguments(fn)
        self._torch_reduction = str(_argument(fn, "reduction", "mean"))
        super().__init__(name or function_name(fn), "sum" if self._torch_reduction == "sum" else "sum_over_batch_size")
        self.fn = fn
        self._function_name = _get_function_name(fn)
        self._unreduced_fn = _without_reduction(fn)
        self._settings = _settings_of(fn)
        self._holds_weights = isinstance(fn, nn.Module) and any(True for _ in fn.buffers())
        self._own_buffers = ModuleTables(fn).buffers if isinstance(fn, nn.Module) else {}
        is_known = self._function_name in {*_LABEL_COUNTING_LOSSES, *_ROW_LOSSES, *_ELEMENTWISE_LOSSES}
        self.is_user_defined = _overrides_forward(fn)
        self.is_separable = is_known and not self.is_user_defined
        self._counts_labels = self.is_separable and self._function_name in _LABEL_COUNTING_LOSSES
        if self._function_name == "binary_cross_entropy":
            self.expects_probabilities = "single"
        if self._function_name in ("cross_entropy", "binary_cross_entropy_with_logits"):
            self.from_logits = True

    def call(self, y_true: Nested, y_pred: Nested) -> Tensor:
        """Return the unreduced values."""
        fn = self.fn
        if self._settings is not None:
            settings = {name: _in_float32(getattr(fn, name)) for name in self._settings}
            values: Tensor = getattr(F, self._function_name)(y_pred, y_true, **settings, reduction="none")
            return values
        if isinstance(self._unreduced_fn, nn.Module) and not torch.compiler.is_compiling():
            vars(self._unreduced_fn).update({**vars(fn), "reduction": "none"})
        return self._unreduced_fn(y_pred, y_true)

    def expects_class_indices(self, y_true: Tensor, y_pred: Tensor) -> bool:
        """Return whether these targets are class indices, rather than one-hot or soft labels or values."""
        return self._function_name in _CLASS_INDEX_LOSSES and not _is_distribution(y_true, y_pred)

    @property
    def torch_name(self) -> str:
        """The name of the corresponding function of `torch.nn.functional`; empty for other modules."""
        return self._function_name

    @property
    def has_index_targets(self) -> bool:
        """Whether integer targets are class indices."""
        return self._function_name in _CLASS_INDEX_LOSSES

    @property
    def ignore_index(self) -> int | None:
        """The class index that is ignored, or `None`."""
        return self._ignore_index if self._function_name in _LABEL_COUNTING_LOSSES else None

    @property
    def _ignore_index(self) -> int:
        return int(_argument(self.fn, "ignore_index", -100))

    @property
    def expected_output(self) -> str | None:
        """What the outputs must be: a "distribution" over classes, "single" probabilities, or `None`."""
        if self._function_name == "cross_entropy":
            return "distribution"
        return "single" if self._function_name.startswith("binary_cross_entropy") else None

    def get_config(self) -> Config:
        """Return the torch loss as plain data: its name and its arguments, tensors as lists."""
        inner = getattr(self.fn, "func", self.fn)
        name = type(inner).__name__ if isinstance(inner, nn.Module) else inner.__name__
        return {"name": self.name, "fn": name, "arguments": _arguments_of(self.fn)}

    @classmethod
    def from_config(cls, config: Config) -> "TorchLoss":
        """Build the loss from the result of `get_config`, looking up its name in torch and among custom objects."""
        name = config["fn"]
        found = find_custom(name) or getattr(nn, name, None) or getattr(F, name, None)
        if found is None:
            raise ValueError(f"Unknown loss: {name!r}. Pass it in custom_objects={{{name!r}: ...}}.")
        given = {key: torch.tensor(v) if isinstance(v, list) else v for key, v in config["arguments"].items()}
        return cls(found(**given) if isinstance(found, type) else functools.partial(found, **given), config["name"])

    def _match_targets(self, targets: Nested, y_pred: Tensor) -> Tensor:
        is_there = type(targets) is Tensor and targets.device == y_pred.device
        y_true: Tensor = targets if is_there else as_tensor(targets, device=y_pred.device)
        if y_pred.dim() < 2 and y_true.dim() and self._function_name in _LABEL_COUNTING_LOSSES:
            way_out = "For one output and labels of 0 and 1, use BCEWithLogitsLoss."
            check_has_vectors(self.name, y_pred, "(batch, classes, …)", way_out)
        if self.is_user_defined:
            return y_true.to(y_pred.dtype) if y_true.is_floating_point() else y_true
        if self._function_name in _CLASS_SET_LOSSES:
            return y_true.long()
        if self._function_name in _CLASS_INDEX_LOSSES and not _is_distribution(y_true, y_pred):
            return _squeeze_class_indices(y_true, y_pred)
        if y_true.dtype is not y_pred.dtype:
            y_true = as_tensor(y_true, y_pred.dtype)
        return y_true if y_true.shape == y_pred.shape else _align_shape(y_true, y_pred)

    def _to_device(self, device: torch.device) -> None:
        """Move the class weights to the device of the predictions."""
        if any(buffer.device != device for buffer in self.fn.buffers()):
            self.fn.to(device)

    def _compute(self, y_true: Nested, y_pred: Nested, sample_weight: TensorLike) -> Reduced:
        mask = getattr(y_pred, "_keras_mask", None)
        if type(y_pred) is not Tensor:
            y_pred = as_tensor(y_pred)
        if y_pred.dtype.itemsize < 4:
            y_pred = at_least_float32(y_pred)
        if self._holds_weights or self._own_buffers.get("weight") is not None:
            self._to_device(y_pred.device)
        y_true = self._match_targets(y_true, y_pred)
        if mask is not None:
            mask = as_mask(mask, y_pred.device)
            y_true, y_pred = self._without_masked(y_true, y_pred, mask)
        if self._torch_reduction == "mean" and self._counts_labels and not y_true.is_floating_point():
            return self._mean_over_labels(y_true, y_pred, sample_weight, mask)
        if mask is not None or sample_weight is not None or 0 in y_pred.shape:
            return self._weighted(y_true, y_pred, sample_weight, mask)
        loss: Tensor = self.fn(y_pred, y_true)
        if self._torch_reduction == "none":
            loss = batch_mean(loss)
        return loss, self._denominator(y_pred)

    def _denominator(self, y_pred: Tensor) -> float:
        """Return torch's divisor without weights and ignored labels."""
        if self.is_sum:
            return 1.0
        if self._torch_reduction == "batchmean" or not self.is_separable:
            return float(count_rows(y_pred) or 1)
        per_value = y_pred.shape[min(1, y_pred.dim() - 1)] if y_pred.dim() and not self._is_elementwise else 1
        return y_pred.numel() / per_value

    @property
    def _is_elementwise(self) -> bool:
        return self._function_name in _ELEMENTWISE_LOSSES

    def _without_masked(self, y_true: Nested, y_pred: Tensor, mask: Tensor) -> tuple[Nested, Tensor]:
        """Replace masked labels too, which may be out of range; torch's class dimension is the second."""
        fitted = fit_mask(mask, y_true) if self.expects_class_indices(y_true, y_pred) else None
        if fitted is not None:
            ignored = self.ignore_index
            y_true = torch.where(fitted, y_true, 0 if ignored is None else ignored)
        of_places = self._function_name in _LABEL_COUNTING_LOSSES and mask.dim() > 1 and y_pred.dim() > 2
        return super()._without_masked(y_true, y_pred, mask.unsqueeze(1) if of_places else mask)

    def _mean_over_labels(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: TensorLike, mask: Tensor | None
    ) -> Reduced:
        """Return the mean over the labels that are not ignored, weighted by class.

        If all labels are ignored, it is NaN as in torch, with gradients of 0; if their weights are 0, it is 0.
        """
        fn = self.fn
        given = vars(fn) if isinstance(fn, nn.Module) else getattr(fn, "keywords", {})  # Faster than attributes.
        is_smoothed = given.get("label_smoothing", 0.0) != 0.0
        if mask is None and sample_weight is None and not is_smoothed:
            class_weight = self._own_buffers.get("weight", given.get("weight"))
            ignored: int = given.get("ignore_index", -100)
            is_logits = self._function_name == "cross_entropy"
            log_probs = y_pred.log_softmax(min(1, y_pred.dim() - 1)) if is_logits else y_pred
            if class_weight is None:
                return nll_loss(log_probs, y_true, None, MEAN, ignored)
            total, count = nll_loss(log_probs, y_true, at_least_float32(class_weight), SUM, ignored)
            return safe_divide(total, count), count
        total, _ = reduce_weighted(self.call(y_true, y_pred), sample_weight, (mask,), "sum")
        count, _ = reduce_weighted(self._weights_of_labels(y_true, y_pred), None, (mask,), "sum")
        return safe_divide(total, count), count

    def _weights_of_labels(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the weight of each label in torch's mean: its class weight or 1, and 0 if it is ignored."""
        class_weight = _argument(self.fn, "weight", None)
        is_valid: Tensor = y_true != self._ignore_index
        if class_weight is None:
            return is_valid.to(y_pred.dtype)
        return torch.where(is_valid, class_weight.to(y_pred.dtype)[torch.where(is_valid, y_true, 0)], 0)

    def _weighted(self, y_true: Tensor, y_pred: Tensor, sample_weight: TensorLike, mask: TensorLike) -> Reduced:
        values = self.call(y_true, y_pred)
        if self._is_of_batch(values, y_true):
            return self._reduce_batch_value(values, y_true, sample_weight)
        if self._torch_reduction != "batchmean":
            return reduce_weighted(values, sample_weight, (mask,), self.reduction)
        total, _ = reduce_weighted(values, sample_weight, (mask,), "sum")
        if mask is None:
            return total / max(len(y_pred), 1), float(len(y_pred))
        rows = mask.reshape(len(mask), -1).any(1).sum(dtype=y_pred.dtype)
        return safe_divide(total, rows), rows


def _without_reduction(fn: TorchFunction) -> TorchFunction:
    """Return the same loss, sharing its buffers, without the reduction."""
    if not isinstance(fn, nn.Module):
        return functools.partial(fn, reduction="none")
    module = copy.copy(fn)
    module.__dict__["reduction"] = "none"
    return module


def _settings_of(fn: TorchFunction) -> list[str] | None:
    """Return the names of the settings of a loss module that calls a function of torch with them, else `None`."""
    name = _get_function_name(fn)
    if not isinstance(fn, nn.Module) or not name or _overrides_forward(fn):
        return None
    return [name for name in inspect.signature(getattr(F, name)).parameters if name in _SETTINGS and hasattr(fn, name)]


def _in_float32(setting: Any) -> Any:
    return at_least_float32(setting) if isinstance(setting, Tensor) else setting


def is_torch_loss(identifier: object) -> bool:
    """Return whether this is a loss module of `torch.nn`, or a function of `torch.nn.functional`."""
    if isinstance(identifier, TorchLossModule):
        return True
    inner = getattr(identifier, "func", identifier)
    return getattr(inner, "__module__", None) == F.__name__ and not isinstance(inner, type)


def _get_function_name(fn: object) -> str:
    """Return the name of the corresponding function of `torch.nn.functional`."""
    named = (name for known, name in _FUNCTION_OF_MODULE.items() if isinstance(fn, known))
    return next(named, "") if isinstance(fn, nn.Module) else function_name(fn)


def _overrides_forward(fn: Any) -> bool:
    """Return whether a subclass of a torch loss defines `forward` outside torch: it takes targets as they are."""
    return isinstance(fn, nn.Module) and not type(fn).forward.__module__.startswith("torch.")


def _argument(fn: object, name: str, default: object) -> Any:
    """Return the value of an argument of a module or partial function."""
    return getattr(fn, name, default) if isinstance(fn, nn.Module) else getattr(fn, "keywords", {}).get(name, default)


def _arguments_of(fn: object) -> Config:
    """Return the arguments of a module or partial function as plain data."""
    given = dict(getattr(fn, "keywords", {}))
    if isinstance(fn, nn.Module):
        names = inspect.signature(type(fn)).parameters
        given = {name: getattr(fn, name) for name in names if hasattr(fn, name)}
    return {name: value.tolist() if isinstance(value, Tensor) else value for name, value in given.items()}


def _check_two_arguments(fn: TorchFunction) -> None:
    """Raise for losses of torch that need more than predictions and targets."""
    inner = fn.forward if isinstance(fn, nn.Module) else fn
    parameters = inspect.signature(inner).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    if len(needed) > 2:
        raise ValueError(
            f"loss: {function_name(fn)} needs {', '.join(needed)}, but a loss is given y_pred and y_true only. "
            "Write a function (y_true, y_pred) that calls it with the rest. If it compares outputs with each other, "
            'use `loss=losses.OverOutputs(lambda outputs: …)` or `model.add_loss(lambda outputs: …, on="")`, which see '
            "all of them."
        )


def _is_distribution(y_true: Tensor, y_pred: Tensor) -> bool:
    """Return whether labels are soft or one-hot, rather than class indices."""
    return y_true.shape == y_pred.shape and y_true.is_floating_point()


def _squeeze_class_indices(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Return labels as int64 without the class dimension, which is the second in torch."""
    given, scores = y_true.shape, y_pred.shape
    is_plain = len(given) == 1 and len(scores) == 2 and given[0] == scores[0]  # A fast path for the common case.
    expected = given if is_plain else scores[:1] + scores[2:] if len(scores) > 1 else scores[:0]
    if len(given) == len(scores) > 1:
        y_true = squeeze_class_axis(y_true, 1, expected)
    if y_true.shape != expected:
        raise shape_mismatch_error(
            y_true, y_pred, f"class indices of shape {tuple(expected)}", _suggest(y_true, y_pred)
        )
    return y_true if y_true.dtype is torch.int64 else y_true.long()


def _suggest(y_true: Tensor, y_pred: Tensor) -> str:
    """Return a hint for labels that do not match the class dimension in torch."""
    if y_true.shape == y_pred.shape:
        return "If the labels are one-hot, make them floats: y.float()."
    if y_true.shape == y_pred.shape[:-1]:
        return (
            "Torch expects the classes second: move them there, y_pred.movedim(-1, 1), or use "
            "SparseCategoricalCrossentropy(from_logits=True, ignore_class=-100), which has them last."
        )
    return "Torch expects the classes second."


def _align_shape(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Return the targets in the shape of the predictions."""
    given = y_true
    surplus = y_true.dim() - y_pred.dim()
    if surplus == 1 and y_true.shape[-1] == 1:
        y_true = y_true.squeeze(-1)
    elif surplus == -1 and y_pred.shape[-1] == 1:
        y_true = y_true.unsqueeze(-1)
    if y_true.shape != y_pred.shape:
        raise shape_mismatch_error(given, y_pred, "of the same shape", suggest_shape(given, y_pred))
    return y_true
