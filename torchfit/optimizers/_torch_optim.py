"""Inspects torch's optimizers: their classes, arguments, closures and groups."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeGuard

import torch
from torch import Tensor

from torchfit._types import Config
from torchfit._utils.compat import version_of
from torchfit._utils.errors import describe, warn
from torchfit._utils.validation import accepts
from torchfit.optimizers import _arguments
from torchfit.optimizers._arguments import reference_rate
from torchfit.optimizers._parameters import NamedTensor, Parameters, short_list, tensors_of, without

Closure: TypeAlias = "Callable[[], Tensor]"
Factory: TypeAlias = "Callable[[Any], torch.optim.Optimizer]"
Group: TypeAlias = "dict[str, Any]"
_PASS_ITSELF = "An optimizer of torchfit is passed itself, such as optimizer=torchfit.optimizers.Adam(0.001)."
_NOT_OPTIONS = ("params", "param_names")
_ARGUMENTS = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class HasOptimizer(Protocol):
    """What wraps an optimizer of torch."""

    optimizer: torch.optim.Optimizer | None


class OfWrapped:
    """An attribute of `TorchOptimizer` that is one of the optimizer that it wraps."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: HasOptimizer | None, owner: type | None = None) -> object:
        """Return it, or raise an `AttributeError` before the optimizer is made."""
        if instance is None:
            return self
        if instance.optimizer is None:
            raise AttributeError(
                f"`{self._name}` is that of the optimizer of torch, which is made for the parameters of the model in "
                "the first step, or by model.build_optimizer(). Or compile with an optimizer instead of its class."
            )
        return getattr(instance.optimizer, self._name)

    def __set__(self, instance: HasOptimizer, value: object) -> None:
        """Set it."""
        setattr(instance.optimizer, self._name, value)


# -- classes and arguments ------------------------------------------------------------------------------------------


def is_optimizer_class(value: object) -> TypeGuard[type[torch.optim.Optimizer]]:
    return isinstance(value, type) and issubclass(value, torch.optim.Optimizer)


def explain(error: Exception, optimizer: torch.optim.Optimizer, is_restored: bool, is_first: bool) -> Exception | None:
    """Return what to raise instead of an error of a step without a closure, if the reason may be known."""
    failed = f"The step of {type(optimizer).__name__} failed"
    if is_restored:
        return ValueError(
            f"{failed} with the state that was loaded: {error!r}. The file is damaged, or the state belongs to another "
            "optimizer. To start with a new state, load the model with compile=False, or delete the backup."
        )
    if is_first and ClosureUse.of(optimizer).is_accepted:
        return TypeError(
            f"{failed}: {error!r}. If it needs a closure, pass one in your `train_step`: "
            "self.optimizer.step(closure=closure)."
        )
    return None


def follow_dtypes(optimizer: torch.optim.Optimizer | None, before: Parameters, now: Parameters) -> Parameters:
    """Return the parameters that an optimizer has now, after casting its state as loading it does if they were cast."""
    dtypes = before.dtypes
    if optimizer is not None and any(dtypes.get(key, dtype) is not dtype for key, dtype in now.dtypes.items()):
        optimizer.load_state_dict(optimizer.state_dict())
    return now


def make(factory: Factory, parameters: list[Tensor] | list[Group]) -> torch.optim.Optimizer:
    if not accepts(factory, 1):
        raise ValueError(
            f"`optimizer` must be a function of the parameters, but it is {describe(factory)}. {_PASS_ITSELF}"
        )
    made = factory(parameters)
    if not isinstance(made, torch.optim.Optimizer):
        raise ValueError(
            "`optimizer` must make a torch.optim.Optimizer from parameters. "
            f"It returned: {describe(made)}. {_PASS_ITSELF}"
        )
    return made


def class_name(optimizer: object) -> str:
    if isinstance(optimizer, functools.partial):
        return class_name(optimizer.func)
    return getattr(optimizer, "__name__", type(optimizer).__name__)


