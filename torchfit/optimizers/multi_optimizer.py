"""`MultiOptimizer`, which updates parts of a model with different optimizers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from torchfit._types import Config, StateDict
from torchfit._utils.errors import describe, warn
from torchfit.optimizers import _arguments
from torchfit.optimizers._arguments import reference_rate, scaled_rates
from torchfit.optimizers._binding import require_built_in_steps
from torchfit.optimizers._foreach import Scalar, Tensors, select
from torchfit.optimizers._parameter_store import RestorePlan, is_unused
from torchfit.optimizers._parameters import NamedTensor, Parameters, short_list
from torchfit.optimizers.base import Optimizer
from torchfit.optimizers.optimizer_map import OptimizerMap, resolve
from torchfit.optimizers.schedules.base import LearningRate

Selector: TypeAlias = "Callable[[str, Tensor], object]"
_WRAPPED_BY = ("use_ema", "gradient_accumulation_steps", "loss_scale_factor")


class MultiOptimizer(Optimizer):
    """Update parts of a model with optimizers of their own, chosen by the names of the parameters.

    Each has its own rule, learning rate or schedule, weight decay and clipping. What concerns all gradients or
    parameters together is an argument of the `MultiOptimizer`: `global_clipnorm` over all of them, averages,
    accumulation.

    Args:
        optimizer_map: Which optimizer updates which parameters: a mapping of regular expressions (which match the
            whole name of a parameter) to optimizers or their names, an `OptimizerMap`, or a callable that returns an
            optimizer for `(name, parameter)`.
        default: The optimizer of all other parameters, for a mapping. Default: every parameter must be matched.
        loss_scale_factor: See `Optimizer`.
        name: What the optimizer is called.
        **common: What every optimizer takes, but `weight_decay`; see `Optimizer`.

    Attributes:
        optimizers: The optimizers, in the order of the map, the default one last.

    Raises:
        ValueError: An argument is outside its range, or belongs to the optimizers of the map (or the other way round).

    >>> from torchfit.optimizers import SGD, AdamW
    >>> net = torch.nn.ModuleDict({"backbone": torch.nn.Linear(2, 2), "head": torch.nn.Linear(2, 1)})
    >>> optimizer = MultiOptimizer({"backbone.*": AdamW(1e-5)}, default=SGD(1e-3))
    >>> optimizer.build(net.named_parameters())
    >>> [len(each.parameters) for each in optimizer.optimizers]
    [2, 2]
    >>> optimizer.learning_rate = 2e-5  # all rates times 2
    >>> optimizer["backbone.*"].learning_rate, optimizer["head.bias"].learning_rate
    (2e-05, 0.002)
    """

    wraps_others = True

    def __init__(
        self,
        optimizer_map: Mapping[str, object] | OptimizerMap | Selector,
        default: object = None,
        loss_scale_factor: float | None = None,
        name: str | None = None,
        **common: Any,
    ):
        if common.get("weight_decay") is not None:
            raise ValueError("MultiOptimizer has no argument `weight_decay`: set it on the optimizers of the map.")
        self.optimizer_map = _as_selector(optimizer_map, default)
        self.optimizers: list[Optimizer] = []
        self._positions: list[list[int]] = []
        self._assigned: dict[str, Optimizer] = {}
        self._ratios: list[float] | None = None
        super().__init__(0.0, loss_scale_factor=loss_scale_factor, name=name, **common)
        self._find_optimizers()

    def _init_learning_rate(self, learning_rate: object) -> None:
        """Leave the learning rates to the optimizers of the map."""

    def __getitem__(self, name: str) -> Optimizer:
        """Return the optimizer of a pattern, or of the parameter of this name."""
        if name in self._assigned:
            return self._assigned[name]
        if isinstance(self.optimizer_map, OptimizerMap):
            return self.optimizer_map[name]
        raise KeyError(name)

    def __setitem__(self, pattern: str, optimizer: object) -> None:
        """Let an optimizer update the parameters whose whole name matches a pattern. Before `build` only."""
        if self.built or not isinstance(self.optimizer_map, OptimizerMap):
            raise ValueError("Patterns can be added before the optimizer is built, and to an `OptimizerMap` only.")
        self.optimizer_map[pattern] = optimizer
        self._find_optimizers()

    # Assignment of parameters.

    def _find_optimizers(self) -> None:
        """List the optimizers of the map. Those of a callable are known once it was asked for each parameter."""
        mapped = self.optimizer_map
        if isinstance(mapped, OptimizerMap):
            found = [*(mapped[pattern] for pattern in mapped), mapped.default_optimizer]
            self.optimizers = list({id(each): _checked(each) for each in found if each is not None}.values())

    def _optimizer_of(self, name: str, parameter: Tensor) -> Optimizer:
        """Return the optimizer of a parameter: the one that it had, or the one that the map has for it."""
        if name not in self._assigned:
            found = _checked(resolve(f"optimizer_map({name!r})", self.optimizer_map(name, parameter)))
            known = [each for each in self.optimizers if each is found or _is_alike(each, found)]
            self.optimizers += [] if known else [found]
            self._assigned[name] = known[0] if known else found
        return self._assigned[name]

    def _select_kernels(self) -> None:
        names = self._params.require_names("optimizer_map")
        chosen = [self._optimizer_of(name, tensor) for name, tensor in zip(names, self._parameters)]
        self._positions = [
            [position for position, each in enumerate(chosen) if each is optimizer] for optimizer in self.optimizers
        ]
        if not self.built:
            self._warn_unmatched()

    def _warn_unmatched(self) -> None:
        """Warn about patterns that match no parameter of the module, frozen ones included."""
        names = [name for name, _ in self._tracker.known() if name is not None]
        mapped = self.optimizer_map
        for pattern in mapped if isinstance(mapped, OptimizerMap) and names else ():
            if not any(re.fullmatch(pattern, name) for name in names):
                warn(
                    f"The pattern {pattern!r} of the optimizer map matches the whole name of no parameter. The names "
                    f"are {short_list(names)}."
                )

    def _bind_state(self, params: Parameters, step: int, positions: list[int]) -> None:
        super()._bind_state(params, step, positions)
        entries = list(zip(params.names, params.tensors))
        for optimizer, mine in zip(self.optimizers, self._positions):
            optimizer.bind(Parameters(select(entries, mine)), step)
            optimizer.built = True

    # Updates.

    def update(self, gradients: Sequence[Tensor | None], *numbers: Scalar) -> None:
        """Make one update of every part. See `Optimizer.update`; there is a learning rate for each optimizer."""
        *rates, step = numbers
        with torch.no_grad():
            _, dense_gradients, _, _, present = self._drop_missing(gradients)
            aligned: list[Tensor | None] = [None] * len(self._parameters)
            for position, gradient in zip(present, self._transform(dense_gradients)):
                aligned[position] = gradient
            for optimizer, mine, rate in zip(self.optimizers, self._positions, rates):
                theirs = select(aligned, mine)
                if any(gradient is not None for gradient in theirs):
                    optimizer.update(theirs, rate, step)
            if self.use_ema:
                self._average(step)

    def begin_update(self) -> tuple[float, ...]:
        """Count an update, and return the learning rate of each optimizer, and the step."""
        rates = self.rates_at(self._num_gradients)
        self.count_to(self._num_updates + 1, self._num_gradients + 1)
        return *rates, self._num_updates

    def record_gradients(self) -> bool:
        """Count the gradients of one batch. See `Optimizer.record_gradients`."""
        is_due = super().record_gradients()
        self.count_to(self._num_updates, self._num_gradients)
        return is_due

    def count_to(self, num_updates: int, num_gradients: int) -> None:
        """Count updates and gradients here and in all optimizers."""
        super().count_to(num_updates, num_gradients)
        for optimizer in self.optimizers:
            optimizer.count_to(num_updates, num_gradients)

    @property
    def count_of_numbers(self) -> int:
        """How many numbers an update needs: a learning rate for each optimizer, and the step."""
        return len(self.optimizers) + 1

    # Learning rates.

    @property
    def learning_rate(self) -> float:
        """The learning rate of the first optimizer whose rate is not 0.

        Setting it scales the rates of all by the same factor; that of one is `optimizer[pattern].learning_rate`.

        Raises:
            TypeError: A number is set, and an optimizer has a schedule.
        """
        return reference_rate(self.rates_at(self._num_gradients))

    @learning_rate.setter
    def learning_rate(self, value: object) -> None:
        scheduled = [each.name for each in self.optimizers if callable(each.learning_rate_or_schedule)]
        if scheduled or callable(value):
            raise TypeError(
                f"The learning rates of a MultiOptimizer are scaled together by a number. Received: {describe(value)}; "
                f"decided by schedules: {scheduled}. Set that of one: optimizer[pattern].learning_rate = ..."
            )
        wanted, rates = _arguments.learning_rate(value), self.rates_at(self._num_gradients)
        reference = reference_rate(rates)
        if reference:
            self._ratios = [rate / reference for rate in rates]
        known = self._ratios if len(self._ratios or ()) == len(rates) else None
        for optimizer, rate in zip(self.optimizers, scaled_rates(rates, wanted, known)):
            optimizer.learning_rate = rate

    def learning_rate_at(self, num_gradients: int) -> float:
        """Return the first learning rate that is not 0 after this many gradients."""
        return reference_rate(self.rates_at(num_gradients))

    def rates_at(self, num_gradients: int) -> tuple[float, ...]:
        """Return the learning rate of each optimizer after this many gradients."""
        return tuple(optimizer.learning_rate_at(num_gradients) for optimizer in self.optimizers)

    @property
    def learning_rate_or_schedule(self) -> LearningRate | None:
        """A schedule, if one of the optimizers has one; else the learning rate."""
        given = [optimizer.learning_rate_or_schedule for optimizer in self.optimizers]
        return next((each for each in given if callable(each)), None) or self.learning_rate

    # State.

    def rename(self, entries: Iterable[NamedTensor]) -> None:
        """Take over the names of parameters that are held under others."""
        entries = list(entries)
        super().rename(entries)
        for optimizer in self.optimizers:
            optimizer.rename(entries)

    def slot_variables(self) -> Tensors:
        """List the slots of all optimizers, one optimizer after the other."""
        return [slot for optimizer in self.optimizers for slot in optimizer.slot_variables()]

    def mutable_state(self) -> Tensors:
        """List all tensors that `update` changes."""
        theirs = [tensor for optimizer in self.optimizers for tensor in optimizer.mutable_state()]
        return [*theirs, *self.averages]

    def exclude_from_weight_decay(
        self, var_list: Iterable[Tensor] | None = None, var_names: Iterable[str] | None = None
    ) -> None:
        """Exclude parameters from the weight decay of all optimizers. See `Optimizer.exclude_from_weight_decay`."""
        tensors, patterns = list(var_list or ()), var_names if isinstance(var_names, str) else list(var_names or ())
        for optimizer in self.optimizers:
            optimizer.exclude_from_weight_decay(tensors, patterns)

    def parameter_state(self) -> StateDict:
        """Return the state of all parameters: averages and sums of gradients, and the slots of their optimizers."""
        state = super().parameter_state()
        for optimizer in self.optimizers:
            for name, slots in optimizer.parameter_state()["parameters"].items():
                state["parameters"].setdefault(name, {}).update(slots)
        return state

    def plan_restore(self, state: StateDict, known: Iterable[NamedTensor], *, strict: bool = True) -> RestorePlan:
        """Check a state for all optimizers."""
        known = list(known)
        own, theirs = _split(state, self._all_slots())
        plan = super().plan_restore(own, known, strict=strict)
        tensors = {name: tensor for name, tensor in known if name is not None}
        plans = []
        for optimizer in self.optimizers:
            mine = {
                name: slots
                for name, slots in theirs.items()
                if name in tensors and self._optimizer_of(name, tensors[name]) is optimizer
            }
            plans.append(optimizer.plan_restore({**state, "parameters": mine}, known, strict=False))
        return replace(plan, parts=plans)

    def restore(self, plan: RestorePlan, num_updates: int) -> None:
        """Restore the state of all optimizers."""
        super().restore(plan, num_updates)
        for optimizer, part in zip(self.optimizers, plan.parts):
            optimizer.restore(part, num_updates)

    def state_dict(self) -> StateDict:
        """Return everything that changes in training. See `Optimizer.state_dict`."""
        if self._pending_state is not None:
            return self._pending_state
        rates = [None if callable(each.learning_rate_or_schedule) else each.learning_rate for each in self.optimizers]
        states = [
            {"learning_rate": rate, "shared": dict(optimizer.global_state)}
            for optimizer, rate in zip(self.optimizers, rates)
        ]
        return {**super().state_dict(), "optimizers": states, "rate_ratios": self._ratios}

    def load_state_dict(self, state: StateDict) -> None:
        """Restore what `state_dict` returned. See `Optimizer.load_state_dict`."""
        if self.built:
            states = state.get("optimizers", ())
            if len(states) != len(self.optimizers):
                raise ValueError(
                    f"The state is that of {len(states)} optimizers, and there are {len(self.optimizers)}. Load it "
                    "into an optimizer with the same map."
                )
            for optimizer, saved in zip(self.optimizers, states):
                optimizer.load_shared_state(optimizer.first_global_state() if is_unused(state) else saved["shared"])
        super().load_state_dict(state)
        if self.built:
            self._ratios = state["rate_ratios"]
            self.count_to(self._num_updates, self._num_gradients)
            for optimizer, saved in zip(self.optimizers, state["optimizers"]):
                if saved["learning_rate"] is not None and not callable(optimizer.learning_rate_or_schedule):
                    optimizer.learning_rate = saved["learning_rate"]

    def get_config(self) -> Config:
        """Return the constructor's arguments as plain data, the optimizers of the map among them.

        Raises:
            ValueError: The map is a callable, and was not asked for the parameters yet.
        """
        config = super().get_config()
        del config["learning_rate"], config["weight_decay"]
        mapped = self.optimizer_map if isinstance(self.optimizer_map, OptimizerMap) else self._map_by_names()
        return {**config, "optimizer_map": mapped.get_config()}

    def _map_by_names(self) -> OptimizerMap:
        """Return the results of a callable as a map with the names of all parameters that it was called for."""
        if not self._assigned:
            raise ValueError(
                "Could not save a MultiOptimizer whose map is a callable as plain data before it is built: pass a "
                "mapping or an `OptimizerMap`, or save it after training."
            )
        patterns = {
            "|".join(re.escape(name) for name, each in self._assigned.items() if each is optimizer): optimizer
            for optimizer in self.optimizers
        }
        return OptimizerMap(None, patterns)

    @classmethod
    def from_config(cls, config: Config, custom_objects: Config | None = None) -> MultiOptimizer:
        """Build an optimizer from what `get_config` returned, those of the map included."""
        described = config["optimizer_map"]
        mapped = OptimizerMap.from_config(described.get("config", described), custom_objects)
        return cls(mapped, **{name: value for name, value in config.items() if name != "optimizer_map"})


def _split(state: StateDict, own_slots: Sequence[str]) -> tuple[StateDict, dict[str, dict[str, Tensor]]]:
    """Divide the slots of each parameter into those of all optimizers and those of its own one."""
    own, theirs = {}, {}
    for name, slots in state["parameters"].items():
        is_own = {slot: slot in own_slots or slot.startswith("gradient_sum") for slot in slots}
        own[name] = {slot: tensor for slot, tensor in slots.items() if is_own[slot]}
        theirs[name] = {slot: tensor for slot, tensor in slots.items() if not is_own[slot]}
    return {**state, "parameters": own}, theirs


def _as_selector(optimizer_map: object, default: object) -> OptimizerMap | Selector:
    if isinstance(optimizer_map, Mapping):
        return OptimizerMap(default, optimizer_map)
    if default is not None:
        _arguments.invalid("default", "None unless `optimizer_map` is a mapping", default)
    if not callable(optimizer_map):
        rule = "a mapping of patterns to optimizers, an `OptimizerMap` or a callable"
        _arguments.invalid("optimizer_map", rule, optimizer_map)
    return optimizer_map


def _checked(optimizer: Optimizer) -> Optimizer:
    """Raise if an optimizer has an argument that must be set on the `MultiOptimizer`."""
    for argument in _WRAPPED_BY:
        if getattr(optimizer, argument):
            raise ValueError(
                f"`{argument}` concerns all parameters of the model: set it on the MultiOptimizer, not on "
                f"{optimizer.name!r}."
            )
    require_built_in_steps(optimizer, "MultiOptimizer")
    return optimizer


def _is_alike(optimizer: Optimizer, other: Optimizer) -> bool:
    """Return whether a callable created an equal optimizer again.

    A function as learning rate is compared by identity, since functions of one name may differ.
    """
    rates = [each.learning_rate_or_schedule for each in (optimizer, other)]
    if rates[0] is not rates[1] and any(callable(rate) and not hasattr(rate, "get_config") for rate in rates):
        return False
    try:
        return type(optimizer) is type(other) and optimizer.get_config() == other.get_config()
    except ValueError:  # a lambda is no data
        return False
