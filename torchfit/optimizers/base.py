"""The base class of optimizers: binding to parameters, clipping, weight decay, averaging, accumulation and state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from torchfit._types import Config, StateDict, TensorLike
from torchfit._utils.errors import warn
from torchfit._utils.names import SuggestsKeywords, snake_case
from torchfit._utils.registry import Registry
from torchfit.optimizers import _arguments, _foreach, _parameter_store
from torchfit.optimizers._accumulation import GradientAccumulator
from torchfit.optimizers._binding import BindingMixin, by_cohort
from torchfit.optimizers._foreach import Scalar, Tensors, copy_where_, ema_, weight_decay_
from torchfit.optimizers._foreach import Slots as Slots
from torchfit.optimizers._parameters import NamedTensor
from torchfit.optimizers.schedules.base import LearningRate, Schedule, as_schedule
from torchfit.optimizers.schedules.decay import deserialize, serialize

_gradient_of = attrgetter("grad")
_Aligned: TypeAlias = "tuple[Tensors, Tensors, Slots, list[bool], Sequence[int]]"
Closure: TypeAlias = "Callable[[], Tensor]"

REGISTRY = Registry("optimizer", "torchfit.optimizers", {})
"""The optimizers by name, entered by `identifiers`; optimizers that wrap another one save and build it with this."""


class Optimizer(SuggestsKeywords, BindingMixin):
    """Base class of all optimizers, which are created without parameters and bound to them by `build`.

    To write a rule, subclass it, name the state in `slot_names` and define `update_rule` with foreach calls on lists of
    tensors; clipping, decay, schedules, averages, accumulation and saving are inherited.

    Args:
        learning_rate: A number >= 0 (held as float32), a `LearningRateSchedule`, or a callable that maps the
            step to a number.
        weight_decay: Each update first takes `parameter * weight_decay * learning_rate` off every parameter
            (decoupled, in every optimizer). Default `None`: no decay.
        clipnorm: Shrink each gradient whose Euclidean norm is above this to this norm.
        clipvalue: Bring each element of the gradients into [-clipvalue, clipvalue].
        global_clipnorm: Shrink all gradients together to a norm of at most this. Only one of the three may be set.
        use_ema: Keep a moving average of the parameters, from their values after the first update on;
            `finalize_variable_values` writes it into the parameters.
        ema_momentum: How much of the average is kept at each update, in [0, 1]. Default 0.99.
        ema_overwrite_frequency: Write the average into the parameters every n updates. Default `None`: never.
        loss_scale_factor: The loss was multiplied by this (`scale_loss`); gradients are divided by it.
        gradient_accumulation_steps: Make one update for this many gradients (>= 2), with their mean; in `fit` also for
            fewer, at the end of an epoch (Keras accumulates on in the next one).
        name: What the optimizer is called. Default: the class name in snake case.

    Raises:
        ValueError: An argument is unknown or outside its range.

    Sparse gradients (`nn.Embedding(sparse=True)`) are converted to dense ones before the update, with their memory.

    >>> import torch
    >>> class SignDescent(Optimizer):
    ...     def update_rule(self, parameters, gradients, slots, learning_rate, step):
    ...         torch._foreach_sub_(parameters, [g.sign() * learning_rate for g in gradients])
    >>> weight = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
    >>> optimizer = SignDescent(learning_rate=0.5)
    >>> optimizer.build([weight])
    >>> optimizer.apply([torch.tensor([3.0, -0.1])])
    >>> weight.data
    tensor([ 0.5000, -0.5000])
    """

    def __init__(
        self,
        learning_rate: LearningRate,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
        **unknown: object,
    ):
        if_not_none, positive = _arguments.if_not_none, _arguments.positive
        if unknown.pop("decay", None) is not None:
            warn("`decay` is ignored: pass a schedule as `learning_rate` instead.")
        if unknown:
            _arguments.no_unknown_kwargs(type(self).__name__, unknown, _arguments.init_arg_names(type(self)))
        _arguments.at_most_one(clipnorm=clipnorm, clipvalue=clipvalue, global_clipnorm=global_clipnorm)
        self.name = name or snake_case(type(self).__name__)
        self.weight_decay = if_not_none(_arguments.non_negative, "weight_decay", weight_decay)
        self.clipnorm = if_not_none(positive, "clipnorm", clipnorm)
        self.clipvalue = if_not_none(positive, "clipvalue", clipvalue)
        self.global_clipnorm = if_not_none(positive, "global_clipnorm", global_clipnorm)
        self.use_ema = bool(use_ema)
        self.ema_momentum = _arguments.in_unit_interval("ema_momentum", ema_momentum)
        self.ema_overwrite_frequency = if_not_none(
            _arguments.integer, "ema_overwrite_frequency", ema_overwrite_frequency, 1
        )
        self.loss_scale_factor = if_not_none(positive, "loss_scale_factor", loss_scale_factor)
        self.gradient_accumulation_steps = if_not_none(
            _arguments.integer, "gradient_accumulation_steps", gradient_accumulation_steps or None, 2
        )
        super().__init__()
        self._num_updates = 0
        self._num_gradients = 0
        self._is_applied_to_some = False
        self._schedule: Schedule | None = None
        self._schedule_arg: Callable[..., TensorLike] | None = None
        self._learning_rate = 0.0
        self._init_learning_rate(learning_rate)

    def _init_learning_rate(self, learning_rate: object) -> None:
        self.learning_rate = learning_rate

    # Defined by subclasses.

    interleaved_slots = 2
    """How many slots alternate parameter by parameter in `variables`; the others follow slot by slot."""

    def slot_names(self) -> tuple[str, ...]:
        """Name the state that the rule keeps for each parameter, such as `("momentum", "velocity")`."""
        return ()

    def init_slot(self, slot: str, parameter: Tensor, name: str) -> Tensor | None:
        """Return the first value of a slot for the parameter called `name`: zeros, unless the rule says otherwise."""
        return torch.zeros_like(parameter, memory_format=torch.preserve_format)

    def create_global_state(self, parameters: Tensors) -> dict[str, Tensor]:
        """Return the state that the rule keeps once for all parameters, by name."""
        return {}

    def update_rule(
        self, parameters: Tensors, gradients: Tensors, slots: Slots, learning_rate: Scalar, step: Scalar
    ) -> None:
        """Change the parameters and slots in place.

        `parameters`, `gradients` and each list in `slots` (in the order of `slot_names`) are aligned and hold no
        parameter without a gradient. `learning_rate` and `step` (1 at the first update) are numbers, or 0-d
        float32 tensors inside a graph: calculate with them, do not branch on them. Parameters that are trained since
        different updates (layers that were unfrozen) come in calls of their own, each with its own `step`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must define update_rule(parameters, gradients, slots, learning_rate, step)."
        )

    # The pure core.

    def update(self, gradients: Sequence[Tensor | None], *numbers: Scalar) -> None:
        """Make one update: clip, decay, apply the rule, average. Everything happens on tensors, in place.

        Counts nothing and reads no tensor on the host, so it may be part of a compiled or captured graph.

        Args:
            gradients: One tensor for each parameter, of its shape, or `None`.
            *numbers: What `begin_update` returned, as numbers, or as 0-d float32 tensors inside a graph: the learning
                rate, and which update this is, from 1.
        """
        learning_rate, step = numbers
        with torch.no_grad():
            parameters, dense_gradients, slots, decay_mask, present = self._drop_missing(gradients)
            if self.loss_scale_factor or self.clipnorm or self.clipvalue or self.global_clipnorm:
                dense_gradients = self._transform(dense_gradients)
            self._decay(parameters, decay_mask, slots, learning_rate)
            if self._cohorts is None:
                self.update_rule(parameters, dense_gradients, slots, learning_rate, step)
            else:
                for start, (some, theirs, *state) in by_cohort(
                    self._cohorts, present, parameters, dense_gradients, *slots
                ):
                    self.update_rule(some, theirs, tuple(state), learning_rate, step - start)
            if self.use_ema:
                self._average(step)

    def _transform(self, gradients: Tensors) -> Tensors:
        """Divide gradients by the scale of the loss, and clip them."""
        if self.loss_scale_factor is not None:
            gradients = list(torch._foreach_div(gradients, self.loss_scale_factor))
        return _foreach.clip(gradients, self.clipnorm, self.clipvalue, self.global_clipnorm)

    def _drop_missing(self, gradients: Sequence[Tensor | None]) -> _Aligned:
        """Drop parameters without a gradient, and convert sparse gradients to dense ones."""
        dense_gradients = [gradient for gradient in gradients if gradient is not None and not gradient.is_sparse]
        if len(dense_gradients) == len(self._parameters):
            return self._parameters, dense_gradients, self._slots, self._decay_mask, range(len(self._parameters))
        return self._drop_missing_slow(gradients)

    def _drop_missing_slow(self, gradients: Sequence[Tensor | None]) -> _Aligned:
        present = [position for position, gradient in enumerate(gradients) if gradient is not None]
        if len(gradients) != len(self._parameters):
            raise ValueError(
                f"`gradients` must hold one entry for each of the {len(self._parameters)} parameters that the "
                f"optimizer was built with, in their order. Received: {len(gradients)} gradients."
            )
        if not torch.compiler.is_compiling():
            self._params.warn_missing_gradients(present, is_meant=self._is_applied_to_some)
        found = [gradient for gradient in gradients if gradient is not None]
        return (
            [self._parameters[position] for position in present],
            [gradient.to_dense() if gradient.is_sparse else gradient for gradient in found],
            tuple([slot[position] for position in present] for slot in self._slots),
            [self._decay_mask[position] for position in present],
            present,
        )

    def _decay(self, parameters: Tensors, decay_mask: list[bool], slots: Slots, learning_rate: Scalar) -> None:
        """Apply weight decay to the parameters that are not excluded."""
        if self.weight_decay:
            weight_decay_(parameters, decay_mask, self.weight_decay, learning_rate)

    def _average(self, step: Scalar) -> None:
        """Move the averages towards the parameters; the first update sets them."""
        ema_(self._averages, self._parameters, self.ema_momentum * (step > 1))
        if self.ema_overwrite_frequency:
            copy_where_(step % self.ema_overwrite_frequency == 0, self._parameters, self._averages)

    # Steps of the eager loop.

    needs_closure = False
    """Whether `step` evaluates the loss itself, and so must be given a function that does."""

    accepts_closure = False
    """Whether `step` may make use of a `closure`. Those of torchfit evaluate the loss once, before they update."""

    def step(self, num_samples: Scalar | Closure | None = 1.0, closure: Closure | None = None) -> Tensor | None:
        """Make an update with the gradients in the parameters' `grad`.

        Args:
            num_samples: As in `apply`.
            closure: Computes the loss and its gradients first, as for optimizers of torch.

        Returns:
            What `closure` returned.

        Raises:
            ValueError: The optimizer has no parameters yet.
        """
        if callable(num_samples):  # torch's optimizers take the closure first
            closure = num_samples
            num_samples = 1.0
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if not self.built:
            self._require_built()
        self._is_applied_to_some = False
        gradients = list(map(_gradient_of, self._parameters))
        if self._own_apply is not None and self._step_samples is None:
            self._apply_overridden(gradients, num_samples)
        elif self.gradient_accumulation_steps is None and gradients:
            self.update(gradients, *self.begin_update())
        else:
            self._accumulate_step(gradients, num_samples)
        return loss

    def apply(
        self,
        grads: Sequence[Tensor | None],
        trainable_variables: Iterable[Tensor | NamedTensor] | None = None,
        num_samples: Scalar | None = 1.0,
    ) -> None:
        """Make an update with these gradients, or accumulate them if `gradient_accumulation_steps` is set.

        Args:
            grads: One tensor for each parameter, or `None` where there is none.
            trainable_variables: The parameters that `grads` belong to. Default: those of `build`, in order.
                The first call may bind the optimizer with them.
            num_samples: How much these gradients count in the mean over the accumulated ones: the number of samples,
                or whatever the loss was divided by. `None`: it is a sum, which is not divided.

        Raises:
            ValueError: The optimizer has no parameters yet, or was built with others.
        """
        if trainable_variables is not None:
            parameters = list(trainable_variables)
            self.build(parameters)
            self._is_applied_to_some = len(parameters) < len(self._parameters)
            grads = self._params.reorder(grads, [p if isinstance(p, Tensor) else p[1] for p in parameters])
        self._require_built()
        gradients = self._params.cast_gradients(grads)
        if self.gradient_accumulation_steps is None and gradients:
            self.update(gradients, *self.begin_update())
        else:
            self._accumulate_step(gradients, num_samples)

    def apply_gradients(self, grads_and_vars: Iterable[tuple[Tensor | None, Tensor | NamedTensor]]) -> int:
        """Make an update with `(gradient, parameter)` pairs, and return the count of updates."""
        pairs = list(grads_and_vars)
        self.apply([gradient for gradient, _ in pairs], [parameter for _, parameter in pairs])
        return self.iterations

    def begin_update(self) -> tuple[float, ...]:
        """Count an update, and return its learning rate and step, the arguments of `update`.

        For those who call `update` themselves. `apply` and `step` count on their own.
        """
        rate = self._learning_rate if self._schedule is None else self.learning_rate
        self._num_updates += 1
        self._num_gradients += 1
        return rate, self._num_updates

    wraps_others = False
    """Whether other optimizers do the work. Such an optimizer cannot be a part of a `MultiOptimizer`."""

    updates_in_graph = True
    """Whether an update can be part of a graph; if not, the graph ends with the gradients."""

    # Properties.

    lr = _arguments.OtherName("learning_rate")

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next update, a float rounded to float32. Settable unless it is a schedule.

        Raises:
            TypeError: A number is set where a schedule decides.
        """
        return self.learning_rate_at(self._num_gradients)

    @learning_rate.setter
    def learning_rate(self, value: object) -> None:
        if callable(value):
            self._schedule_arg, self._schedule = value, as_schedule(value)
            return
        if self._schedule is not None:
            raise TypeError(
                "The learning rate of this optimizer is decided by a schedule and cannot be set to a number. "
                "Assign another schedule, or create the optimizer with a number as `learning_rate`."
            )
        self._learning_rate = _arguments.learning_rate(value)

    def learning_rate_at(self, num_gradients: int) -> float:
        """Return the learning rate after this many gradients."""
        if self._schedule is None:
            return self._learning_rate
        return _arguments.as_float32(self._schedule(num_gradients))

    @property
    def learning_rate_or_schedule(self) -> LearningRate | None:
        """The number that the learning rate was set to, or the schedule that decides it."""
        return self._learning_rate if self._schedule is None else self._schedule_arg

    @property
    def variables(self) -> list[Tensor]:
        """All state as tensors: `iterations`, the learning rate unless scheduled, then the slots.

        The order is Keras': averages, accumulators, then the slots. Slots are the tensors in use; the first two are
        copies of what is counted on the host.
        """
        rate = [] if callable(self.learning_rate_or_schedule) else [torch.tensor(self.learning_rate)]
        sums = [tensor for group in self._accumulator.sums for tensor in group]
        counted = [torch.tensor(self._num_updates), *rate]
        return [*counted, *self._averages, *sums, *self.slot_variables(), *self._global_state.values()]

    def get_weights(self) -> list[np.ndarray]:
        """Return the values of `variables`, in their order, as NumPy arrays."""
        return [_parameter_store.to_numpy(variable) for variable in self.variables]

    def set_weights(self, weights: Sequence[object]) -> None:
        """Set what `get_weights` returned: the count of updates, the learning rate unless scheduled, then the slots.

        Raises:
            ValueError: There are more or fewer than `variables`, or their shapes are others.
        """
        values = _parameter_store.check_weights(self.variables, weights)
        _parameter_store.copy_weights(self.variables, values)
        self._num_updates = int(values[0])
        self._num_gradients = self._num_updates * (self.gradient_accumulation_steps or 1)
        if not callable(self.learning_rate_or_schedule):
            self.learning_rate = values[1]

    def scale_loss(self, loss: Tensor) -> Tensor:
        """Multiply a loss by `loss_scale_factor`, before its gradients are taken."""
        return loss if self.loss_scale_factor is None else loss * self.loss_scale_factor

    def finalize_variable_values(self, var_list: Iterable[Tensor] | None = None) -> None:
        """Write the moving averages into the parameters (of `var_list`, default all). Without `use_ema`, nothing."""
        if not self.use_ema or not self._num_updates:
            return
        chosen = None if var_list is None else {id(parameter) for parameter in var_list}
        with torch.no_grad():
            for parameter, average in zip(self._parameters, self._averages):
                if chosen is None or id(parameter) in chosen:
                    parameter.copy_(average)

    # For optimizers that wrap this one.

    def rates_at(self, num_gradients: int) -> tuple[float, ...]:
        """Return the learning rates that an update after this many gradients needs."""
        return (self.learning_rate_at(num_gradients),)

    @property
    def averages(self) -> Tensors:
        """The moving averages of the parameters; empty without `use_ema`."""
        return self._averages

    @property
    def accumulator(self) -> GradientAccumulator:
        """The accumulated gradients."""
        return self._accumulator

    @property
    def global_state(self) -> dict[str, Tensor]:
        """The state that belongs to no single parameter, by name."""
        return self._global_state

    def count_to(self, num_updates: int, num_gradients: int) -> None:
        """Count updates and gradients that another optimizer has counted."""
        self._num_updates, self._num_gradients = num_updates, num_gradients

    def load_shared_state(self, saved: Mapping[str, Tensor]) -> None:
        """Restore what `global_state` holds."""
        _parameter_store.restore_shared(self._global_state, saved)

    def mutable_state(self) -> Tensors:
        """List all tensors that `update` changes."""
        return [*self._parameters, *self.slot_variables(), *self._averages, *self._global_state.values()]

    def slot_variables(self) -> Tensors:
        """List the slots in the order in which `variables` has them."""
        interleaved, separate = self._slots[: self.interleaved_slots], self._slots[self.interleaved_slots :]
        return [slot for group in (*zip(*interleaved), *separate) for slot in group if slot is not None]

    # Saving.

    def state_dict(self) -> StateDict:
        """Return everything that changes in training, as tensors and plain data, to resume bit by bit.

        The state of each parameter is stored under its name (its position, if `build` got no names). As in torch, the
        tensors are those in use: `copy.deepcopy` the result to keep a snapshot.
        """
        return self._pending_state or {
            "iterations": self._num_updates,
            "calls": self._num_gradients,
            "learning_rate": None if callable(self.learning_rate_or_schedule) else self.learning_rate,
            "window": self._accumulator.state_dict(),
            "shared": dict(self._global_state),
            "follows": self._tracker.follows,
            **self.parameter_state(),
        }

    def load_state_dict(self, state: StateDict) -> None:
        """Restore what `state_dict` returned. Before `build`, it is kept until then.

        The state of each parameter is found by its name; of unnamed ones, or of another module, by its position.
        If some of the parameters are others, what fits is restored, with a warning.

        Raises:
            ValueError: The state belongs to other parameters or another kind of optimizer.
        """
        if not self.built:
            self._pending_state = state
            return
        _parameter_store.require(state, ("iterations", "calls", "learning_rate", "window", "parameters", "shared"))
        self._require_saved_groups(state)
        plan = self.plan_restore(state, self._tracker.known())
        self.load_shared_state(self.first_global_state() if plan.is_unused else state["shared"])
        self._num_updates, self._num_gradients = int(state["iterations"]), int(state["calls"])
        if state["learning_rate"] is not None and not callable(self.learning_rate_or_schedule):
            self.learning_rate = state["learning_rate"]
        self.restore(plan, self.iterations)
        self._accumulator.load_state_dict(state["window"], plan.positions)
        plan.warn()

    def get_config(self) -> Config:
        """Return the constructor's arguments as plain data."""
        rate, excluded = self.learning_rate_or_schedule, self._excluded_names()
        return {
            **({"exclude_from_weight_decay": excluded} if excluded else {}),
            "name": self.name,
            "learning_rate": serialize(rate) if callable(rate) else rate,
            "weight_decay": self.weight_decay,
            "clipnorm": self.clipnorm,
            "global_clipnorm": self.global_clipnorm,
            "clipvalue": self.clipvalue,
            "use_ema": self.use_ema,
            "ema_momentum": self.ema_momentum,
            "ema_overwrite_frequency": self.ema_overwrite_frequency,
            "loss_scale_factor": self.loss_scale_factor,
            "gradient_accumulation_steps": self.gradient_accumulation_steps,
        }

    @classmethod
    def from_config(cls, config: Config, custom_objects: Config | None = None) -> Optimizer:
        """Build an optimizer, including its schedule, from the result of `get_config`."""
        rate = config.get("learning_rate")
        if isinstance(rate, dict):
            config = {**config, "learning_rate": deserialize(rate, custom_objects)}
        excluded = config.get("exclude_from_weight_decay")
        optimizer = cls(**{name: value for name, value in config.items() if name != "exclude_from_weight_decay"})
        if excluded:
            optimizer.exclude_from_weight_decay(var_names=excluded)
        return optimizer
