"""Losses that are defined by a function of targets and predictions."""

import functools
import inspect
from collections.abc import Callable

import torch
from torch import Tensor, nn

from torchfit import functional
from torchfit._types import Config, DTypeLike, Nested, TensorLike
from torchfit._utils.errors import describe
from torchfit._utils.names import snake_case
from torchfit._utils.registry import find_custom, registered_name
from torchfit._utils.tensors import at_least_float32, map_tensors
from torchfit.functional.alignment import TargetForms, fit_mask
from torchfit.losses.base import MEANS, Loss, Reduced, as_tensors

LossFunction = Callable[..., Tensor]
_TARGETS = {"y_true", "true", "y", "target", "targets", "label", "labels", "ground_truth", "gt"}
_PREDICTIONS = {"y_pred", "pred", "preds", "prediction", "predictions", "y_hat", "y_hats", "yhat", "logits", "outputs"}
_PREDICTIONS |= {"input", "inputs", "output", "probs", "probabilities", "pr"}


class FunctionalLoss(Loss):
    """A loss whose per-sample values come from a function of this package.

    `arguments` are passed to the function, are available as attributes, and make up the configuration. `fused_mean_fn`,
    if given, computes the mean over a batch with fewer calls of torch, or returns `None` for shapes that it does not
    support.
    """

    _takes_class_indices = False

    def __init__(
        self,
        function: LossFunction,
        name: str | None = None,
        reduction: str | None = "sum_over_batch_size",
        dtype: DTypeLike = None,
        fused_mean_fn: Callable[[Tensor, Tensor], Tensor | None] | None = None,
        **arguments: object,
    ):
        super().__init__(name, reduction, dtype)
        self._function = function
        self._arguments = arguments
        self.__dict__.update(arguments)
        usual = type(self).call is FunctionalLoss.call and self.dtype.itemsize >= 4
        self._fused_mean = fused_mean_fn if usual and reduction in MEANS else None

    def call(self, y_true: Nested, y_pred: Nested) -> Tensor:
        """Return the loss of each sample."""
        return self._function(y_true, y_pred, **self._arguments)

    def get_config(self) -> Config:
        """Return the constructor's arguments as plain data."""
        return {**super().get_config(), **self._arguments}

    def _as_targets(self, y_true: Nested, y_pred: Nested, dtype: torch.dtype) -> Nested:
        return as_tensors(y_true, dtype, getattr(y_pred, "device", None))

    def _without_masked(self, y_true: Nested, y_pred: Tensor, mask: Tensor) -> tuple[Nested, Tensor]:
        """Replace masked labels too, because padding is often a number outside the range of classes."""
        fitted = fit_mask(mask, y_true) if self._takes_class_indices else None
        if fitted is not None:
            y_true = torch.where(fitted, y_true, 0)
        return super()._without_masked(y_true, y_pred, mask)


class LossFunctionWrapper(Loss):
    """A loss defined by any function `fn(y_true, y_pred, **kwargs)`, per sample or scalar.

    A function whose parameters are named in torch's order, such as `(pred, target)`, is called in that order.

    Integer targets stay integers. Of targets `(batch,)` and predictions `(batch, 1)`, the function gets the targets as
    they are, or as a column if it would otherwise broadcast them. The default name is the function's. Sample weights
    require a function that returns one value per sample, `(batch, …)`.

    >>> def largest_error(y_true, y_pred):
    ...     return (y_pred - y_true).abs().amax(-1)
    >>> loss = LossFunctionWrapper(largest_error)
    >>> loss.name, loss([[1.0, 2.0]], [[1.0, 5.0]]).item()
    ('largest_error', 3.0)
    """

    def __init__(
        self,
        fn: LossFunction,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: DTypeLike = None,
        **kwargs: object,
    ):
        super().__init__(name or function_name(fn), reduction, dtype)
        self.fn, self.fn_kwargs = _unwrap_partial(fn, kwargs)
        self._function = self._with_arguments(with_keras_argument_order(self.fn))
        self._target_forms = TargetForms()

    def call(self, y_true: Nested, y_pred: Nested) -> Tensor:
        """Return what the function returns for the pair, in the form that it expects."""
        return self._target_forms.call(self._function, y_true, y_pred)

    def _with_arguments(self, function: LossFunction) -> LossFunction:
        return functools.partial(function, **self.fn_kwargs) if self.fn_kwargs else function

    def get_config(self) -> Config:
        """Return the constructor's arguments as plain data, the function by its name.

        Raises:
            ValueError: If the function is a module or another object without a name.
        """
        name = registered_name(self.fn) or getattr(self.fn, "__name__", None)
        if name is None:
            raise ValueError(
                f"A loss made of {describe(self.fn)} has no configuration: a function is saved by its name. Pass a "
                "module itself to compile(loss=...)."
            )
        return {**super().get_config(), "fn": name, **self.fn_kwargs}

    @classmethod
    def from_config(cls, config: Config) -> "LossFunctionWrapper":
        """Build the loss; the function is found by name among this package's and the custom ones."""
        return cls(**{**config, "fn": function_named(config["fn"])})


