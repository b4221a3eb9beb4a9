"""The parameters of an optimizer, and the choice of those to train when layers are frozen or replaced."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from torchfit._utils.errors import describe, warn

NamedTensor: TypeAlias = "tuple[str | None, Tensor]"

_WANTED = "parameters (such as module.parameters()) or (name, parameter) pairs (such as module.named_parameters())"


class Parameters:
    """Parameters in order, each once, with their names ("0", "1", … if they came without)."""

    def __init__(self, parameters: Iterable[object]):
        entries = named_tensors(parameters)
        self.given_names = [name for name, _ in entries]
        self.named = None not in self.given_names
        self.tensors = [_leaf(tensor) for _, tensor in entries]
        self.names = unique_names([name or str(position) for position, (name, _) in enumerate(entries)])
        self._dtypes = [tensor.dtype for tensor in self.tensors]
        self._warned = False

    def unknown(self, tensors: Iterable[Tensor]) -> list[Tensor]:
        """Return the tensors that are not among the parameters."""
        known = set(map(id, self.tensors))
        return [tensor for tensor in tensors if id(tensor) not in known]

    @property
    def dtypes(self) -> dict[int, torch.dtype]:
        """The dtype that each parameter had when this was made, by the id of the tensor."""
        return dict(zip(map(id, self.tensors), self._dtypes))

    def names_beside(self, others: Parameters) -> tuple[str, ...]:
        """Return the names of the parameters that are not among others, or were there with another dtype."""
        own, theirs = self.dtypes, others.dtypes
        return tuple(name for name, (key, dtype) in zip(self.names, own.items()) if theirs.get(key) is not dtype)

    def cast_gradients(self, gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Return gradients in the dtype and on the device of their parameters, one for each."""
        gradients = list(gradients)
        if len(gradients) != len(self.tensors):
            raise ValueError(
                f"`grads` must hold one entry for each of the {len(self.tensors)} parameters that the optimizer "
                f"was built with, in their order. Received: {len(gradients)} gradients."
            )
        return [_fit(gradient, tensor) for gradient, tensor in zip(gradients, self.tensors)]

    def reorder(self, gradients: Sequence[Tensor | None], parameters: Iterable[Tensor]) -> list[Tensor | None]:
        """Return gradients in the order of the parameters, with `None` for parameters without one."""
        given = dict(zip(map(id, parameters), gradients))
        return [given.get(id(tensor)) for tensor in self.tensors]

    def require_names(self, argument: str) -> list[str]:
        """Return the names, or raise if the parameters came without."""
        if not self.named:
            raise ValueError(
                f"`{argument}` needs the parameters' names. Build the optimizer with (name, parameter) pairs: "
                "optimizer.build(module.named_parameters())."
            )
        return self.names

    def select(self, listed: Iterable[Tensor], patterns: list[str]) -> list[bool]:
        """Return for each parameter whether it is listed or a pattern occurs in its name."""
        names = self.require_names("var_names") if patterns else self.names
        chosen = {id(parameter) for parameter in listed}
        return [
            id(tensor) in chosen or any(re.search(pattern, name) for pattern in patterns)
            for name, tensor in zip(names, self.tensors)
        ]

    def warn_missing_gradients(self, present: Sequence[int], *, is_meant: bool = False) -> None:
        """Warn once about unfrozen parameters without a gradient, and raise if no parameter has one.

        No warning comes where the gradients of some parameters only were meant to be passed.
        """
        if not present:
            raise ValueError(
                "No gradients provided for any parameter. Call loss.backward() first, and check that the loss "
                "depends on the parameters."
            )
        absent = set(range(len(self.tensors))) - set(present)
        missing = [self.names[position] for position in sorted(absent) if self.tensors[position].requires_grad]
        if missing and not is_meant and not self._warned:
            self._warned = True
            warn(
                f"There is no gradient for the parameters {short_list(missing)}: they stay as they are. Does the loss "
                "depend on them? Freeze them with requires_grad_(False) if they are meant to stay. Layers that were "
                "replaced within an epoch are trained from the next epoch on, or after model.build_optimizer()."
            )


