"""Inspects torch's optimizers: their classes, arguments, groups, closures and state."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeGuard

import torch
from torch import Tensor

from torchfit._types import Config, StateDict
from torchfit._utils.errors import describe, warn
from torchfit._utils.validation import accepts
from torchfit.optimizers import _arguments
from torchfit.optimizers._arguments import reference_rate
from torchfit.optimizers._parameters import NamedTensor, Parameters, short_list


class ClosureProbe:
    """The closure of a first step, which finds out what the optimizer does before it calls it.

    SAM and similar optimizers move the parameters along existing gradients, and then call the closure. Others
    evaluate the loss first: they get the loss that was evaluated for the gradients, as if it had not been.

    Args:
        closure: Clears the gradients, computes the loss and its gradients, and returns the loss.
        parameters: What the loss depends on.

    >>> weight = torch.nn.Parameter(torch.ones(1))
    >>> def closure():
    ...     weight.grad = None
    ...     loss = weight.square().sum()
    ...     loss.backward()
    ...     return loss
    >>> probe = ClosureProbe(closure, [weight])
    >>> with torch.no_grad():
    ...     _ = weight.add_(weight.grad)
    >>> probe().item(), probe.evaluates_itself
    (9.0, False)
    """

    def __init__(self, closure: Callable[[], Tensor], parameters: Sequence[Tensor]) -> None:
        self._closure, self._parameters = closure, parameters
        self._loss = closure()
        self._values = _copies(parameters)
        self._gradients = _copies(parameter.grad for parameter in parameters)
        self._moves_parameters: bool | None = None

    def __call__(self) -> Tensor:
        """Return the loss with its gradients, which are computed again unless they are those of these parameters."""
        if self._moves_parameters is None:
            self._moves_parameters = not _are_equal(self._values, self._parameters)
            gradients = _copies(parameter.grad for parameter in self._parameters)
            if not self._moves_parameters and _are_equal(self._gradients, gradients):
                return self._loss
        return self._closure()

    @property
    def evaluates_itself(self) -> bool | None:
        """Whether `step` needs no gradients before it calls its closure; `None` if there were none to move along."""
        has_gradient = any(gradient is not None and gradient.any() for gradient in self._gradients)
        return self._moves_parameters is False if has_gradient else None


def _copies(tensors: Iterable[Tensor | None]) -> list[Tensor | None]:
    """Return copies of tensors, dense ones of sparse gradients; there may be none in a place."""
    return [None if tensor is None else tensor.detach().clone().to_dense() for tensor in tensors]


def _are_equal(tensors: Iterable[Tensor | None], others: Iterable[Tensor | None]) -> bool:
    return all(
        one is other or (one is not None and other is not None and torch.equal(one, other))
        for one, other in zip(tensors, others)
    )


Factory: TypeAlias = "Callable[[Any], torch.optim.Optimizer]"
Group: TypeAlias = "dict[str, Any]"
_PASS_ITSELF = "An optimizer of torchfit is passed itself, such as optimizer=torchfit.optimizers.Adam(0.001)."
_NOT_OPTIONS = ("params", "param_names")
_ARGUMENTS = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


# -- classes and arguments ------------------------------------------------------------------------------------------


def is_optimizer_class(value: object) -> TypeGuard[type[torch.optim.Optimizer]]:
    return isinstance(value, type) and issubclass(value, torch.optim.Optimizer)


def uses_of_closures(made: object) -> tuple[bool, bool]:
    """Return whether `step` of an optimizer (or of the class that makes it) needs a closure, and if it may use one."""
    target = made.func if isinstance(made, functools.partial) else made
    kind: Any = target if isinstance(target, type) else type(target)
    if not is_optimizer_class(kind):
        return False, False
    parameter = inspect.signature(kind.step).parameters.get("closure")
    needed = parameter is not None and parameter.default is inspect.Parameter.empty
    return needed, needed or (parameter is not None and not _is_of_torch(kind.step))


def explain(
    error: Exception, optimizer: torch.optim.Optimizer, is_restored: bool, may_need_closure: bool
) -> Exception | None:
    """Return what to raise instead of an error of `step`, if the reason may be known."""
    failed = f"The step of {type(optimizer).__name__} failed"
    if is_restored:
        return ValueError(
            f"{failed} with the state that was loaded: {error!r}. The file is damaged, or the state belongs to another "
            "optimizer. To start with a new state, load the model with compile=False, or delete the backup."
        )
    if may_need_closure:
        return TypeError(
            f"{failed}: {error!r}. If it needs a closure, leave `microbatch` out of `compile`, or pass it in a "
            "`train_step` of your own: self.optimizer.step(closure=closure)."
        )
    return None


def follow_dtypes(optimizer: torch.optim.Optimizer | None, before: Parameters, now: Parameters) -> Parameters:
    """Return the parameters that an optimizer has now, after casting its state as loading it does if they were cast."""
    dtypes = before.dtypes
    if optimizer is not None and any(dtypes.get(key, dtype) is not dtype for key, dtype in now.dtypes.items()):
        optimizer.load_state_dict(optimizer.state_dict())
    return now


def evaluates_itself(optimizer: torch.optim.Optimizer) -> bool | None:
    """Return whether `step` needs no gradients before it calls its closure: known of those of torch, `None` else."""
    return True if _is_of_torch(type(optimizer).step) else None


def _is_of_torch(step: Callable[..., object]) -> bool:
    return step.__module__.startswith("torch.optim")


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
        rates = [float(group["lr"]) for group in optimizer.param_groups]
        wanted = {**optimizer.defaults, "lr": reference_rate(rates)}
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


def described_groups(optimizer: torch.optim.Optimizer, names: Mapping[int, str | None]) -> list[Group] | None:
    """Return all groups with the names of their parameters and their options, or `None` if there are unnamed ones."""
    if any(names.get(id(tensor)) is None for tensor in held_by(optimizer)):
        return None
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


def set_rate(group: Group, rate: float) -> None:
    """Set the rate of a group, in place where it is a tensor: a capturable optimizer reads it inside its graph."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = float(rate)


