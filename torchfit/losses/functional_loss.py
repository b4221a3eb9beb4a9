"""Losses made of a function of targets and predictions."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from torchfit import functional
from torchfit._types import Config, DTypeLike, Nested
from torchfit._utils.errors import describe
from torchfit._utils.names import snake_case
from torchfit._utils.registry import find_custom, registered_name
from torchfit.functional.alignment import align_ranks
from torchfit.functional.masks import fit_mask
from torchfit.losses.base import Loss, as_tensors
from torchfit.losses.reduction import MEANS

LossFunction = Callable[..., Tensor]


class FunctionalLoss(Loss):
    """A loss whose per-sample values come from a function of this package.

    `arguments` are handed to the function, readable as attributes, and make up the configuration. `fused_mean_fn`,
    where there is one, computes the mean over a whole batch in fewer torch calls, or returns `None` for shapes that
    it does not take.
    """

    _takes_class_indices = False

    def __init__(
        self,
        function: LossFunction,
        name: str | None = None,
        reduction: str | None = "sum_over_batch_size",
        dtype: DTypeLike = None,
        fused_mean_fn: Callable[[Tensor, Tensor], Tensor | None] | None = None,
        **arguments: Any,
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

    def _as_targets(self, y_true: Nested, y_pred: Nested) -> Nested:
        return as_tensors(y_true, self._target_dtype, getattr(y_pred, "device", None))

    def _without_masked(self, y_true: Nested, y_pred: Tensor, mask: Tensor) -> tuple[Nested, Tensor]:
        """Replace masked labels too: padding is often a number outside the classes."""
        fitted = fit_mask(mask, y_true) if self._takes_class_indices else None
        if fitted is not None:
            y_true = torch.where(fitted, y_true, 0)
        return super()._without_masked(y_true, y_pred, mask)


class LossFunctionWrapper(Loss):
    """A loss made of any function `fn(y_true, y_pred, **kwargs)`, per sample or scalar.

    Targets and predictions `(batch,)` and `(batch, 1)` are aligned first; integer targets stay integers. The
    name is the function's. Weights of samples need a function that returns one value per sample, `(batch, …)`.

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
        **kwargs: Any,
    ):
        super().__init__(name or function_name(fn), reduction, dtype)
        self.fn, self._fn_kwargs = _unwrap_partial(fn, kwargs)

    def call(self, y_true: Nested, y_pred: Nested) -> Tensor:
        """Return what the function returns for the aligned pair."""
        if type(y_true) is Tensor and type(y_pred) is Tensor:
            y_true, y_pred = align_ranks(y_true, y_pred)
        return self.fn(y_true, y_pred, **self._fn_kwargs)

    def get_config(self) -> Config:
        """Return the constructor's arguments as plain data, the function by its name.

        Raises:
            ValueError: It is a module or another object without a name.
        """
        name = registered_name(self.fn) or getattr(self.fn, "__name__", None)
        if name is None:
            raise ValueError(
                f"A loss made of {describe(self.fn)} has no configuration: a function is saved by its name. Pass a "
                "module itself to compile(loss=...)."
            )
        return {**super().get_config(), "fn": name, **self._fn_kwargs}

    @classmethod
    def from_config(cls, config: Config) -> "LossFunctionWrapper":
        """Build the loss; the function is found by name among this package's and the custom ones."""
        return cls(**{**config, "fn": function_named(config["fn"])})


def _unwrap_partial(fn: Any, kwargs: Config) -> tuple[LossFunction, Config]:
    """Return a function and its keyword arguments, so that a configuration has those of a partial function too."""
    if isinstance(fn, functools.partial) and not fn.args:
        return fn.func, {**fn.keywords, **kwargs}
    return fn, kwargs


def function_named(name: Any) -> LossFunction:
    """Return the custom loss function of this name, or this package's; raise `ValueError` if there is none."""
    function: LossFunction | None = find_custom(name) or getattr(functional, name, None)
    if function is None:
        raise ValueError(
            f"Unknown loss function: {name!r}. Pass it in custom_objects={{{name!r}: ...}}, or register it with "
            "@torchfit.saving.register_serializable()."
        )
    return function


def function_name(function: Any) -> str:
    """Return the name of a function, of the function in a `functools.partial`, or of an object's class.

    >>> import functools
    >>> function_name(functools.partial(function_name)), function_name(lambda y_true, y_pred: 0)
    ('function_name', 'lambda')
    """
    inner = getattr(function, "func", function)
    return snake_case(getattr(inner, "__name__", type(inner).__name__))