class ParameterChanges(NamedTuple):
    """What `sync_parameters` changed: the names of the parameters that are trained from now on, or no longer.

    A parameter that got another dtype is among both.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    @classmethod
    def between(cls, before: Parameters, after: Parameters) -> ParameterChanges:
        """Return what changed from some parameters to others."""
        return cls(after.names_beside(before), before.names_beside(after))

    def __bool__(self) -> bool:
        """Return whether anything changed."""
        return bool(self.added or self.removed)


class ParameterTracker:
    """Records which parameters an optimizer was given, and which ones a module has.

    An optimizer that was bound to a module follows it: what becomes trainable is trained, in the order of the module.
    One that the user bound (`build`, `apply`) to all parameters of the module follows it as well; one that was bound to
    some of them, such as a part of a GAN, keeps to those that it was given.
    """

    def __init__(self) -> None:
        self.module: list[NamedTensor] = []
        self._given: list[NamedTensor] = []
        self._order: list[NamedTensor] = []
        self._left_out: list[NamedTensor] | None = None
        self._removed: list[NamedTensor] = []
        self._has_module_order = False
        self.follows: bool | None = None
        """Whether the optimizer takes in what becomes trainable; `None` before it has seen a module."""
        self._seen: list[tuple[str | None, int, torch.dtype, bool]] = []

    def give(self, entries: Sequence[NamedTensor], *, is_module: bool = False) -> None:
        """Remember what the user bound the optimizer to, or the module that it was bound to."""
        self._given += without(entries, self._given)
        self._order += without(entries, self._order)
        if is_module:
            self.module, self._has_module_order, self.follows = list(entries), True, True

    def with_names(self, entries: Iterable[NamedTensor]) -> list[NamedTensor]:
        """Return entries under the names that they have in the module, or were given with."""
        names = {id(tensor): name for name, tensor in [*self._given, *self.module] if name is not None}
        return [(names.get(id(tensor)) or name, tensor) for name, tensor in entries]

    def known(self) -> list[NamedTensor]:
        """List the parameters of the module, and other given parameters."""
        return [*self.module, *without(self._given, self.module)]

    def cleared(self, held: list[NamedTensor], *, whole_module: bool) -> list[Tensor]:
        """Return the parameters whose gradients are cleared: those held or given, and the module's if that is its."""
        module = self.module if whole_module or self.follows else []
        return list({id(tensor): tensor for _, tensor in [*module, *self._given, *held]}.values())

    def has_changed(self, entries: list[NamedTensor]) -> bool:
        """Return whether a module's parameters, their names, dtypes or which are frozen differ from the last call."""
        seen = [(name, id(tensor), tensor.dtype, tensor.requires_grad) for name, tensor in entries]
        changed, self._seen = seen != self._seen, seen
        return changed

    def trained(
        self, entries: list[NamedTensor], held: list[NamedTensor], kept: Iterable[Tensor], *, admits: bool
    ) -> list[NamedTensor]:
        """Return the parameters to train, among those of a module and those that the optimizer already has.

        Args:
            entries: All parameters of the module.
            held: The parameters that the optimizer has a state for, currently trained or not.
            kept: The parameters to train even if they are currently frozen.
            admits: Whether the optimizer may add parameters that it was not given.
        """
        others = without(entries, self._given)
        if self._left_out is None:  # Parameters that the user omitted at first are omitted on purpose.
            self._left_out = trainable(others)
        if self.follows is None and admits:
            self.follows = not others
        mine = [*held, *self._given]
        foreign = [] if self.follows else without(entries, mine)
        if admits and foreign:
            self._tell_ignored(foreign)
        self._removed = without([*self._removed, *without(self.module, entries)], entries)
        self.module = entries
        extra = without(without(held, entries), self._removed)
        stays = set(map(id, kept))
        candidates = [*without(entries, foreign), *extra]
        wanted = [entry for entry in candidates if entry[1].requires_grad or id(entry[1]) in stays]
        return wanted if self._has_module_order else self._in_order(wanted)

    def _in_order(self, wanted: list[NamedTensor]) -> list[NamedTensor]:
        """Keep the order in which the user bound the parameters."""
        self._order += without(wanted, self._order)
        positions = {id(tensor): position for position, (_, tensor) in enumerate(self._order)}
        return sorted(wanted, key=lambda entry: positions[id(entry[1])])

    def _tell_ignored(self, foreign: list[NamedTensor]) -> None:
        known = self._left_out or []
        ignored = trainable(without(foreign, known))
        if ignored:
            self._left_out = [*known, *ignored]
            names = short_list(name for name, _ in ignored)
            warn(
                f"The parameters {names} are trainable, but the optimizer was built without them and does not train "
                "them. Build it with all parameters of the model, or compile the model again."
            )