def config_of(optimizer: object) -> tuple[type[torch.optim.Optimizer], Config]:
    """Return the class and the arguments that make an optimizer like this one."""
    if isinstance(optimizer, torch.optim.Optimizer):
        rates = rates_of(optimizer)
        wanted = {**optimizer.defaults, **({"lr": reference_rate(rates)} if rates else {})}
        known = inspect.signature(type(optimizer)).parameters  # defaults may hold more than the arguments
        needed = [name for name, each in known.items() if each.default is each.empty and each.kind in _ARGUMENTS][1:]
        if not wanted.keys() >= set(needed):
            raise ValueError(
                f"Could not save {describe(optimizer)} as plain data: its constructor needs {short_list(needed)}. Load "
                "the model with load_model(path, module=model), the model being compiled with such an optimizer."
            )
        return type(optimizer), {name: plain(value) for name, value in wanted.items() if name in known}
    if isinstance(optimizer, functools.partial) and is_optimizer_class(optimizer.func) and not optimizer.args:
        return optimizer.func, {name: plain(value) for name, value in optimizer.keywords.items()}
    if is_optimizer_class(optimizer):
        return optimizer, {}
    raise ValueError(
        f"Could not save {describe(optimizer)} as plain data. Pass a torch.optim class, a functools.partial of one, "
        "or an instance."
    )


def warn_of_hooks(optimizer: torch.optim.Optimizer) -> None:
    """Warn of hooks of an optimizer, such as one that clips gradients, which are code that is not saved."""
    hooks = [hook for name, found in vars(optimizer).items() if name.endswith("_hooks") for hook in found.values()]
    if hooks:
        warn(
            f"The hooks of {type(optimizer).__name__} are code, and are not saved: {describe(hooks[0])}. Register them "
            "again after loading."
        )


def default_rate(factory: object) -> float | None:
    """Return the learning rate that a factory was given, if it shows."""
    rate = factory.keywords.get("lr") if isinstance(factory, functools.partial) else None
    return None if rate is None else _arguments.as_float32(rate)


# -- closures -------------------------------------------------------------------------------------------------------


class ClosureUse(NamedTuple):
    """What the `step` of an optimizer does with a closure, as far as its signature tells.

    Attributes:
        is_needed: Whether `step` cannot be called without one.
        is_accepted: Whether `step` may evaluate the loss itself. Those of torch that need no closure do not: they call
            it before they update, to return the loss.
        is_named: Whether it can be passed by its name.
    """

    is_needed: bool = False
    is_accepted: bool = False
    is_named: bool = True

    @classmethod
    def of(cls, made: object) -> ClosureUse:
        """Inspect an optimizer, or the class that makes it. A `step` of any arguments passes them on to its base."""
        target = made.func if isinstance(made, functools.partial) else made
        kind: Any = target if isinstance(target, type) else type(target)
        if not is_optimizer_class(kind):
            return cls()
        steps = [inspect.signature(vars(each)["step"]).parameters for each in kind.__mro__ if "step" in vars(each)]
        closure = next((step.get("closure") for step in steps if "closure" in step or not _takes_any(step)), None)
        if closure is None:
            return cls()
        is_needed = closure.default is closure.empty
        is_named = steps[0]["closure"].kind in _ARGUMENTS if "closure" in steps[0] else _takes_any_name(steps[0])
        return cls(is_needed, is_needed or not kind.step.__module__.startswith("torch.optim"), is_named)

    def step(self, optimizer: torch.optim.Optimizer, closure: Closure) -> object:
        """Make a step with a closure."""
        return optimizer.step(closure=closure) if self.is_named else optimizer.step(closure)  # type: ignore[arg-type]


def _takes_any(parameters: Mapping[str, inspect.Parameter]) -> bool:
    return any(each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD) for each in parameters.values())


def _takes_any_name(parameters: Mapping[str, inspect.Parameter]) -> bool:
    return any(each.kind is each.VAR_KEYWORD for each in parameters.values())


@dataclass
class ClosureHabits:
    """When an optimizer calls its closure, as its steps have shown.

    Attributes:
        are_known: Whether a step with gradients other than 0 has shown them.
        calls_before_moving: How many calls come before it moves the parameters or clears the gradients.
        evaluates_again: Whether it called a closure after that.
    """

    are_known: bool = False
    calls_before_moving: int = 0
    evaluates_again: bool = False


