"""An adapter that gives `torch.optim` optimizers the same interface."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from torchfit._utils.errors import describe
from torchfit._utils.names import did_you_mean, snake_case
from torchfit._utils.registry import find_custom
from torchfit.optimizers import _arguments, _state
from torchfit.optimizers._parameters import Parameters

Factory = Callable[[Any], torch.optim.Optimizer]


class TorchOptimizer:
    """A `torch.optim` optimizer that can be read, set, stepped and saved like the ones of torchfit.

    Its formulas, defaults and parameter groups are torch's.

    Args:
        optimizer: a `torch.optim.Optimizer` bound to (some of) the model's parameters, a class of such, or a callable
            that is given the parameters and returns one, such as `functools.partial(torch.optim.SGD, lr=0.1)`.
        name: what the optimizer is called. Default: the class name in snake case.

    Attributes:
        optimizer: the `torch.optim.Optimizer`, `None` before `build` if a class or callable was given. Learning rate
            schedulers of torch are made with it.

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

    def __init__(self, optimizer: torch.optim.Optimizer | Factory, name: str | None = None):
        if not isinstance(optimizer, torch.optim.Optimizer) and not callable(optimizer):
            _arguments.invalid(
                "optimizer",
                "a torch.optim.Optimizer, a class of such, or a callable that makes one from parameters",
                optimizer,
            )
        given = isinstance(optimizer, torch.optim.Optimizer)
        self.optimizer: Any = optimizer if given else None
        self._factory: Any = None if given else optimizer
        self._params = Parameters(_all_params(optimizer) if isinstance(optimizer, torch.optim.Optimizer) else [])
        self._pending_state: dict[str, Any] | None = None
        self._pending_learning_rate: float | None = None
        self._num_updates = 0
        self.built = False
        self.name = name or snake_case(_class_name(optimizer))

    def build(self, parameters: Iterable[Any]) -> None:
        """Make the optimizer for these parameters, or check that it is bound to some of them.

        Raises:
            ValueError: a given instance is bound to other parameters, or the callable returns no optimizer.
        """
        given = list(parameters)
        params = Parameters(given)
        if self.optimizer is None:
            self.optimizer = _build(self._factory, given)
        elif params.tensors and not set(map(id, params.tensors)) & set(map(id, self._params.tensors)):
            raise ValueError(
                "The torch optimizer is bound to other parameters than the model's. Create it with "
                "model.parameters(), or pass the class (or a functools.partial of it) to have that done."
            )
        self._params = Parameters(_with_names(params, _all_params(self.optimizer)))
        self.built = True
        if self._pending_learning_rate is not None:
            self.learning_rate, self._pending_learning_rate = self._pending_learning_rate, None
        if self._pending_state is not None:
            pending, self._pending_state = self._pending_state, None
            self.load_state_dict(pending)

    def step(self, num_samples: float = 1.0) -> None:
        """Make an update with the gradients that `loss.backward()` left in the parameters; `num_samples` has no effect.

        The first update tells which parameters have none.
        """
        if not self._num_updates:
            present = [number for number, tensor in enumerate(self._params.tensors) if tensor.grad is not None]
            self._params.warn_missing_gradients(present or list(range(len(self._params.tensors))))
        self.optimizer.step()
        self._num_updates += 1

    def zero_grad(self) -> None:
        """Clear the gradients of the parameters: `grad` becomes `None`."""
        for parameter in self._params.tensors:
            parameter.grad = None

    def apply(self, grads: Sequence[Tensor | None], trainable_variables: Iterable[Any] | None = None) -> None:
        """Make an update with these gradients, in the order of `parameters` or of `trainable_variables`."""
        if trainable_variables is not None:
            parameters = list(trainable_variables)
            if not self.built:
                self.build(parameters)
            self._params.check_known(Parameters(parameters).tensors)
            grads = self._params.reorder(grads, parameters)
        if not self.built:
            raise ValueError("The optimizer is bound to no parameters. Call optimizer.build(parameters) first.")
        for parameter, gradient in zip(self._params.tensors, self._params.cast_gradients(grads)):
            parameter.grad = gradient
        self.step()

    def apply_gradients(self, grads_and_vars: Iterable[tuple[Tensor | None, Any]]) -> int:
        """Make an update with `(gradient, parameter)` pairs, and return the count of updates."""
        pairs = list(grads_and_vars)
        self.apply([gradient for gradient, _ in pairs], [parameter for _, parameter in pairs])
        return self.iterations

    @property
    def learning_rate(self) -> Any:
        """The learning rate of the first parameter group. Setting it scales all groups by the same factor."""
        if self.optimizer is None:
            return (
                self._pending_learning_rate if self._pending_learning_rate is not None else _default_rate(self._factory)
            )
        return _arguments.as_float32(self.optimizer.param_groups[0]["lr"])

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        if callable(value):
            raise TypeError(
                "A torch optimizer takes no schedule as its learning rate. Use a scheduler of torch.optim.lr_scheduler "
                f"through a callback, or an optimizer of torchfit. Received: {describe(value)}."
            )
        wanted = _arguments.learning_rate(value)
        if self.optimizer is None:
            self._pending_learning_rate = wanted
            return
        first = float(self.optimizer.param_groups[0]["lr"])
        for group in self.optimizer.param_groups:
            _set_rate(group, wanted if group["lr"] == first or not first else group["lr"] / first * wanted)

    @property
    def iterations(self) -> int:
        """How many updates were made."""
        return self._num_updates

    @property
    def compile_blocker(self) -> str | None:
        """Why an update with this optimizer cannot be part of a compiled step."""
        return "a torch.optim optimizer is not part of a graph"

    def begin_update(self) -> tuple[float, int]:
        """Count an update, and return its learning rate and step."""
        self._num_updates += 1
        return self.learning_rate, self._num_updates

    def flush(self) -> None:
        """Do nothing: torch's optimizers accumulate no gradients."""

    def counter_state(self) -> tuple[Any, ...]:
        """Return what was counted, for `set_counter_state`."""
        return (self._num_updates,)

    def set_counter_state(self, counts: tuple[Any, ...]) -> None:
        """Take back what was counted since `counter_state`, because it did not happen."""
        (self._num_updates,) = counts

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters that the optimizer is bound to, in the order of its groups."""
        return list(self._params.tensors)

    @property
    def variables(self) -> list[Tensor]:
        """All state as tensors: `iterations`, the learning rate, then what torch keeps for each parameter."""
        states = [] if self.optimizer is None else [self.optimizer.state.get(p, {}) for p in self._params.tensors]
        slots = [value for state in states for value in state.values() if isinstance(value, Tensor)]
        return [torch.tensor(self._num_updates), torch.tensor(float(self.learning_rate or 0.0)), *slots]

    def scale_loss(self, loss: Tensor) -> Tensor:
        """Return the loss as it is: torch's optimizers scale nothing."""
        return loss

    def finalize_variable_values(self, var_list: Iterable[Tensor] | None = None) -> None:
        """Do nothing: torch's optimizers keep no averages of the parameters."""

    def state_dict(self) -> dict[str, Any]:
        """Return torch's state and the count of updates."""
        torch_state = None if self.optimizer is None else self.optimizer.state_dict()
        return {"iterations": self._num_updates, "torch": torch_state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned. Before `build`, it is kept until then."""
        _state.require(state, ("iterations", "torch"))
        if self.optimizer is None:
            self._pending_state = state
            return
        if state["torch"] is not None:
            self.optimizer.load_state_dict(state["torch"])
        self._num_updates = int(state["iterations"])

    def get_config(self) -> dict[str, Any]:
        """Return the class's name and its arguments as plain data. Parameter groups are not part of it.

        Raises:
            ValueError: the optimizer is made by a callable that is neither a class nor a `functools.partial` of one.
        """
        target, arguments = _config_of(self.optimizer if self.optimizer is not None else self._factory)
        if not self.built and self._pending_learning_rate is not None:
            arguments["lr"] = self._pending_learning_rate
        return {"name": self.name, "optimizer": target.__name__, "arguments": arguments}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> TorchOptimizer:
        """Build from what `get_config` returned; classes outside `torch.optim` are looked up as custom objects."""
        known = {name: value for name, value in vars(torch.optim).items() if _is_optimizer_class(value)}
        name = config["optimizer"]
        target = find_custom(name, custom_objects) or known.get(name)
        if target is None:
            raise ValueError(f"Unknown torch optimizer: {name!r}. {did_you_mean(name, known)}")
        return cls(functools.partial(target, **config["arguments"]), name=config["name"])


def _is_optimizer_class(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, torch.optim.Optimizer)


def _all_params(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _with_names(params: Parameters, parameters: list[Tensor]) -> list[Any]:
    """Return the parameters with their names in `params`, if all of them have one."""
    names = dict(zip(map(id, params.tensors), params.names))
    named = params.named and all(id(parameter) in names for parameter in parameters)
    return [(names[id(parameter)], parameter) for parameter in parameters] if named else list(parameters)


def _build(factory: Factory, parameters: list[Any]) -> torch.optim.Optimizer:
    plain = [entry[1] if isinstance(entry, tuple) else entry for entry in parameters]
    made = factory([parameter for parameter in plain if parameter.requires_grad])
    if not isinstance(made, torch.optim.Optimizer):
        raise ValueError(
            f"`optimizer` must make a torch.optim.Optimizer from parameters. It returned: {describe(made)}"
        )
    return made


def _set_rate(group: dict[str, Any], rate: float) -> None:
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)  # a capturable optimizer reads it inside its graph
    else:
        group["lr"] = float(rate)


def _class_name(optimizer: Any) -> str:
    if isinstance(optimizer, functools.partial):
        return _class_name(optimizer.func)
    return getattr(optimizer, "__name__", type(optimizer).__name__)


def _config_of(optimizer: Any) -> tuple[Any, dict[str, Any]]:
    """Return the class and the arguments that make an optimizer like this one."""
    if isinstance(optimizer, torch.optim.Optimizer):
        wanted = {**optimizer.defaults, "lr": float(optimizer.param_groups[0]["lr"])}
        known = inspect.signature(type(optimizer)).parameters  # defaults may hold more than the arguments
        return type(optimizer), {name: _plain(value) for name, value in wanted.items() if name in known}
    if isinstance(optimizer, functools.partial) and _is_optimizer_class(optimizer.func) and not optimizer.args:
        return optimizer.func, {name: _plain(value) for name, value in optimizer.keywords.items()}
    if _is_optimizer_class(optimizer):
        return optimizer, {}
    raise ValueError(
        f"Could not save {describe(optimizer)} as plain data. Pass a torch.optim class, a functools.partial of one, "
        "or an instance."
    )


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, Tensor) else value


def _default_rate(factory: Any) -> float | None:
    """Return the learning rate that a factory was given, if it shows."""
    rate = factory.keywords.get("lr") if isinstance(factory, functools.partial) else None
    return None if rate is None else _arguments.as_float32(rate)
