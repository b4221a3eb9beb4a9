"""`ParameterStore`, which holds the slots of parameters, and checks and copies of an optimizer's state.

What optimizers of torch save by position is saved by name here: `SavedGroups`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from torchfit._types import StateDict
from torchfit._utils.errors import describe, warn
from torchfit.optimizers._parameters import NamedTensor, Parameters, short_list
from torchfit.optimizers._torch_optim import Group, add_to_group, held_by, options_of


def restore_shared(shared: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Copy the saved tensors that belong to no single parameter, in place."""
    if set(shared) != set(saved):
        raise ValueError(
            f"The optimizer's state for all parameters holds {sorted(saved)}, and this optimizer needs "
            f"{sorted(shared)}. Load it into an optimizer of the same class and arguments."
        )
    with torch.no_grad():
        for name, target in shared.items():
            target.copy_(saved[name])


def require(state: object, keys: tuple[str, ...]) -> None:
    """Check that `state` is a dictionary with the keys of an optimizer's state."""
    if not isinstance(state, Mapping) or any(key not in state for key in keys):
        raise ValueError(
            f"`state` must be what `state_dict()` returned: a dictionary with the keys {list(keys)}. "
            f"Received: {describe(state)}.{_origin(state)}"
        )


def _origin(state: object) -> str:
    """Return where a state is from that belongs to another library or kind of optimizer, and where it can be loaded."""
    if not isinstance(state, Mapping):
        return ""
    if "param_groups" in state:
        return (
            " This is the state of an optimizer of torch.optim. Load it into one: compile the model with it, and call "
            "model.optimizer.optimizer.load_state_dict(state)."
        )
    if "iterations" in state:
        kind = "an optimizer of torch.optim" if "torch" in state else "one of torchfit's own optimizers"
        return f" This is the state of {kind}. Compile the model with the same optimizer as then."
    return ""


def is_unused(state: StateDict) -> bool:
    """Return whether a state is that of an optimizer before it was built, which begins everything afresh."""
    return not state["parameters"] and not state.get("calls")


def to_numpy(variable: Tensor) -> np.ndarray:
    """Return a copy of a tensor as an array; bfloat16, which NumPy does not know, becomes float32."""
    host = variable.detach().cpu()
    copied: np.ndarray = np.array((host.float() if host.dtype == torch.bfloat16 else host).numpy())
    return copied


def check_weights(variables: Sequence[Tensor], weights: Sequence[object]) -> list[Tensor]:
    """Return weights as tensors, if there is one of the right shape for each variable.

    Raises:
        ValueError: There is not.
    """
    values = [torch.as_tensor(np.asarray(value) if not isinstance(value, Tensor) else value) for value in weights]
    if len(values) != len(variables):
        raise ValueError(
            f"`weights` must hold one array for each of the {len(variables)} `variables` of the optimizer (which has "
            f"its slots once it is built). Received: {len(values)} arrays."
        )
    for position, (variable, value) in enumerate(zip(variables, values)):
        if variable.shape != value.shape:
            raise ValueError(
                f"`weights[{position}]` must have the shape {tuple(variable.shape)} of `variables[{position}]`. "
                f"Received: {describe(value)}."
            )
    return values