# -- saved state ---------------------------------------------------------------------------------------------------


@dataclass
class SavedGroups:
    """What an optimizer of torch saved, by the names of its parameters."""

    content: StateDict
    names: Sequence[str | None]
    shapes: Sequence[Sequence[int]]
    dropped: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    keeps_options: bool = False

    def __post_init__(self) -> None:
        """Find out where each name is."""
        self._places = {name: place for place, name in enumerate(self.names) if name is not None}

    @property
    def groups(self) -> list[tuple[list[str], Group]]:
        """The names and options of each group."""
        return [
            ([str(self.names[place]) for place in group["params"] if self.names[place] is not None], options_of(group))
            for group in self.content["param_groups"]
        ]

    def fits(self, name: str | None, tensor: Tensor) -> bool:
        """Return whether there is a state for a parameter of this name and shape."""
        place = self._places.get(name) if name is not None else None
        return place is not None and tuple(self.shapes[place]) == tuple(tensor.shape)

    def for_optimizer(self, optimizer: torch.optim.Optimizer, names: Mapping[int, str | None]) -> Group:
        """Return a state for torch's `load_state_dict`, with each parameter's state where the parameter is now."""
        state: dict[int, StateDict] = {}
        groups, start = [], 0
        held = held_by(optimizer)
        for place, tensor in enumerate(held):
            name = names.get(id(tensor))
            if not self.fits(name, tensor):
                self.fresh += [str(name or place)] if tensor.requires_grad else []
            elif (saved := self.content["state"].get(self._places[str(name)])) is not None:
                state[place] = saved
        for group in optimizer.param_groups:
            count = len(group["params"])
            options = self._options({names.get(id(tensor)) for tensor in group["params"]}, optimizer, names)
            kept = {key: value for key, value in group.items() if key != "params"}
            merged = kept if options is None else {**kept, **options}
            groups.append({**merged, "params": list(range(start, start + count))})
            start += count
        mine = {names.get(id(tensor)) for tensor in held}
        self.dropped = [name for name in self._places if name not in mine]
        return {**self.content, "state": state, "param_groups": groups}

    def _options(
        self, members: set[str | None], optimizer: torch.optim.Optimizer, names: Mapping[int, str | None]
    ) -> Group | None:
        """Return the options of the single saved group of these parameters, or `None`."""
        found = [(saved, options) for saved, options in self.groups if members & set(saved)]
        if len(found) == 1:
            holders = [
                group
                for group in optimizer.param_groups
                if {names.get(id(tensor)) for tensor in group["params"]} & set(found[0][0])
            ]
            if len(holders) == 1:
                return found[0][1]
        self.keeps_options = self.keeps_options or bool(found)
        return None

    def warn(self) -> None:
        """Warn about parameters without a saved state, unused parts of it, and different groups."""
        problems = [f"there is none for {short_list(self.fresh)}, which start afresh"] if self.fresh else []
        problems += [f"what it holds for {short_list(self.dropped)} is not used"] if self.dropped else []
        if problems:
            warn(f"The optimizer's state was saved for other parameters: {', and '.join(problems)}.")
        if self.keeps_options:
            warn(
                "The optimizer's state was saved with other parameter groups: the options of the groups, such as their "
                "learning rates, stay as they are."
            )