class EvaluatedClosure:
    """A closure that has evaluated the loss, as a loop does before `step`, and evaluates it again only where needed.

    SAM, LBFGS and the like call it after they have moved the parameters, and get the gradients there. To other calls it
    returns the loss that is known: the gradients stay as they are, even if a subclass has clipped them. So it does to
    a `step` of torch that only returns the loss, although a subclass may have moved the parameters before.

    In the first step it compares values to see what moved, because writes to `parameter.data` leave no other trace.

    Args:
        closure: Clears the gradients, computes the loss and its gradients, and returns the loss.
        parameters: What the loss depends on.
        habits: What earlier steps have shown.

    >>> weight = torch.nn.Parameter(torch.ones(1))
    >>> def closure():
    ...     weight.grad = None
    ...     loss = weight.square().sum()
    ...     loss.backward()
    ...     return loss
    >>> evaluated = EvaluatedClosure(closure, [weight], ClosureHabits())
    >>> before = evaluated().item()
    >>> with torch.no_grad():
    ...     _ = weight.add_(weight.grad)
    >>> before, evaluated().item()
    (1.0, 9.0)
    """

    def __init__(self, closure: Closure, parameters: Sequence[Tensor], habits: ClosureHabits) -> None:
        self._closure, self._parameters, self._habits = closure, parameters, habits
        self._loss = closure()
        self._gradients = [each.grad for each in parameters]
        self._calls, self._has_moved = 0, False
        if habits.are_known:
            self._marks = _marks(parameters)
        else:
            self._values = [each.detach().clone() for each in parameters]
            self._had_gradients = _have_gradients(parameters)
            habits.calls_before_moving = 0

    def __call__(self) -> Tensor:
        """Return the loss, with its gradients."""
        if _is_called_to_return_the_loss(inspect.currentframe()):
            return self._loss
        if all(each.grad is None for each in self._parameters):  # It expects them to be computed now.
            self._restore_gradients()
        self._has_moved = self._has_moved or self._moves_now()
        self._calls += 1
        if not self._has_moved:
            return self._loss
        self._habits.evaluates_again = True
        self._gradients = []  # Their memory is free for those of the next evaluation.
        return self._closure()

    def _moves_now(self) -> bool:
        habits, parameters = self._habits, self._parameters
        if habits.are_known:
            return self._calls >= habits.calls_before_moving or _marks(parameters) != self._marks
        is_cleared = self._had_gradients and not _have_gradients(parameters)
        has_moved = is_cleared or not all(map(torch.equal, self._values, parameters))
        habits.calls_before_moving += not has_moved
        return has_moved

    def _restore_gradients(self) -> None:
        for parameter, gradient in zip(self._parameters, self._gradients):
            parameter.grad = gradient

    def finish(self) -> None:
        """Keep what the step has shown."""
        if not self._habits.are_known:
            self._habits.are_known = self._had_gradients


def _marks(parameters: Iterable[Tensor]) -> list[tuple[int, int]]:
    """Return what changes when parameters are written to or replaced, without a host read."""
    return [(version_of(each), each.data_ptr()) for each in parameters]


def _have_gradients(parameters: Iterable[Tensor]) -> bool:
    return any(each.grad is not None and bool(each.grad.to_dense().any()) for each in parameters)


def _is_called_to_return_the_loss(frame: FrameType | None) -> bool:
    """Return whether a step of torch, to which that of a subclass or wrapper may have passed a closure, calls it."""
    while frame is not None and frame.f_code is not ClosureUse.step.__code__:
        if frame.f_code in _steps_that_return_the_loss():
            return True
        frame = frame.f_back
    return False


@functools.cache
def _steps_that_return_the_loss() -> frozenset[CodeType]:
    """Return the code of all steps of torch that call a closure only once, before the update."""
    kinds = filter(is_optimizer_class, vars(torch.optim).values())
    return frozenset(inspect.unwrap(kind.step).__code__ for kind in kinds if not ClosureUse.of(kind).is_accepted)


# -- copies ---------------------------------------------------------------------------------------------------------


@dataclass
class OptimizerCopy:
    """What a copy of an optimizer is made from, with the attributes of its class, which torch would leave out.

    Such are the parameters of LBFGS, or the optimizer that another one wraps.
    """

    kind: type[torch.optim.Optimizer]
    state: Group
    attributes: Group

    @classmethod
    def of(cls, optimizer: torch.optim.Optimizer) -> OptimizerCopy:
        """Describe an optimizer."""
        left_out = {*_common_attributes(), "step"}  # A scheduler puts a function in the place of the method.
        own = {name: value for name, value in vars(optimizer).items() if name not in left_out}
        return cls(type(optimizer), optimizer.__getstate__(), own)

    def make(self) -> torch.optim.Optimizer:
        """Return the copy."""
        made = self.kind.__new__(self.kind)
        made.__setstate__(self.state)
        vars(made).update(self.attributes)
        return made