def copy_weights(variables: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Copy values into variables, in place."""
    with torch.no_grad():
        for variable, value in zip(variables, values):
            variable.copy_(value)


CreateSlot: TypeAlias = "Callable[[str, Tensor, str], Tensor | None]"
Saved: TypeAlias = "Mapping[str, Mapping[str, Tensor]]"


@dataclass
class ParameterEntry:
    """The state of one parameter."""

    name: str
    tensor: Tensor
    given_name: str | None = None
    """The name, if it was given and is not just a number."""
    slots: dict[str, Tensor | None] = field(default_factory=dict)
    start: int = 0
    """While the parameter is trained: how many updates the optimizer made before its first update."""
    age: int = 0
    """While the parameter is not trained: how many updates it took part in."""

    def __post_init__(self) -> None:
        self._dtype = self.tensor.dtype

    def follow_dtype(self) -> None:
        """Cast the slots if the parameter was cast since, as torch's optimizers do when they load a state."""
        if self.tensor.dtype is not self._dtype:
            self._dtype = self.tensor.dtype
            self.slots = {slot: None if value is None else value.to(self._dtype) for slot, value in self.slots.items()}

    def named_slots(self) -> dict[str, Tensor]:
        """Return the slots that this parameter has."""
        return {slot: tensor for slot, tensor in self.slots.items() if tensor is not None}


class ParameterStore:
    """The state of the trained parameters, and of frozen or removed ones that may come back."""

    def __init__(self) -> None:
        self.active: list[ParameterEntry] = []
        self.inactive: list[ParameterEntry] = []

    @property
    def held(self) -> list[NamedTensor]:
        """All parameters that have a state."""
        return [(entry.given_name, entry.tensor) for entry in [*self.active, *self.inactive]]

    def slot(self, name: str) -> list[Any]:
        """Return one slot of all trained parameters, `None` for those without."""
        return [entry.slots.get(name) for entry in self.active]

    def rebind(self, params: Parameters, slots: Sequence[str], create: CreateSlot, step: int) -> None:
        """Train these parameters from now on, after `step` updates: with their state if they have one, or a new one."""
        known = {id(entry.tensor): entry for entry in [*self.active, *self.inactive]}
        for each in known.values():
            each.follow_dtype()
        trained = set(map(id, self.active))
        active = []
        for name, given_name, tensor in zip(params.names, params.given_names, params.tensors):
            entry = known.pop(id(tensor), None)
            if entry is None:
                entry = ParameterEntry(name, tensor, start=step)
            elif id(entry) not in trained:
                entry.start = step - entry.age
            entry.name, entry.given_name = name, given_name
            self._complete(entry, slots, create)
            active.append(entry)
        names = set(params.names)
        inactive = [entry for entry in known.values() if entry.name not in names]
        for entry in inactive:
            if id(entry) in trained:
                entry.age = step - entry.start
        self.active, self.inactive = active, inactive

    def rename(self, entries: Iterable[NamedTensor]) -> None:
        """Take over the names of parameters that are held under others, or without."""
        names = {id(tensor): name for name, tensor in entries}
        for entry in self.inactive:
            name = names.get(id(entry.tensor))
            if name is not None:
                entry.name = entry.given_name = name

    def add_slot(self, slot: str, create: CreateSlot) -> None:
        """Give all parameters one more slot."""
        for entry in [*self.active, *self.inactive]:
            self._complete(entry, [slot], create)

    def _complete(self, entry: ParameterEntry, slots: Sequence[str], create: CreateSlot) -> None:
        for slot in slots:
            if slot not in entry.slots:
                entry.slots[slot] = create(slot, entry.tensor.detach(), entry.name)

    # Saving.

    def state_dict(self) -> StateDict:
        """Return the slots by parameter and slot, and when parameters began, where that differs from the others."""
        return {
            "parameters": {entry.name: entry.named_slots() for entry in [*self.active, *self.inactive]},
            "starts": {entry.name: entry.start for entry in self.active if entry.start},
            "inactive": {entry.name: entry.age for entry in self.inactive},
        }

    def plan(
        self, state: StateDict, known: Iterable[NamedTensor], create: CreateSlot, *, strict: bool = True
    ) -> RestorePlan:
        """Check what `state_dict` returned, and return what restores it. Nothing is changed yet.

        Args:
            state: What `state_dict` returned, perhaps of an earlier version.
            known: Parameters that are not trained, but may have a state.
            create: Makes the first value of a slot.
            strict: Refuse a state of which nothing fits.

        Raises:
            ValueError: The state belongs to other parameters or to another kind of optimizer.
        """
        sources = self._by_position(state) or state["parameters"]
        unbound = [ParameterEntry(name, tensor, name) for name, tensor in known if name is not None and name in sources]
        entries = {entry.name: entry for entry in [*unbound, *self.inactive, *self.active]}
        active = {entry.name for entry in self.active}
        if strict and not is_unused(state):
            _require_overlap(list(entries), state["parameters"], sources)
        steps = [RestoreStep(entry, sources.get(name), name in active) for name, entry in entries.items()]
        misfits = [misfit for step in steps if (misfit := step.check(create))]
        if strict and misfits and len(misfits) == sum(name in sources for name in entries):
            raise misfits[0]
        order = [name for name in sources if name not in state.get("inactive", {})]
        places = {name: position for position, name in enumerate(order)}
        return RestorePlan(
            steps,
            dropped=[name for name in sources if name not in entries],
            positions=[places.get(entry.name, -1) for entry in self.active],
            starts=state.get("starts", {}),
            ages=state.get("inactive", {}),
            is_unused=is_unused(state),
        )

    def restore(self, plan: RestorePlan, create: CreateSlot, num_updates: int) -> None:
        """Carry out a plan, after this many updates."""
        held = {id(entry) for entry in [*self.active, *self.inactive]}
        with torch.no_grad():
            for step in plan.steps:
                step.copy(create)
                plan.restore_age(step, num_updates)
        self.inactive += [step.entry for step in plan.steps if id(step.entry) not in held and step.source is not None]

    def _by_position(self, state: StateDict) -> Saved | None:
        """Return the saved state under the names of here, if all names differ but their number does not."""
        saved, inactive = state["parameters"], state.get("inactive", {})
        trained = [slots for name, slots in saved.items() if name not in inactive]
        names = [entry.name for entry in self.active]
        if set(names) & set(saved) or len(trained) != len(names):
            return None
        return dict(zip(names, trained))


@dataclass
class RestoreStep:
    """The restoration of one parameter from its saved state, or from a new one (`None`)."""

    entry: ParameterEntry
    source: Mapping[str, Tensor] | None
    is_active: bool

    def check(self, create: CreateSlot) -> ValueError | None:
        """Return why the shapes do not fit, and use a new state then; raise if the slots are those of another rule."""
        if self.source is None:
            return None
        if not self.is_active:
            for slot in self.source:
                if slot not in self.entry.slots:
                    self.entry.slots[slot] = create(slot, self.entry.tensor.detach(), self.entry.name)
        misfit = _misfit(self.entry, self.source)
        if misfit is not None:
            self.source = None
        return misfit

    def copy(self, create: CreateSlot) -> None:
        """Copy the tensors in place."""
        for slot, target in self.entry.named_slots().items():
            if self.source is None:
                value = create(slot, self.entry.tensor.detach(), self.entry.name)
            else:
                value = self.source.get(slot)  # sums of gradients may be missing
            target.zero_() if value is None else target.copy_(value)


@dataclass
class RestorePlan:
    """The assignment of saved tensors to slots."""

    steps: list[RestoreStep]
    dropped: list[str]
    """Parameters of the saved state that are not here."""
    positions: list[int]
    """Where each trained parameter stood among those that were saved; -1 for a new one."""
    starts: Mapping[str, int]
    ages: Mapping[str, int]
    parts: Sequence[RestorePlan] = ()
    """The plans of the optimizers that this one is made of."""
    is_unused: bool = False
    """Whether the state is that of an optimizer that was not built yet."""

    def restore_age(self, step: RestoreStep, num_updates: int) -> None:
        """Count the updates of a parameter on from where they were, whether it was trained then, and is now, or not."""
        entry, age = step.entry, 0
        if step.source is not None:
            age = self.ages.get(entry.name, num_updates - self.starts.get(entry.name, 0))
        entry.age, entry.start = age, num_updates - age

    def warn(self) -> None:
        """Warn about parameters without a saved state, and about unused parts of the saved state."""
        if self.is_unused:
            return
        fresh = [step.entry.name for step in self.steps if step.source is None and step.is_active]
        problems = [f"there is none for {short_list(fresh)}, which start afresh"] if fresh else []
        problems += [f"what it holds for {short_list(self.dropped)} is not used"] if self.dropped else []
        if problems:
            warn(f"The optimizer's state was saved for other parameters: {', and '.join(problems)}.")


def _require_overlap(names: list[str], saved: Saved, sources: Saved) -> None:
    if (names or saved) and not set(names) & set(sources):
        raise ValueError(
            f"The optimizer's state belongs to other parameters: it has none for {short_list(names)}, and some for "
            f"{short_list(saved)} "
            f"({len(names)} parameters here, {len(saved)} there). Load it into an optimizer built with the same ones."
        )


def _misfit(entry: ParameterEntry, source: Mapping[str, Tensor]) -> ValueError | None:
    targets = entry.named_slots()
    if _without_sums(targets) != _without_sums(source):
        raise ValueError(
            f"The optimizer's state for {entry.name} holds {sorted(source)}, and this optimizer needs "
            f"{sorted(targets)}. Load it into an optimizer of the same class and arguments."
        )
    for slot, target in targets.items():
        if slot in source and target.shape != source[slot].shape:
            return ValueError(
                f"The optimizer's state {slot!r} for {entry.name} must have the shape {tuple(target.shape)}. "
                f"Received: {describe(source[slot])}."
            )
    return None


def _without_sums(slots: Iterable[str]) -> set[str]:
    """Leave out accumulated gradients, which an optimizer with other steps of accumulation does without."""
    return {slot for slot in slots if not slot.startswith("gradient_sum")}


# -- optimizers of torch --------------------------------------------------------------------------------------------


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
