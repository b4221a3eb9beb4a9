"""Checks of the arguments of optimizers, and helpers to set several learning rates together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypedDict, TypeVar

import numpy as np

from torchfit._types import TensorLike
from torchfit._utils.errors import describe
from torchfit._utils.names import argument_names, way_out

if TYPE_CHECKING:
    from typing_extensions import Unpack as Unpack


Number = TypeVar("Number", bound=float)


class CommonKwargs(TypedDict, total=False):
    """The arguments that every optimizer takes; `Optimizer` documents them."""

    weight_decay: float | None
    clipnorm: float | None
    clipvalue: float | None
    global_clipnorm: float | None
    use_ema: bool
    ema_momentum: float
    ema_overwrite_frequency: int | None
    loss_scale_factor: float | None
    gradient_accumulation_steps: int | None
    name: str | None


def invalid(argument: str, rule: str, value: object) -> NoReturn:
    """Raise the error for an argument that breaks its rule."""
    raise ValueError(f"`{argument}` must be {rule}. Received: {argument}={describe(value)}")


def check(argument: str, value: Number, rule: str, allowed: Callable[[Number], bool]) -> Number:
    """Return `value` if it is a number that `allowed` accepts, else raise.

    >>> check("rho", 0.9, "a float in [0, 1)", lambda rho: 0 <= rho < 1)
    0.9
    """
    try:
        fits = not isinstance(value, bool) and bool(allowed(value))
    except (TypeError, ValueError, RuntimeError):
        fits = False
    return value if fits else invalid(argument, rule, value)


def non_negative(argument: str, value: float) -> float:
    """Return a number that is at least 0."""
    return check(argument, value, "a number >= 0", lambda number: number >= 0)


def positive(argument: str, value: float) -> float:
    """Return a number above 0."""
    return check(argument, value, "a number > 0", lambda number: number > 0)


def in_unit_interval(argument: str, value: float) -> float:
    """Return a number from 0 to 1, inclusive."""
    return check(argument, value, "a float in the range [0, 1]", lambda number: 0 <= number <= 1)


def decay_rate(argument: str, value: float) -> float:
    """Return a number in [0, 1), the decay of a running mean."""
    return check(argument, value, "a float in the range [0, 1)", lambda number: 0 <= number < 1)


def integer(argument: str, value: int, minimum: int) -> int:
    """Return an integer of at least `minimum`."""
    return check(argument, value, f"an integer >= {minimum}", lambda number: number == int(number) >= minimum)


def if_not_none(rule: Callable[..., Number], argument: str, value: Number | None, *more: object) -> Number | None:
    """Return `None` unchanged, anything else as `rule` returns it."""
    return None if value is None else rule(argument, value, *more)


def at_most_one(**values: object) -> None:
    """Raise if more than one of the arguments is set."""
    if sum(value is not None for value in values.values()) > 1:
        names = ", ".join(f"`{name}`" for name in values)
        received = ", ".join(f"{name}={describe(value)}" for name, value in values.items())
        raise ValueError(f"Only one of {names} can be set. Received: {received}")


class OtherName:
    """An attribute that has another name here: reading and setting it raises an `AttributeError` that says which.

    Args:
        name: The name here.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __set_name__(self, owner: type, name: str) -> None:
        self._wrong_name = name

    def __get__(self, instance: object, owner: type | None = None) -> NoReturn:
        """Refuse to read it, so that `hasattr` is false."""
        self._refuse(owner or type(instance))

    def __set__(self, instance: object, value: object) -> NoReturn:
        """Refuse to set it, which would have no effect."""
        self._refuse(type(instance))

    def _refuse(self, owner: type) -> NoReturn:
        raise AttributeError(
            f"{owner.__name__!r} object has no attribute {self._wrong_name!r}. Here it is `{self._name}`."
        )


class OnlyInTorch:
    """An attribute that only optimizers of torch have: reading it raises an `AttributeError` that says what to use.

    A subclass may have an attribute of this name.

    Args:
        way_out: What to use.
    """

    def __init__(self, way_out: str) -> None:
        self._way_out = way_out

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """Refuse to read it, so that `hasattr` is false."""
        owner = owner or type(instance)
        raise AttributeError(f"{owner.__name__!r} object has no attribute {self._name!r} as in torch. {self._way_out}")


_ONLY_IN_TORCH = {
    "params": "here the parameters are those of the model that is compiled",
    "foreach": "here all parameters are updated at once",
    "fused": "here the fastest way is chosen",
    "capturable": "here all can be captured",
    "differentiable": "here updates are not differentiated",
    "maximize": "here losses are minimised",
    "dampening": "here there is none",
    "lr_decay": "here the rate follows a schedule, passed as `learning_rate`",
    "decoupled_weight_decay": "here `weight_decay` always is",
    "momentum_decay": "here it is fixed",
}


def no_unknown_kwargs(owner: str, unknown: Mapping[str, object], known: Iterable[str]) -> None:
    """Raise if there are unknown arguments; for arguments of torch's optimizers, say why they are missing here."""
    for name in unknown:
        if name in _ONLY_IN_TORCH:
            raise ValueError(
                f"`{owner}` has no argument `{name}`, which PyTorch's optimizers take: {_ONLY_IN_TORCH[name]}. Leave "
                f"it out, or pass an optimizer of PyTorch, such as torch.optim.{owner}, to `compile`."
            )
        raise ValueError(f"`{owner}` has no argument `{name}`. {way_out(name, known)}")


def init_arg_names(cls: type) -> list[str]:
    """List the arguments of a class's constructor, including those of its bases."""
    constructors = [vars(each)["__init__"] for each in cls.__mro__[:-1] if "__init__" in vars(each)]
    return list(dict.fromkeys(name for constructor in constructors for name in argument_names(constructor)))


def as_float32(value: float) -> float:
    """Return a number rounded to float32, with as few digits as possible.

    >>> as_float32(0.1 * 0.1)
    0.01
    """
    return float(str(np.float32(value)))


def learning_rate(value: TensorLike) -> float:
    """Return a learning rate given as a number, a NumPy scalar or a tensor of one element."""
    rule = "a number >= 0, a `LearningRateSchedule` or a callable that maps the step to a number"
    try:
        rate = float(value)
    except (TypeError, ValueError, RuntimeError):
        invalid("learning_rate", rule, value)
    if isinstance(value, (str, bool)) or not rate >= 0:
        invalid("learning_rate", rule, value)
    return as_float32(rate)


def reference_rate(rates: Sequence[float]) -> float:
    """Return the reference rate: the first one that is not 0.

    >>> reference_rate([0.0, 0.1, 0.2])
    0.1
    """
    return next((rate for rate in rates if rate), 0.0)


def scaled_rates(rates: Sequence[float], wanted: float, ratios: Sequence[float] | None = None) -> list[float]:
    """Scale all rates by one factor such that the reference rate becomes `wanted`. Rates of 0 stay 0.

    Where all rates are 0, `ratios` tell how they were related before.

    >>> scaled_rates([0.0, 0.1, 0.2], 0.05)
    [0.0, 0.05, 0.1]
    >>> scaled_rates([0.0, 0.0], 0.1, [1.0, 0.5])
    [0.1, 0.05]
    """
    reference = reference_rate(rates)
    if not reference:
        return [ratio * wanted for ratio in ratios or [1.0] * len(rates)]
    return [wanted if rate == reference else rate / reference * wanted for rate in rates]