@functools.cache
def _common_attributes() -> frozenset[str]:
    """Return the attributes that all optimizers of torch have."""
    return frozenset(vars(torch.optim.SGD([torch.zeros(())])))


# -- groups ---------------------------------------------------------------------------------------------------------


def held_by(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """List the parameters of all groups, in order."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def add_to_group(group: Group, entries: Iterable[NamedTensor]) -> None:
    """Add parameters to a group."""
    for name, tensor in entries:
        group["params"].append(tensor)
        if "param_names" in group:
            group["param_names"].append(name)


def warn_of_left_out(entries: Iterable[NamedTensor], takes_groups: bool) -> None:
    """Warn of trainable parameters that are in no group; LBFGS takes no further one."""
    add = 'Add them, model.optimizer.optimizer.add_param_group({"params": list(layer.parameters())}), or compile'
    way_out = add if takes_groups else "Compile"
    warn(
        f"The parameters {short_list(name for name, _ in entries)} are trainable, but the torch optimizer does not "
        f"hold them and does not train them. {way_out} the model again with a new optimizer."
    )


def options_of(group: Mapping[str, object]) -> Group:
    """Return the options of a group as plain data."""
    return {name: plain(value) for name, value in group.items() if name not in _NOT_OPTIONS}


def plain(value: object) -> object:
    """Return a number in the place of a tensor of one."""
    return value.tolist() if isinstance(value, Tensor) else value


def described_groups(
    optimizer: torch.optim.Optimizer, held: list[NamedTensor], module: list[NamedTensor], makes_one_group: bool
) -> list[Group] | None:
    """Return all groups with their options and the names of their parameters, or `None` if the class makes the same.

    Args:
        optimizer: The optimizer.
        held: The parameters in its groups.
        module: Those of the module, if they are known.
        makes_one_group: Whether it was made with one group of all trainable parameters.

    Raises:
        ValueError: Parameters have no names in the module.
    """
    is_single = len(optimizer.param_groups) == 1
    expected = [entry for entry in module if entry[1].requires_grad or not without([entry], held)]
    is_whole = makes_one_group or not module or list(map(id, tensors_of(expected))) == list(map(id, tensors_of(held)))
    if is_single and is_whole:
        return None
    names = {id(tensor): name for name, tensor in held}
    if None in names.values():
        raise ValueError(
            f"Could not save the parameter groups of {describe(optimizer)} as plain data, because not all of their "
            "parameters have a name in the model. Load the model with load_model(path, module=model), the model being "
            "compiled with the same groups."
        )
    return [
        {**options_of(group), "names": [names[id(tensor)] for tensor in group["params"]]}
        for group in optimizer.param_groups
    ]


def groups_from(described: Sequence[Group], entries: Iterable[NamedTensor]) -> list[Group]:
    """Return groups of tensors from groups of names.

    Raises:
        ValueError: The module has no parameter of a name.
    """
    tensors = dict(entries)
    missing = [name for group in described for name in group["names"] if name not in tensors]
    if missing:
        raise ValueError(
            f"The parameter groups of the optimizer were described for other parameters: there is none called "
            f"{short_list(missing)}. Create the optimizer with the parameters of this model, and pass it to compile()."
        )
    return [
        {
            **{key: value for key, value in group.items() if key != "names"},
            "params": [tensors[n] for n in group["names"]],
        }
        for group in described
    ]


def rates_of(optimizer: torch.optim.Optimizer) -> list[float]:
    """Return the learning rate of each group; there are none if the optimizer has no option `lr`."""
    return [float(group["lr"]) for group in optimizer.param_groups if "lr" in group]


def no_rate(optimizer: torch.optim.Optimizer) -> str:
    """Return the message for an optimizer without an option `lr`, whose rate cannot be set."""
    options = [name for name in optimizer.param_groups[0] if name not in _NOT_OPTIONS]
    return (
        f"{type(optimizer).__name__} has no learning rate: its groups have no option `lr`, but {short_list(options)}. "
        "Set its own options, model.optimizer.param_groups[0][name] = value, or call the option `lr` in its class."
    )


def set_rate(group: Group, rate: float) -> None:
    """Set the rate of a group, in place where it is a tensor: a capturable optimizer reads it inside its graph."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = float(rate)
