"""What changes while a model is trained, part by part: each gives its state as tensors and plain data."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torchfit._saving.weights import get_module_state, load_state
from torchfit._serialization.array_encoding import decode_arrays, encode_arrays
from torchfit._trainer.course import Stateful
from torchfit._utils.rng import random_state, restore_random_state
from torchfit._utils.wrapping import unwrap_key, unwrap_module

State = dict[str, Any]


def training_parts(model: Any, callbacks: Iterable[Any], validation: Any) -> dict[str, Stateful]:
    """Return the parts of a training, in the order in which they are to be restored.

    Args:
        model: A compiled `Model`.
        callbacks: All callbacks of the training.
        validation: The batches of its validation, `None` without one.
    """
    return {
        "weights": Weights(model),
        "optimizers": Optimizers(model),
        "flags": Flags(model),
        "metrics": Metrics(model),
        "callbacks": Callbacks(callbacks),
        "validation": Nothing() if validation is None else validation,
        "graphs": model._execution,
        "random": Randomness(),
    }


class Weights:
    """Parameters and buffers, also those that a `state_dict` leaves out."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def state_dict(self) -> State:
        """Return the tensors in use."""
        state = get_module_state(self._model)
        return {"state": state, "more": self._more(state)}

    def load_state_dict(self, state: State) -> None:
        """Copy them in place."""
        load_state(self._model, state["state"], "the interrupted training")
        with torch.no_grad():
            for name, buffer in self._more(state["state"]).items():
                if name in state["more"]:
                    buffer.copy_(state["more"][name])

    def _more(self, kept: State) -> dict[str, Tensor]:
        named = ((unwrap_key(name), buffer) for name, buffer in unwrap_module(self._model).named_buffers())
        return {name: buffer for name, buffer in named if name not in kept and not hasattr(buffer, "assign")}


class Optimizers:
    """The optimizer with its counters and the state of its schedule, and whatever else the model holds of the kind."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def state_dict(self) -> State:
        """Return the states by attribute; `None` for an optimizer that is bound to no parameters yet."""
        return {
            name: encode_arrays(value.state_dict()) if getattr(value, "built", True) else None
            for name, value in self._found().items()
        }

    def load_state_dict(self, state: State) -> None:
        """Bind the optimizer if it was bound, and go on from its state."""
        if state.get("optimizer") is not None and not self._model.optimizer.built:
            self._model.build_optimizer()
        for name, value in self._found().items():
            if state.get(name) is not None:
                value.load_state_dict(decode_arrays(state[name]))

    def _found(self) -> dict[str, Any]:
        """Return the attributes of the model that have a state, such as the second optimizer of an own train_step."""
        return {
            name: value
            for name, value in vars(self._model).items()
            if not name.startswith("_")
            and name != "history"
            and hasattr(type(value), "load_state_dict")
            and hasattr(type(value), "state_dict")
        }


class Flags:
    """Which parameters are frozen, and which layers are in evaluation mode."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def state_dict(self) -> State:
        """Return their names."""
        return {
            "frozen": [name for name, parameter in self._model.named_parameters() if not parameter.requires_grad],
            "evaluating": [name for name, module in self._model.named_modules() if not module.training],
        }

    def load_state_dict(self, state: State) -> None:
        """Freeze and set modes as they were."""
        for name, parameter in self._model.named_parameters():
            parameter.requires_grad_(name not in state["frozen"])
        for name, module in self._model.named_modules():
            module.training = name not in state["evaluating"]


class Metrics:
    """The metrics in the middle of an epoch."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def state_dict(self) -> State:
        """Return the state of each, and for which outputs they were made."""
        states = {metric.name: metric.state_dict() for metric in self._known()}
        return {
            "outputs": self._model._objective.outlook,
            "added": self._model._added.outlook,
            "states": encode_arrays(states),
        }

    def load_state_dict(self, state: State) -> None:
        """Make them for the same outputs, and go on counting."""
        self._model._objective.foresee(state["outputs"], self._model._device)
        self._model._added.foresee(state["added"])
        states = decode_arrays(state["states"])
        for metric in self._known():
            if metric.name in states:
                metric.load_state_dict(states[metric.name])

    def _known(self) -> list[Any]:
        return [metric for metric in self._model.metrics if isinstance(metric, nn.Module)]


class Callbacks:
    """Every callback that has a state, known by its class and its number among those of this class."""

    def __init__(self, callbacks: Iterable[Any]) -> None:
        self._callbacks: dict[str, Any] = {}
        for callback in callbacks:
            name, number = type(callback).__name__, 1
            while f"{name} {number}" in self._callbacks:
                number += 1
            self._callbacks[f"{name} {number}"] = callback

    def state_dict(self) -> State:
        """Return the states by name."""
        return {
            name: encode_arrays(callback.state_dict())
            for name, callback in self._callbacks.items()
            if hasattr(callback, "state_dict")
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the states; callbacks that were not there begin afresh."""
        for name, callback in self._callbacks.items():
            if name in state:
                callback.load_state_dict(decode_arrays(state[name]))


class Randomness:
    """The global random generators."""

    def state_dict(self) -> State:
        """Return their states."""
        return random_state()

    def load_state_dict(self, state: State) -> None:
        """Draw what would have been drawn."""
        restore_random_state(state)


class Nothing:
    """Stands for a part that a training does without."""

    def state_dict(self) -> None:
        """Return nothing."""

    def load_state_dict(self, state: Any) -> None:
        """Take nothing up."""