def trainable(entries: Iterable[NamedTensor]) -> list[NamedTensor]:
    """Return the entries whose tensor is not frozen."""
    return [entry for entry in entries if entry[1].requires_grad]


def without(entries: Iterable[NamedTensor], others: Iterable[NamedTensor]) -> list[NamedTensor]:
    """Return the entries whose tensor is not in the other ones."""
    known = {id(tensor) for _, tensor in others}
    return [entry for entry in entries if id(entry[1]) not in known]


def tensors_of(entries: Iterable[NamedTensor]) -> list[Tensor]:
    """Return the parameters without their names."""
    return [tensor for _, tensor in entries]


def zero_gradients(parameters: Iterable[Tensor]) -> None:
    """Set the gradients that there are to 0, in place, as torch's `zero_grad(set_to_none=False)` does."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.detach_().zero_()


def named_tensors(parameters: object) -> list[NamedTensor]:
    """Return (name, tensor) pairs, each tensor once; the name is `None` where parameters come without.

    Raises:
        TypeError: `parameters` holds something else.
    """
    if isinstance(parameters, Tensor) or not isinstance(parameters, Iterable):
        raise TypeError(f"`parameters` must be an iterable of {_WANTED}. Received: {describe(parameters)}.")
    unique: dict[int, NamedTensor] = {}
    for name, tensor in map(_entry, parameters):
        unique.setdefault(id(tensor), (name, tensor))
    return list(unique.values())


def short_list(names: Iterable[object]) -> str:
    """Return names as a list for a message, the first few of many.

    >>> short_list(["a", "b"]), short_list(map(str, range(30)))
    ("['a', 'b']", "['0', '1', '2', '3', '4', '5', '6', '7'] and 22 more")
    """
    all_names = list(names)
    more = len(all_names) - 8
    return f"{all_names[:8]} and {more} more" if more > 0 else f"{all_names}"


def unique_names(names: Sequence[str]) -> list[str]:
    """Number names that occur more than once, as those of two modules may.

    >>> unique_names(["weight", "bias", "weight"])
    ['weight', 'bias', 'weight#2']
    """
    counts: dict[str, int] = {}
    result = []
    for name in names:
        counts[name] = counts.get(name, 0) + 1
        result.append(name if counts[name] == 1 else f"{name}#{counts[name]}")
    return result


def _entry(entry: object) -> NamedTensor:
    """Return (name, parameter) for a parameter with or without a name."""
    if isinstance(entry, Tensor):
        return None, entry
    if isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[1], Tensor):
        return None if entry[0] is None else str(entry[0]), entry[1]
    raise TypeError(f"`parameters` must hold {_WANTED}. Received among them: {describe(entry)}.")


def _leaf(tensor: Tensor) -> Tensor:
    if not tensor.is_leaf:
        raise ValueError(
            f"`parameters` must be leaf tensors, not results of calculations. Received: {describe(tensor)}. "
            "Wrap the value: torch.nn.Parameter(value.detach()). In a copy of a TorchScript module, call "
            "detach_().requires_grad_() on each parameter, or copy the Model around the module instead."
        )
    return tensor


def _fit(gradient: Tensor | None, tensor: Tensor) -> Tensor | None:
    if gradient is None:
        return None
    if gradient.shape != tensor.shape:
        raise ValueError(
            f"A gradient must have the shape of its parameter, {tuple(tensor.shape)}. Received: {describe(gradient)}."
        )
    return gradient.to(device=tensor.device, dtype=tensor.dtype)