def wrapped_by(optimizer: torch.optim.Optimizer) -> dict[str, torch.optim.Optimizer]:
    """Return the optimizers in attributes, such as that to which SAM leaves the update."""
    return {name: value for name, value in vars(optimizer).items() if isinstance(value, torch.optim.Optimizer)}


def saved_state(optimizer: torch.optim.Optimizer, names: Mapping[int, str | None]) -> Group:
    """Return torch's state, with the names and shapes of the parameters that it numbers, also of wrapped optimizers."""
    held = held_by(optimizer)
    return {
        "torch": optimizer.state_dict(),
        "names": [names.get(id(tensor)) for tensor in held],
        "shapes": [list(tensor.shape) for tensor in held],
        "wrapped": {name: saved_state(inner, names) for name, inner in wrapped_by(optimizer).items()},
    }


def load_state(
    optimizer: torch.optim.Optimizer, saved: SavedGroups, wrapped: Mapping[str, Group], names: Mapping[int, str | None]
) -> None:
    """Restore what `saved_state` returned; groups that a wrapped optimizer shares with the outer one stay shared."""
    inner = wrapped_by(optimizer)
    sharing = [each for each in inner.values() if each.param_groups is optimizer.param_groups]
    optimizer.load_state_dict(saved.for_optimizer(optimizer, names))
    for name in inner.keys() & wrapped.keys():
        state = wrapped[name]
        theirs = SavedGroups(state["torch"], state["names"], state["shapes"])
        load_state(inner[name], theirs, state["wrapped"], names)
    for each in sharing:
        each.param_groups = optimizer.param_groups


def adopt_groups(
    optimizer: torch.optim.Optimizer, saved: SavedGroups, names: Mapping[int, str | None], module: Iterable[NamedTensor]
) -> None:
    """Add parameters that the saved optimizer held, and that the module has: to the group of the others, or as one."""
    known = {str(name): tensor for name, tensor in module if saved.fits(name, tensor)}
    held = {names.get(id(tensor)) for tensor in held_by(optimizer)}
    for members, options in saved.groups:
        missing = [(name, known[name]) for name in members if name in known and name not in held]
        if not missing:
            continue
        home = [
            group
            for group in optimizer.param_groups
            if {names.get(id(tensor)) for tensor in group["params"]} & set(members)
        ]
        if home:
            add_to_group(home[0], missing)
        else:
            has_names = "param_names" in optimizer.param_groups[0]
            optimizer.add_param_group(
                {**options, "params": missing if has_names else [tensor for _, tensor in missing]}
            )
