"""Binds an optimizer to parameters, and updates the binding when layers are frozen, unfrozen or replaced."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from torchfit._types import StateDict
from torchfit._utils.errors import describe, warn
from torchfit.optimizers import _arguments
from torchfit.optimizers._accumulation import SUM, GradientAccumulationMixin, GradientAccumulator
from torchfit.optimizers._foreach import Scalar, Slots, Tensors, select
from torchfit.optimizers._parameter_store import ParameterStore, RestorePlan
from torchfit.optimizers._parameters import (
    NamedTensor,
    ParameterChanges,
    Parameters,
    ParameterTracker,
    named_tensors,
    trainable,
    without,
    zero_gradients,
)

AVERAGE = "average"
LEAST_EPSILON_OF_FLOAT16 = 2.0**-23
"""float16 rounds less than half of 6e-8 to 0, and 0 / 0 is no update. Twice that keeps the quotients finite."""


_APPLY = ("apply", "apply_gradients")
STEP_METHODS = (*_APPLY, "step", "zero_grad")
"""What an eager step may call. A subclass that overrides one of them is stepped after each batch, without a graph."""


def overridden_method(optimizer: object, *names: str) -> str | None:
    """Return the first of these methods that a subclass outside torchfit or the object itself overrides, or `None`."""
    for name in names:
        method = vars(optimizer).get(name, getattr(type(optimizer), name))
        if not str(getattr(method, "__module__", "")).startswith("torchfit."):
            return name
    return None


def require_built_in_steps(optimizer: object, caller: str) -> None:
    """Raise if an optimizer that another one calls overrides a method that is not called then."""
    name = overridden_method(optimizer, *STEP_METHODS)
    if name is not None:
        raise ValueError(
            f"{type(optimizer).__name__} overrides `{name}`, which {caller} does not call. Override "
            "`update(self, gradients, *numbers)` instead, which gets the gradients of every update."
        )


class BindingMixin(GradientAccumulationMixin):
    """A mixin for optimizers that manages their parameters."""

    supports_complex = False
    """Whether the rule supports complex parameters. If not, building the optimizer with complex parameters raises."""

    use_ema: bool

    steps_each_batch = False
    """Whether the gradients of every batch go through `step`, even if they are accumulated: a method is overridden."""

    _own_apply: str | None = None

    param_groups = _arguments.OnlyInTorch(
        "Arguments such as `learning_rate` are attributes. Parts with arguments of their own are those of a "
        "MultiOptimizer; a scheduler of torch is made by the callback TorchLRScheduler(lambda optimizer: …)."
    )
    state = _arguments.OnlyInTorch("`variables` lists the state, and `state_dict()` returns it by name.")
    defaults = _arguments.OnlyInTorch("`get_config()` returns the arguments.")
    add_param_group = _arguments.OnlyInTorch(
        "Parameters that become trainable are added before the next epoch, or by model.build_optimizer()."
    )

    @property
    def iterations(self) -> int:
        """The number of updates made."""
        return self._num_updates

    def __init__(self) -> None:
        self.built = False
        self._store = ParameterStore()
        self._tracker = ParameterTracker()
        self._params = Parameters([])
        self._num_bindings = 0
        self._parameters: Tensors = []
        self._with_grad: Tensors = []
        self._slots: Slots = ()
        self._averages: Tensors = []
        self._clears_module = False
        self._updates_at_binding = 0
        self._epsilon_floor = 0.0
        self._cohorts: list[tuple[int, list[int]]] | None = None
        self._global_state: dict[str, Tensor] = {}
        self._accumulator = GradientAccumulator()
        self._decay_mask: list[bool] = []
        self._decay_exclusions: tuple[list[Tensor], list[str]] = ([], [])
        self._pending_state: StateDict | None = None

    def slot_names(self) -> tuple[str, ...]:
        """Name the state that the rule keeps for each parameter."""
        raise NotImplementedError

    def init_slot(self, slot: str, parameter: Tensor, name: str) -> Tensor | None:
        """Return the first value of a slot."""
        raise NotImplementedError

    def create_global_state(self, parameters: Tensors) -> dict[str, Tensor]:
        """Return the state that the rule keeps once for all parameters, by name."""
        raise NotImplementedError

    def load_state_dict(self, state: StateDict) -> None:
        """Restore what `state_dict` returned."""
        raise NotImplementedError

    def apply(self, grads: Sequence[Tensor | None], trainable_variables: Iterable[Tensor] | None = None) -> None:
        """Make an update with these gradients."""
        raise NotImplementedError

    def apply_gradients(self, grads_and_vars: Iterable[tuple[Tensor | None, Tensor]]) -> int:
        """Make an update with `(gradient, parameter)` pairs."""
        raise NotImplementedError

    # For users.

    def build(self, parameters: Iterable[object]) -> None:
        """Bind the optimizer to parameters, or to `(name, parameter)` pairs, and create its state.

        Parameters with `requires_grad=False` are left out until `sync_parameters` finds them trainable. Binding again
        to the same ones (or some of them) changes nothing; other parameters raise a `ValueError`. State that was
        loaded before is restored here.
        """
        entries = named_tensors(parameters)
        if self.built:
            self._take_in(entries)
        else:
            self._build(entries, is_module=False)

    def sync_parameters(self, named_parameters: Iterable[object], build: bool = True) -> ParameterChanges:
        """Train the currently trainable parameters of a module. Call it after layers were frozen, unfrozen or replaced.

        Parameters that became trainable are added, with new slots. Those that were frozen or removed are no longer
        updated, but keep their slots in case they come back. An optimizer that the user bound to a part of the module
        (`build`, `apply`) trains only that part, and warns once about other parameters that become trainable.

        Args:
            named_parameters: All `(name, parameter)` pairs of the module, frozen ones included.
            build: Whether to bind the optimizer to them if it is not bound yet. With `False`, as for a custom
                `train_step`, it only records them: `step` binds to all of them, `apply` to those passed to it. The
                parameters that such a step trains stay bound even if they are temporarily frozen, as the discriminator
                of a GAN is.

        Returns:
            The names of the parameters that are trained from now on, and of those that no longer are; false if nothing
            changed. Compiled steps are invalid if something did.
        """
        entries = named_tensors(named_parameters)
        was_clearing_module, self._clears_module = self._clears_module, build
        if not self.built:
            self._offer(entries, build)
            return ParameterChanges(added=tuple(self._params.names))
        if not self._tracker.has_changed(entries) and was_clearing_module == build:
            return ParameterChanges()
        is_whole = build or self._tracker.follows
        if is_whole and entries and self.held and len(without(entries, self.held)) == len(entries):
            raise ValueError(
                "The optimizer is bound to other parameters than the model's. Create a new optimizer for this model."
            )
        before = self._params
        kept = () if build else before.tensors
        trained = self._tracker.trained(entries, self.held, kept, admits=build)
        self._rebind(Parameters(self._tracker.with_names(trained)))
        return ParameterChanges.between(before, self._params)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of the parameters, frozen ones included: `grad` becomes `None`, or 0 as in torch.

        An optimizer that `sync_parameters` bound to a module clears the gradients of the whole module; one bound
        to a part, in a custom step, those of this part. Accumulated gradients are kept.
        """
        if set_to_none:
            for parameter in self._with_grad:
                parameter.grad = None
        else:
            zero_gradients(self._with_grad)

    def exclude_from_weight_decay(
        self, var_list: Iterable[Tensor] | None = None, var_names: Iterable[str] | None = None
    ) -> None:
        """Exclude parameters from weight decay: those in `var_list`, and those in whose name a pattern occurs.

        Args:
            var_list: Parameters.
            var_names: Regular expressions, such as `["bias", "norm"]`. They need names: `build` must be given
                `(name, parameter)` pairs (`module.named_parameters()`).
        """
        if isinstance(var_names, str):
            _arguments.invalid("var_names", "a list of strings", var_names)
        self._decay_exclusions = (list(var_list or ()), list(var_names or ()))
        if self.built:
            self._update_decay_mask()

    def _excluded_names(self) -> list[str]:
        """Return patterns for the names of what is excluded from weight decay, to be saved."""
        listed, patterns = self._decay_exclusions
        named = self._tracker.with_names((None, tensor) for tensor in listed)
        if any(name is None for name, _ in named):
            warn(
                "The parameters in `var_list` that are excluded from weight decay have no names yet, and cannot be "
                "saved. Exclude them by `var_names`, or save the optimizer once it is built."
            )
        return [*patterns, *(f"^{re.escape(name)}$" for name, _ in named if name is not None)]

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters that the optimizer currently trains, in order."""
        return list(self._parameters)

    @property
    def binding_key(self) -> tuple[int, ...]:
        """A key that changes when the optimizer is bound to other parameters."""
        return (self._num_bindings,)

    @property
    def compile_blocker(self) -> str | None:
        """The reason why a step with this optimizer cannot be compiled, or `None`."""
        overridden = overridden_method(self, *STEP_METHODS)
        return None if overridden is None else f"`{overridden}` of the optimizer is overridden"

    # For optimizers that wrap this one.

    @property
    def held(self) -> list[NamedTensor]:
        """The parameters that have a state, whether they are currently trained or not."""
        return self._store.held

    def rename(self, entries: Iterable[NamedTensor]) -> None:
        """Update the names of known parameters."""
        self._store.rename(entries)

    def parameter_state(self) -> StateDict:
        """Return the part of the state that belongs to single parameters."""
        return self._store.state_dict()

    def first_global_state(self) -> dict[str, Tensor]:
        """Return the first value of the state that belongs to no single parameter."""
        return self.create_global_state(self._parameters)

    def plan_restore(self, state: StateDict, known: Iterable[NamedTensor], *, strict: bool = True) -> RestorePlan:
        """Check the result of `parameter_state`, and return a plan for `restore`, without changing anything."""
        return self._store.plan(state, known, self._first_value, strict=strict)

    def restore(self, plan: RestorePlan, num_updates: int) -> None:
        """Carry out a plan, after `step` updates."""
        self._updates_at_binding = num_updates
        self._store.restore(plan, self._first_value, num_updates)
        self._update_cohorts()

    # Behind them.

    def _offer(self, entries: list[NamedTensor], build: bool) -> None:
        """Remember a module's parameters, and bind to them if that is wanted or a saved state is waiting for them."""
        self._tracker.module = entries
        self._with_grad = [tensor for _, tensor in entries]
        state = self._pending_state or {"follows": build, "parameters": ()}
        is_whole = state.get("follows", True)
        part = [] if is_whole else [entry for entry in entries if entry[0] in state["parameters"]]
        if part:
            self._build(part, is_module=False)
        elif is_whole or build:
            self._build(entries, is_module=True)

    def _build(self, entries: list[NamedTensor], *, is_module: bool) -> None:
        self._tracker.give(entries, is_module=is_module)
        if is_module:
            self._tracker.has_changed(entries)
        self._rebind(Parameters(self._tracker.with_names(trainable(entries))))
        self.built = True
        if self._pending_state is not None:
            pending, self._pending_state = self._pending_state, None
            self.load_state_dict(pending)

    def _require_built(self) -> None:
        """Bind to the parameters of the recorded module, or raise if there is none."""
        if not self.built:
            if not self._tracker.module:
                raise ValueError(
                    "The optimizer is bound to no parameters. Call optimizer.build(parameters) first, such as "
                    "optimizer.build(module.named_parameters()), or pass the parameters: "
                    "optimizer.apply(grads, parameters)."
                )
            self._build(self._tracker.module, is_module=True)

    def _take_in(self, entries: list[NamedTensor]) -> None:
        """Train further parameters, if they were given or shown before; raise if they are foreign."""
        candidates = trainable(entries)
        new = self._params.unknown([tensor for _, tensor in candidates])
        if not new:
            return
        foreign = without(without([(None, tensor) for tensor in new], self.held), self._tracker.known())
        for _, tensor in foreign:
            raise ValueError(
                f"Unknown parameter: {describe(tensor)}. An optimizer works for the parameters that it was "
                "built with only. Create a new one for a new set of parameters."
            )
        added = [entry for entry in candidates if any(entry[1] is tensor for tensor in new)]
        self._tracker.give(added)
        bound = list(zip(self._params.given_names, self._params.tensors))
        self._rebind(Parameters(self._tracker.with_names([*bound, *added])))

    def _rebind(self, params: Parameters) -> None:
        self.rename(self._tracker.with_names(self.held))
        self.bind(params, self.iterations)
        self._with_grad = self._tracker.cleared(self.held, whole_module=self._clears_module)
        self._own_apply = overridden_method(self, *_APPLY)
        self.steps_each_batch = overridden_method(self, *STEP_METHODS) is not None

    def _apply_overridden(self, gradients: Tensors, num_samples: Scalar | None) -> None:
        """Let an overridden `apply` or `apply_gradients` make the update, with the arguments of Keras."""
        self._step_samples = (num_samples,)
        try:
            with torch.no_grad():
                if self._own_apply == "apply":
                    self.apply(gradients, self.parameters)
                else:
                    self.apply_gradients(zip(gradients, self.parameters))
        finally:
            self._step_samples = None

    def bind(self, params: Parameters, step: int = 0) -> None:
        """Train these parameters, after `step` updates, with the state that they have or a new one.

        Called by `build` and `sync_parameters`, and by an optimizer that wraps this one.
        """
        self._check(params)
        is_narrow = any(tensor.dtype == torch.float16 for tensor in params.tensors)
        self._epsilon_floor = LEAST_EPSILON_OF_FLOAT16 if is_narrow else 0.0
        positions = self._positions_in(params)
        self._params, self._parameters, self._updates_at_binding = params, params.tensors, step
        self._num_bindings += 1
        self._select_kernels()
        self._bind_state(params, step, positions)
        if not self.built:
            self._global_state = self.first_global_state()
        self._update_decay_mask()

    def _bind_state(self, params: Parameters, step: int, positions: list[int]) -> None:
        """Keep, create or set aside the tensors of each parameter."""
        self._store.rebind(params, self._all_slots(), self._first_value, step)
        self._view_state(positions)

    def _view_state(self, positions: list[int]) -> None:
        """Look at the state of the store in the order of the parameters."""
        store = self._store
        self._slots = tuple(store.slot(name) for name in self.slot_names())
        self._averages = store.slot(AVERAGE) if self.use_ema else []
        device = self._parameters[0].device if self._parameters else None
        self._accumulator.rebind([store.slot(name) for name in self._sum_names()], positions, device)
        self._update_cohorts()

    def _update_cohorts(self) -> None:
        starts = [entry.start for entry in self._store.active]
        by_start = groupby(sorted(range(len(starts)), key=starts.__getitem__), key=starts.__getitem__)
        self._cohorts = [(start, list(positions)) for start, positions in by_start] if any(starts) else None

    def _positions_in(self, params: Parameters) -> list[int]:
        before = {id(tensor): position for position, tensor in enumerate(self._parameters)}
        return [before.get(id(tensor), -1) for tensor in params.tensors]

    def _all_slots(self) -> list[str]:
        return [*self.slot_names(), *([AVERAGE] if self.use_ema else []), *self._sum_names()]

    def _sum_names(self) -> list[str]:
        """Return the slots of the sums of gradients, one for each group."""
        groups = len(self._accumulator.sums) or int(self.gradient_accumulation_steps is not None)
        return [SUM if group == 0 else f"{SUM}_{group}" for group in range(groups)]

    def require_accumulation_group(self, group: int) -> None:
        """Create the sums of a group of losses, unless they are there."""
        if group >= len(self._accumulator.sums):
            self._accumulator.sums += [[]] * (group + 1 - len(self._accumulator.sums))
            for name in self._sum_names():
                self._store.add_slot(name, self._first_value)
            self._view_state(list(range(len(self._parameters))))

    def _require_saved_groups(self, state: StateDict) -> None:
        """Create the sums of the groups of losses that a saved state was accumulating."""
        saved = {slot for slots in state["parameters"].values() for slot in slots if slot.startswith(SUM)}
        if state["window"]["count"] and self._accumulator.sums:
            self.require_accumulation_group(len(saved) - 1)

    def _first_value(self, slot: str, parameter: Tensor, name: str) -> Tensor | None:
        """Return the first value of a slot, defined by the rule or common to all rules."""
        if slot == AVERAGE and self._updates_at_binding:
            return parameter.clone()  # the first update sets the averages, but for those that come later
        if slot == AVERAGE or slot.startswith(SUM):
            return torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return self.init_slot(slot, parameter, name)

    def _check(self, params: Parameters) -> None:
        for name, tensor in zip(params.names, params.tensors):
            if tensor.is_complex() and not self.supports_complex:
                raise ValueError(
                    f"{type(self).__name__} is not defined for complex parameters, and {name!r} is "
                    f"{describe(tensor)}. Use SGD, an optimizer of torch.optim, or a parameter with a real and an "
                    "imaginary part (torch.view_as_complex makes it complex in the forward pass)."
                )

    def _select_kernels(self) -> None:
        """Select kernels for the parameters."""

    def _update_decay_mask(self) -> None:
        self._decay_mask = [not excluded for excluded in self._params.select(*self._decay_exclusions)]


def by_cohort(
    cohorts: Sequence[tuple[int, list[int]]], present: Sequence[int], *columns: Sequence[object]
) -> Iterable[tuple[int, list[list[Any]]]]:
    """Yield the start of each cohort with its part of the columns, which hold entries for the present positions.

    >>> list(by_cohort([(0, [0, 2]), (5, [1])], [1, 2], ["b", "c"]))
    [(0, [['c']]), (5, [['b']])]
    """
    place = {position: number for number, position in enumerate(present)}
    for start, positions in cohorts:
        numbers = [place[position] for position in positions if position in place]
        if numbers:
            yield start, [select(column, numbers) for column in columns]
