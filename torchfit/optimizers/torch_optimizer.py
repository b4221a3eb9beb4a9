"""`TorchOptimizer`, an adapter that gives `torch.optim` optimizers the interface of torchfit's."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchfit._types import Config, StateDict
from torchfit._utils.errors import describe
from torchfit._utils.names import did_you_mean, snake_case, suggest_constructor_keywords
from torchfit._utils.registry import find_custom
from torchfit.optimizers import _arguments, _parameter_store, _torch_optim
from torchfit.optimizers._arguments import reference_rate, scaled_rates
from torchfit.optimizers._foreach import Scalar
from torchfit.optimizers._parameter_store import saved_state
from torchfit.optimizers._parameters import (
    NamedTensor,
    ParameterChanges,
    Parameters,
    ParameterTracker,
    named_tensors,
    tensors_of,
    trainable,
    without,
    zero_gradients,
)
from torchfit.optimizers._torch_optim import ClosureHabits, ClosureUse, EvaluatedClosure, Factory, OfWrapped, rates_of

Closure = Callable[[], Tensor]
_EXPECTED = "a torch.optim.Optimizer, a class of such, or a callable that makes one from parameters"


@suggest_constructor_keywords
class TorchOptimizer:
    """Wraps a `torch.optim` optimizer, so that it can be used and saved like the ones of torchfit.

    Its formulas, defaults and parameter groups are torch's. What optimizers of torch have, such as `param_groups` and
    `add_param_group`, is that of the wrapped one. A scheduler of torch takes `optimizer.optimizer`, or is made by the
    callback `TorchLRScheduler`.

    Args:
        optimizer: A `torch.optim.Optimizer` bound to (some of) the model's parameters, a class of such, or a callable
            that is given the parameters and returns one, such as `functools.partial(torch.optim.SGD, lr=0.1)`.
        name: What the optimizer is called. Default: the class name in snake case.
        groups: Parameter groups for a class or callable, each a dictionary with the `names` of its parameters, and
            options such as `lr`. They need names: `build` must be given `(name, parameter)` pairs, as `compile` does.
            Default: one group of all trainable parameters.

    Attributes:
        optimizer: The `torch.optim.Optimizer`, `None` before `build` if a class or callable was given. Learning rate
            schedulers of torch are made with it.
        needs_closure: Whether `step` must be given a function that evaluates the loss of a whole batch, as by LBFGS.
        accepts_closure: Whether `step` may evaluate the loss itself, as that of SAM.
        param_groups, state, defaults: Those of the wrapped optimizer.

    Raises:
        ValueError: `optimizer` is something else.

    >>> weight = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = TorchOptimizer(functools.partial(torch.optim.SGD, lr=0.5))
    >>> optimizer.build([weight])
    >>> optimizer.apply([torch.tensor([1.0])])
    >>> weight.data, optimizer.learning_rate
    (tensor([0.5000]), 0.5)
    """

    gradient_accumulation_steps = None
    use_ema = False
    lr = _arguments.OtherName("learning_rate")
    param_groups, state, defaults, add_param_group = OfWrapped(), OfWrapped(), OfWrapped(), OfWrapped()
    register_step_pre_hook, register_step_post_hook = OfWrapped(), OfWrapped()

    def __init__(
        self,
        optimizer: torch.optim.Optimizer | Factory,
        name: str | None = None,
        groups: Sequence[Mapping[str, object]] | None = None,
    ):
        if not isinstance(optimizer, torch.optim.Optimizer) and not callable(optimizer):
            _arguments.invalid("optimizer", _EXPECTED, optimizer)
        given = isinstance(optimizer, torch.optim.Optimizer)
        self.optimizer: Any = optimizer if given else None
        self._factory: Any = None if given else optimizer
        if given and groups is not None:
            _arguments.invalid("groups", "None for an optimizer that has groups already", groups)
        self._described = None if groups is None else [dict(group) for group in groups]
        self._makes_one_group = not given and groups is None
        self._tracker = ParameterTracker()
        self._left_out: list[NamedTensor] = []
        self._params = Parameters([])
        self._num_bindings = 0
        self._with_grad: list[Tensor] = []
        self._clears_module = self._is_synced = self._is_restored = False
        self._pending_state: StateDict | None = None
        self._pending_learning_rate: float | None = None
        self._rate_ratios: list[float] | None = None
        self._closure_habits = ClosureHabits()
        self._num_updates = 0
        self.built = False
        self.name = name or snake_case(_torch_optim.class_name(optimizer))
        self._refresh()

    def __getstate__(self) -> StateDict:
        """Return what copies and pickles are made from."""
        made_from = None if self.optimizer is None else _torch_optim.OptimizerCopy.of(self.optimizer)
        return {**self.__dict__, "optimizer": made_from}

    def __setstate__(self, state: StateDict) -> None:
        """Make the copy."""
        made_from = state["optimizer"]
        self.__dict__.update({**state, "optimizer": None if made_from is None else made_from.make()})

    # Binding.

    def build(self, parameters: Iterable[object]) -> None:
        """Make the optimizer for these parameters, or check that it is bound to some of them.

        Raises:
            ValueError: A given instance is bound to other parameters, or the callable returns no optimizer.
        """
        entries = named_tensors(parameters)
        wanted = trainable(entries)
        if self.optimizer is None:
            made_from = tensors_of(wanted)
            self.optimizer = _torch_optim.make(
                self._factory, _torch_optim.groups_from(self._described, entries) if self._described else made_from
            )
        elif wanted and len(without(wanted, self._held())) == len(wanted):
            raise ValueError(
                "The torch optimizer is bound to other parameters than the model's. Create it with "
                "model.parameters(), or pass the class (or a functools.partial of it) to have that done."
            )
        if not self.built:
            self._left_out = without(wanted, self._held())
        self.built = True
        self._tracker.module = entries
        self._tracker.has_changed(entries)
        self._refresh()
        if self._pending_learning_rate is not None:
            self.learning_rate, self._pending_learning_rate = self._pending_learning_rate, None
        if self._pending_state is not None:
            pending, self._pending_state = self._pending_state, None
            self.load_state_dict(pending)

    def sync_parameters(self, named_parameters: Iterable[object], build: bool = True) -> ParameterChanges:
        """Train the currently trainable parameters of a module. See `Optimizer.sync_parameters`.

        Parameters that became trainable are added to an optimizer that was made from a class or callable, unless it has
        several groups. An instance is the user's: a warning tells how to add them.
        """
        entries = named_tensors(named_parameters)
        before, was_clearing_module, self._clears_module = self._params, self._clears_module, build
        if not self.built:
            if build or self.optimizer is not None or self._pending_state is not None:
                self.build(entries)
            self._tracker.module, self._is_synced = entries, self.built
            self._refresh()
            return ParameterChanges(added=tuple(self._params.names))
        is_stale = len(self._held()) != len(before.tensors) or was_clearing_module != build
        if self._tracker.has_changed(entries) or is_stale:
            given, self._tracker.module = self._tracker.module, entries
            wanted = trainable(entries)
            if not self._is_synced:  # parameters that the user did not pass to `build` are not trained
                self._left_out += without(without(wanted, self._held()), given)
            self._add(wanted)
            self._refresh()
        self._is_synced = True
        return ParameterChanges.between(before, self._params)

    def _add(self, wanted: list[NamedTensor]) -> None:
        """Add parameters that became trainable to the optimizer, or warn and say how to."""
        new = without(without(wanted, self._held()), self._left_out)
        if not new:
            return
        if self._makes_one_group and len(self.optimizer.param_groups) == 1 and not self.needs_closure:
            _torch_optim.add_to_group(self.optimizer.param_groups[0], new)
            return
        self._left_out += new
        _torch_optim.warn_of_left_out(new, takes_groups=not self.needs_closure)

    def _held(self) -> list[NamedTensor]:
        """All parameters in the groups of the optimizer, frozen ones included, with their names."""
        held = [] if self.optimizer is None else _torch_optim.held_by(self.optimizer)
        return self._tracker.with_names([(None, tensor) for tensor in held])

    def _names(self) -> dict[int, str | None]:
        return {id(tensor): name for name, tensor in self._held()}

    def _refresh(self) -> None:
        """Read the parameters in the groups of the optimizer again."""
        self._closure_use = ClosureUse.of(self.optimizer or self._factory)
        self.needs_closure, self.accepts_closure = self._closure_use.is_needed, self._closure_use.is_accepted
        held = self._held()
        self._params = _torch_optim.follow_dtypes(self.optimizer, self._params, Parameters(trainable(held)))
        self._num_bindings += 1
        module = self._tracker.module if self._clears_module or self.optimizer is None else []
        self._with_grad = [tensor for _, tensor in [*held, *without(module, held)]]

    # Steps.

    def step(self, num_samples: Scalar | Closure | None = 1.0, closure: Closure | None = None) -> object:
        """Make an update with the gradients in the parameters' `grad`.

        The first update tells which parameters have none.

        Args:
            num_samples: Has no effect. A callable is taken for the closure, as by torch.
            closure: Clears the gradients, computes the loss and its gradients, and returns the loss. It is called
                before the update, and again if the optimizer evaluates the loss elsewhere, as LBFGS and SAM do.

        Returns:
            What torch's `step` returned.

        Raises:
            TypeError: The optimizer needs a closure, and got none.
            ValueError: The optimizer has no parameters yet.
        """
        if callable(num_samples):
            closure = num_samples
        self._require_optimizer()
        if closure is None and self.needs_closure:
            raise TypeError(
                f"{type(self.optimizer).__name__} evaluates the loss itself: `step` needs a `closure`, a function that "
                "clears the gradients, computes the loss, calls its backward() and returns it. In a `train_step` of "
                "your own: self.optimizer.step(closure=closure)."
            )
        if not self._num_updates and closure is None:
            present = [number for number, tensor in enumerate(self._params.tensors) if tensor.grad is not None]
            self._params.warn_missing_gradients(present or list(range(len(self._params.tensors))))
        result = self._step_alone() if closure is None else self._step_with(torch.enable_grad()(closure))
        self._num_updates += 1
        self._is_restored = False
        return result

    def _step_alone(self) -> object:
        try:
            return self.optimizer.step()
        except Exception as error:
            explained = _torch_optim.explain(error, self.optimizer, self._is_restored, not self._num_updates)
            if explained is None:
                raise
            raise explained from error

    def _step_with(self, closure: Closure) -> object:
        evaluated = EvaluatedClosure(closure, self._params.tensors, self._closure_habits)
        result = self._closure_use.step(self.optimizer, evaluated)
        evaluated.finish()
        return result

    def _require_optimizer(self) -> None:
        """Create the optimizer for the recorded module, or raise if there is none."""
        if self.optimizer is None:
            if not self._tracker.module:
                raise ValueError(
                    "The optimizer is bound to no parameters. Call optimizer.build(parameters) first, such as "
                    "optimizer.build(module.named_parameters())."
                )
            self.build(self._tracker.module)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of the parameters, frozen ones included: `grad` becomes `None`, or 0 as in torch.

        These are the parameters of the whole module that was passed to `sync_parameters` or, in a custom step, only the
        optimizer's own.
        """
        if set_to_none:
            for parameter in self._with_grad:
                parameter.grad = None
        else:
            zero_gradients(self._with_grad)

    def apply(
        self,
        grads: Sequence[Tensor | None],
        trainable_variables: Iterable[object] | None = None,
        num_samples: Scalar | None = 1.0,
    ) -> None:
        """Make an update with these gradients, in the order of `parameters` or of `trainable_variables`."""
        if trainable_variables is not None:
            entries = named_tensors(trainable_variables)
            if not self.built:
                self.build(self._tracker.with_names(entries))
            for tensor in self._params.unknown([tensor for _, tensor in entries if tensor.requires_grad]):
                raise ValueError(
                    f"Unknown parameter: {describe(tensor)}. Add it to the torch optimizer: "
                    "optimizer.optimizer.add_param_group({'params': [parameter]})."
                )
            grads = self._params.reorder(grads, [tensor for _, tensor in entries])
        self._require_optimizer()
        for parameter, gradient in zip(self._params.tensors, self._params.cast_gradients(grads)):
            parameter.grad = gradient
        self.step(num_samples)

    def apply_gradients(self, grads_and_vars: Iterable[tuple[Tensor | None, object]]) -> int:
        """Make an update with `(gradient, parameter)` pairs, and return the count of updates."""
        pairs = list(grads_and_vars)
        self.apply([gradient for gradient, _ in pairs], [parameter for _, parameter in pairs])
        return self.iterations

    # Properties.

    @property
    def learning_rate(self) -> Any:
        """The learning rate of the first parameter group whose rate is not 0, `None` if they have no option `lr`.

        Setting it scales all groups by the same factor: rates keep their ratios, and those of 0 stay 0.

        Raises:
            ValueError: A rate is set, and the groups have no option `lr`.
        """
        if self.optimizer is None:
            pending = self._pending_learning_rate
            return _torch_optim.default_rate(self._factory) if pending is None else pending
        rates = rates_of(self.optimizer)
        return _arguments.as_float32(reference_rate(rates)) if rates else None

    @learning_rate.setter
    def learning_rate(self, value: object) -> None:
        if callable(value):
            raise TypeError(
                "A torch optimizer takes no schedule as its learning rate. Use a scheduler of torch.optim.lr_scheduler "
                f"through a callback, or an optimizer of torchfit. Received: {describe(value)}."
            )
        wanted = _arguments.learning_rate(value)
        if self.optimizer is None:
            self._pending_learning_rate = wanted
            return
        rates = rates_of(self.optimizer)
        if not rates:
            raise ValueError(_torch_optim.no_rate(self.optimizer))
        reference = reference_rate(rates)
        if reference:
            self._rate_ratios = [rate / reference for rate in rates]
        known = self._rate_ratios if len(self._rate_ratios or ()) == len(rates) else None
        for group, rate in zip(self.optimizer.param_groups, scaled_rates(rates, wanted, known)):
            _torch_optim.set_rate(group, rate)

    @property
    def learning_rate_or_schedule(self) -> Any:
        """The learning rate: torch's schedulers write into it."""
        return self.learning_rate

    @property
    def iterations(self) -> int:
        """How many updates were made."""
        return self._num_updates

    @property
    def compile_blocker(self) -> str | None:
        """The reason why a step with this optimizer cannot be compiled, or `None` if none is known yet."""
        evaluates_itself = self.needs_closure or self._closure_habits.evaluates_again
        return "the optimizer evaluates the loss itself" if evaluates_itself else None

    @property
    def may_evaluate_again(self) -> bool:
        """Whether the first steps are still to show if `step` evaluates the loss itself."""
        return self.accepts_closure and not self._closure_habits.are_known

    updates_in_graph = False
    """Whether an update can be part of a graph; if not, the graph ends with the gradients."""

    def begin_update(self) -> tuple[float, ...]:
        """Count an update, and return its learning rate and step."""
        self._num_updates += 1
        return self.learning_rate, self._num_updates

    def flush(self) -> None:
        """Do nothing: torch's optimizers accumulate no gradients."""

    def counter_state(self) -> tuple[int, ...]:
        """Return what was counted, for `set_counter_state`."""
        return (self._num_updates,)

    def set_counter_state(self, counts: tuple[int, ...]) -> None:
        """Restore the counts of `counter_state`, because later steps were rolled back."""
        (self._num_updates,) = counts

    @property
    def binding_key(self) -> tuple[int, ...]:
        """A key that changes when the optimizer is bound to other parameters, or its groups hold or train others."""
        groups = [] if self.optimizer is None else self.optimizer.param_groups
        held = [parameter for group in groups for parameter in group["params"]]
        return (self._num_bindings, *map(id, held), *(parameter.requires_grad for parameter in held))

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters that the optimizer currently trains, in the order of its groups."""
        return list(self._params.tensors)

    @property
    def variables(self) -> list[Tensor]:
        """All state as tensors: `iterations`, the learning rate if there is one, then what torch keeps."""
        states = [] if self.optimizer is None else [self.optimizer.state.get(p, {}) for p in self._params.tensors]
        slots = [value for state in states for value in state.values() if isinstance(value, Tensor)]
        has_rate = self.optimizer is None or bool(rates_of(self.optimizer))
        rate = [torch.tensor(float(self.learning_rate or 0.0))] if has_rate else []
        return [torch.tensor(self._num_updates), *rate, *slots]

    def get_weights(self) -> list[np.ndarray]:
        """Return the values of `variables`, in their order, as NumPy arrays."""
        return [_parameter_store.to_numpy(variable) for variable in self.variables]

    def set_weights(self, weights: Sequence[object]) -> None:
        """Set what `get_weights` returned: the count of updates, the learning rate if there is one, then the slots.

        torch creates its state at the first update; before, there are no slots to set.

        Raises:
            ValueError: There are more or fewer than `variables`, or their shapes are others.
        """
        values = _parameter_store.check_weights(self.variables, weights)
        _parameter_store.copy_weights(self.variables, values)
        self._num_updates = int(values[0])
        if self.optimizer is None or rates_of(self.optimizer):
            self.learning_rate = values[1]

    def scale_loss(self, loss: Tensor) -> Tensor:
        """Return the loss as it is: torch's optimizers scale nothing."""
        return loss

    def finalize_variable_values(self, var_list: Iterable[Tensor] | None = None) -> None:
        """Do nothing: torch's optimizers keep no averages of the parameters."""

    # Saving.

    def state_dict(self) -> StateDict:
        """Return torch's state, the names and shapes of the parameters that it numbers, and the count of updates."""
        own = self._pending_state or {"iterations": self._num_updates, "torch": None, "rate_ratios": self._rate_ratios}
        return own if self.optimizer is None else {**own, **saved_state(self.optimizer, self._names())}

    def load_state_dict(self, state: StateDict) -> None:
        """Restore what `state_dict` returned. Before `build`, it is kept until then.

        The state of each parameter is found by its name; of unnamed ones, or in files of earlier versions, by its
        position. If some of the parameters are others, what fits is restored, with a warning.

        Raises:
            ValueError: The state belongs to other parameters.
        """
        _parameter_store.require(state, ("iterations", "torch"))
        if self.optimizer is None:
            self._pending_state = state
            return
        if state["torch"] is not None:
            self._load_torch_state(state)
        self._rate_ratios = state.get("rate_ratios")
        self._num_updates = int(state["iterations"])

    def _load_torch_state(self, state: StateDict) -> None:
        self._is_restored = True
        names = set(state.get("names", ())) - {None}
        if not names & {name for name, _ in [*self._held(), *self._tracker.module]}:
            self.optimizer.load_state_dict(state["torch"])
            return
        saved = _parameter_store.SavedGroups(state["torch"], state["names"], state["shapes"])
        if not self.needs_closure:
            _parameter_store.adopt_groups(self.optimizer, saved, self._names(), self._tracker.module)
        _parameter_store.load_state(self.optimizer, saved, state.get("wrapped", {}), self._names())
        self._refresh()
        saved.warn()

    def get_config(self) -> Config:
        """Return the class's name and its arguments as plain data, and the names in its groups if they matter.

        Raises:
            ValueError: The optimizer is made by a callable that is neither a class nor a `functools.partial` of one,
                or has several groups, and the names of their parameters are not known yet.
        """
        if self.optimizer is not None:
            _torch_optim.warn_of_hooks(self.optimizer)
        target, arguments = _torch_optim.config_of(self.optimizer if self.optimizer is not None else self._factory)
        if not self.built and self._pending_learning_rate is not None:
            arguments["lr"] = self._pending_learning_rate
        config = {"name": self.name, "optimizer": target.__name__, "arguments": arguments}
        described = self._described
        if self.optimizer is not None:
            module, is_only_one = self._tracker.module, self._makes_one_group
            described = _torch_optim.described_groups(self.optimizer, self._held(), module, is_only_one)
        return config if described is None else {**config, "groups": described}

    @classmethod
    def from_config(cls, config: Config, custom_objects: Config | None = None) -> TorchOptimizer:
        """Build from what `get_config` returned; classes outside `torch.optim` are looked up as custom objects."""
        known = {name: value for name, value in vars(torch.optim).items() if _torch_optim.is_optimizer_class(value)}
        name = config["optimizer"]
        target = find_custom(name, custom_objects) or known.get(name)
        if target is None:
            raise ValueError(f"Unknown torch optimizer: {name!r}. {did_you_mean(name, known)}")
        made = functools.partial(target, **config["arguments"])
        return cls(made, name=config["name"], groups=config.get("groups"))