class OverOutputs(LossFunctionWrapper):
    """A loss over all outputs of a module at once, such as that of a VAE, of triplets, or of distillation.

    `fn(y_true, outputs, **kwargs)`, or `fn(outputs)` without targets, is called with the return value of the module and
    the targets as they are in the data; outputs in half precision come in float32. It returns one value per sample,
    `(batch, …)`, or a scalar for the whole batch. The other arguments are those of `LossFunctionWrapper`. In `compile`
    it must be the only loss; metrics of single outputs may be added.

    Raises:
        TypeError: If `fn` is not a function.
        ValueError: If it takes other arguments.

    >>> import torch
    >>> def distance(outputs):
    ...     first, second = outputs
    ...     return (first - second).square().mean(-1)
    >>> loss = OverOutputs(distance)
    >>> loss.name, loss(None, (torch.zeros(2, 3), torch.ones(2, 3))).item()
    ('distance', 1.0)
    """

    def __init__(
        self,
        fn: LossFunction,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: DTypeLike = None,
        **kwargs: object,
    ):
        if not callable(fn) or isinstance(fn, type):
            raise TypeError(f"OverOutputs takes a function (y_true, outputs) or (outputs). Received: {describe(fn)}.")
        super().__init__(fn, reduction, name, dtype, **kwargs)
        self.needs_targets = _takes_targets(self.fn, self.fn_kwargs)
        if not self.needs_targets:
            self._function = self._with_arguments(self.fn)

    def call(self, y_true: Nested, y_pred: Nested) -> Tensor:
        """Call the function with all outputs, and with the targets if it takes them."""
        arguments = (y_true, y_pred) if self.needs_targets else (y_pred,)
        return self._function(*arguments)

    def _compute(self, y_true: Nested, y_pred: Nested, sample_weight: TensorLike) -> Reduced:
        rows_of = y_pred if y_true is None else y_true
        y_pred = map_tensors(at_least_float32, y_pred)
        return self._reduce(self.call(y_true, y_pred), rows_of, sample_weight, None)


def _takes_targets(function: LossFunction, given: Config) -> bool:
    """Return whether a function takes `(y_true, outputs)`, and not `outputs` alone, besides the arguments given."""
    try:
        signature = inspect.signature(function.forward if isinstance(function, nn.Module) else function)
    except ValueError:  # Functions written in C have no signature.
        return True
    kinds = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [p for p in signature.parameters.values() if p.kind in kinds and p.name not in given]
    required = [parameter.name for parameter in parameters if parameter.default is parameter.empty]
    if len(required) > 2:
        raise ValueError(
            f"OverOutputs takes a function (y_true, outputs) or (outputs), but {function_name(function)} needs "
            f"{', '.join(required)}. Write one that takes outputs apart: OverOutputs(lambda outputs: loss(*outputs))."
        )
    return len(required) != 1


def with_keras_argument_order(function: LossFunction) -> LossFunction:
    """Return a function `(y_true, y_pred)` that calls another one in the order that its parameters are named in.

    If the names say nothing, modules are called in torch's order, `(y_pred, y_true)`, and functions in that of Keras.
    """
    called = function.forward if isinstance(function, nn.Module) else function
    try:
        first, second, *_ = *inspect.signature(called).parameters, "", ""
    except ValueError:  # Functions written in C have no signature.
        return function
    is_function = called is function
    has_predictions_first = first in _PREDICTIONS and second in _TARGETS if is_function else first not in _TARGETS
    return _PredictionsFirst(function) if has_predictions_first else function


class _PredictionsFirst:
    """Calls a function `(y_pred, y_true)` as Keras calls losses."""

    def __init__(self, function: LossFunction) -> None:
        self.function = function

    def __call__(self, y_true: Nested, y_pred: Nested, **arguments: object) -> Tensor:
        return self.function(y_pred, y_true, **arguments)


def _unwrap_partial(fn: LossFunction, kwargs: Config) -> tuple[LossFunction, Config]:
    """Return a function and its keyword arguments, including those of a partial function."""
    if isinstance(fn, functools.partial) and not fn.args:
        return fn.func, {**fn.keywords, **kwargs}
    return fn, kwargs


def function_named(name: str) -> LossFunction:
    """Return the custom or built-in loss function of this name; raise `ValueError` if there is none."""
    function: LossFunction | None = find_custom(name) or getattr(functional, name, None)
    if function is None:
        raise ValueError(
            f"Unknown loss function: {name!r}. Pass it in custom_objects={{{name!r}: ...}}, or register it with "
            "@torchfit.saving.register_serializable()."
        )
    return function


def function_name(function: object) -> str:
    """Return the name of a function, of the function in a `functools.partial`, or of an object's class.

    >>> import functools
    >>> function_name(functools.partial(function_name)), function_name(lambda y_true, y_pred: 0)
    ('function_name', 'lambda')
    """
    inner = getattr(function, "func", function)
    return snake_case(getattr(inner, "__name__", type(inner).__name__))
