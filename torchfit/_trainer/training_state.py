"""Progress of a training run, and everything needed to resume it, as one state dict."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from torchfit._saving.weights import get_module_state, load_state
from torchfit._serialization.archive import to_host
from torchfit._serialization.tensor_pickle import decode_arrays, encode_arrays
from torchfit._trainer.base_model import BaseModel
from torchfit._trainer.logs import LazyLogs
from torchfit._trainer.objective import Objective
from torchfit._trainer.step_state import AuxiliaryTerms, StepState
from torchfit._types import Results, StateDict, Stateful, StepFn, StepIterator
from torchfit._utils.errors import describe
from torchfit._utils.modules import names_in_evaluation, unwrap_key, unwrap_module
from torchfit._utils.rng import random_state, restore_random_state
from torchfit.callbacks import Callback
from torchfit.metrics import Metric

FORMAT = "torchfit training"
VERSION = 3
_SINCE_VERSION_3 = ("losses", "attributes")
_STEP_COMPONENTS = ("weights", "losses", "attributes", "optimizers", "metrics", "random")  # changed by a step


class Batches(Protocol):
    """The data of a run."""

    @property
    def steps(self) -> int | None:
        """The number of batches in an epoch, or `None` if unknown."""
        ...

    @property
    def is_resumable(self) -> bool:
        """Whether an epoch can be entered midway."""
        ...

    def epochs(self, indices: range, start: int = 0) -> Iterator[int]:
        """Yield the epochs for which there are data."""
        ...

    def state_dict(self, is_mid_epoch: bool = False) -> StateDict:
        """Return what the remaining batches depend on."""
        ...

    def load_state_dict(self, state: StateDict) -> None:
        """Restore that."""
        ...


class StopFlag(Protocol):
    """The flag of the model that asks to stop training."""

    stop_training: bool


class TrainingState:
    """The position of a run (epoch and step), and the state of every component that training changes.

    A state is taken between two steps or epochs and loaded in `on_train_begin`. Load a mid-epoch state again in the
    first `on_epoch_begin`, because callbacks reset their per-epoch state there.

    Args:
        batches: The data.
        iter_steps: A function (batches, epoch, index of the first batch) that returns the steps of an epoch.
        epochs: The indices of the epochs.
        stop_flags: The model, which holds `stop_training`.
        reset_metrics: A function to call at the start of each epoch.
        find_components: A function that returns the stateful components, in the order in which they are restored. It
            is called when a state is first taken or loaded.

    Attributes:
        warmup_step: Set it if the first call of the step is numerically different from later ones, as with compiled
            steps: a resumed run then runs its first step twice, and discards the result of the first.
    """

    def __init__(
        self,
        batches: Batches,
        iter_steps: Callable[[Batches, int, int], StepIterator],
        epochs: range,
        stop_flags: StopFlag,
        reset_metrics: Callable[[], None],
        find_components: Callable[[], Mapping[str, Stateful]],
    ) -> None:
        self._batches, self._iter_steps, self._stop_flags = batches, iter_steps, stop_flags
        self._reset_metrics, self._find_components = reset_metrics, find_components
        self._is_resumed = False
        self.warmup_step: StepFn | None = None
        self._epochs, self._step = epochs, 0
        self._logs: StateDict = {}

    @cached_property
    def _components(self) -> Mapping[str, Stateful]:
        return self._find_components()

    @property
    def is_resumable(self) -> bool:
        """Whether an epoch can be entered midway."""
        return self._batches.is_resumable

    @property
    def is_mid_epoch(self) -> bool:
        """Whether the run starts in the middle of an epoch."""
        return self._step > 0

    def epochs(self) -> Iterator[int]:
        """Yield the indices of the remaining epochs; a state may be loaded before the first one is drawn."""
        if not self._stop_flags.stop_training:
            yield from self._batches.epochs(self._epochs, self._step)

    def start_epoch(self) -> LazyLogs:
        """Start an epoch, and return its logs before its first step."""
        self._reset_metrics()
        logs, self._logs = self._logs, {}
        return LazyLogs.wrap(logs)

    def iter_steps(self, epoch: int) -> StepIterator:
        """Return the steps of an epoch, or the rest of them."""
        steps = self._iter_steps(self._batches, epoch, self._step if epoch == self._epochs.start else 0)
        if self.warmup_step is None or not self._is_resumed:
            return steps
        return self._with_warmup(steps, self.warmup_step)

    def _with_warmup(self, steps: StepIterator, warmup_step: StepFn) -> StepIterator:
        first = next(steps, None)  # If the state is from the end of an epoch, there is none; the next epoch has it.
        if first is not None:
            self._is_resumed = False
            before = to_host({name: self.state_of(name) for name in _STEP_COMPONENTS}, copy=True)
            warmup_step(first[2])
            for name, state in before.items():
                self._components[name].load_state_dict(state)
            yield first
        yield from steps

    def state_dict(self, epoch: int, step: int, logs: Results) -> StateDict:
        """Return everything that the run depends on before step `step` of epoch `epoch`; tensors are those in use.

        Args:
            epoch: The index of the epoch to resume in.
            step: The number of completed steps of this epoch.
            logs: The logs of these steps.
        """
        return {
            "format": FORMAT,
            "version": VERSION,
            "position": {"epoch": epoch, "step": step, "steps": self._batches.steps},
            "logs": dict(logs) if step else {},  # There may be no next step, if the data run out in this epoch.
            "stop_training": bool(self._stop_flags.stop_training),
            "data": self._batches.state_dict(is_mid_epoch=step > 0),
            **{name: component.state_dict() for name, component in self._components.items()},
        }

    def state_of(self, component: str) -> object:
        """Return the state of the component with this name."""
        return self._components[component].state_dict()

    def load_state_dict(self, state: StateDict) -> None:
        """Resume from a state.

        Raises:
            ValueError: If it is not a state of a run, or belongs to another model or other data.
        """
        state = _check_state(state)
        position = state["position"]
        steps = self._batches.steps
        if position["step"] and steps is not None and position["steps"] != steps:
            raise ValueError(
                f"The run was interrupted after step {position['step']} of an epoch of {position['steps']} steps, "
                f"but now an epoch has {steps}. Pass the same data, `batch_size` and `steps_per_epoch` as then."
            )
        self._epochs, self._step = range(position["epoch"], self._epochs.stop), position["step"]
        self._is_resumed = True
        self._logs = dict(state["logs"])
        self._stop_flags.stop_training = bool(state["stop_training"])
        self._batches.load_state_dict(state["data"])
        for name, component in self._components.items():
            if name not in _SINCE_VERSION_3 or state["version"] >= 3:
                component.load_state_dict(state[name])


def _check_state(state: object) -> StateDict:
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(f"This is not the state of a training run: {describe(state)}.")
    if state["version"] > VERSION:
        raise ValueError(
            f"The state of the run was written in version {state['version']} of its format; this torchfit reads "
            f"versions up to {VERSION}. Upgrade torchfit."
        )
    return {"graphs": {}, **state}  # Version 1 did not store the graphs.


# -- the components ----------------------------------------------------------------------------------------


def training_components(
    model: BaseModel,
    state: StepState,
    callbacks: Sequence[Callback],
    validation: Stateful,
    execution: Stateful,
    device: torch.device,
) -> dict[str, Stateful]:
    """Return everything that a run depends on besides its position, in the order in which it is restored."""
    losses, objective = state.loss_modules(model), state.objective
    assert isinstance(objective, Objective)
    return {
        "weights": ModelState(model),
        "losses": ModelState(losses),
        "attributes": ModelState(state.attribute_modules(model)),
        "flags": ModuleFlagsState(model, losses),  # Before the optimizer, which trains only unfrozen parameters.
        "optimizers": OptimizerState(model),
        "metrics": MetricsState(model, objective, state.auxiliary, device),
        "callbacks": CallbacksState(callbacks),
        "validation": validation,
        "graphs": execution,
        "random": RNGState(),
    }


class ModelState:
    """Parameters and buffers of the model, or of its losses, including non-persistent ones."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def state_dict(self) -> StateDict:
        """Return the tensors, without copies."""
        state = get_module_state(self._model)
        return {"state": state, "more": self._other_buffers(state)}

    def load_state_dict(self, state: StateDict) -> None:
        """Copy them in place."""
        load_state(self._model, state["state"], "the interrupted run")
        with torch.no_grad():
            for name, buffer in self._other_buffers(state["state"]).items():
                if name in state["more"]:
                    buffer.copy_(state["more"][name])

    def _other_buffers(self, known: StateDict) -> dict[str, Tensor]:
        named = ((unwrap_key(name), buffer) for name, buffer in unwrap_module(self._model).named_buffers())
        return {name: buffer for name, buffer in named if name not in known and not hasattr(buffer, "assign")}


class OptimizerState:
    """The optimizer with its counters and schedule, and other stateful objects in public attributes of the model."""

    def __init__(self, model: BaseModel) -> None:
        self._model = model

    def state_dict(self) -> StateDict:
        """Return the states by attribute; `None` for an optimizer that is not built yet."""
        return {
            name: encode_arrays(value.state_dict()) if getattr(value, "built", True) else None
            for name, value in self._stateful_attributes().items()
        }

    def load_state_dict(self, state: StateDict) -> None:
        """Restore the states, and bind the optimizer if it was bound."""
        for name, value in self._stateful_attributes().items():
            if state.get(name) is not None:
                value.load_state_dict(decode_arrays(state[name]))
        if state.get("optimizer") is not None:
            self._model.build_optimizer()

    def _stateful_attributes(self) -> dict[str, Any]:
        """Return the attributes that have a state, such as the second optimizer of a custom `train_step`."""
        return {
            name: value
            for name, value in vars(self._model).items()
            if not name.startswith("_")
            and name != "history"
            and hasattr(type(value), "load_state_dict")
            and hasattr(type(value), "state_dict")
        }


class ModuleFlagsState:
    """Which parameters are frozen, and which layers are in evaluation mode."""

    def __init__(self, model: nn.Module, losses: nn.Module) -> None:
        self._model, self._losses = model, losses

    def state_dict(self) -> StateDict:
        """Return their names."""
        return {
            "frozen": [name for name, parameter in self._named_parameters() if not parameter.requires_grad],
            "evaluating": names_in_evaluation(self._model),
        }

    def load_state_dict(self, state: StateDict) -> None:
        """Restore the flags."""
        for name, parameter in self._named_parameters():
            parameter.requires_grad_(name not in state["frozen"])
        for name, module in self._model.named_modules():
            module.training = name not in state["evaluating"]

    def _named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        return [*self._model.named_parameters(), *self._losses.named_parameters()]


class MetricsState:
    """The state of the metrics in the middle of an epoch."""

    def __init__(self, model: BaseModel, objective: Objective, auxiliary: AuxiliaryTerms, device: torch.device) -> None:
        self._model, self._objective, self._auxiliary, self._device = model, objective, auxiliary, device

    def state_dict(self) -> StateDict:
        """Return the state of each metric, and the outputs that they were built for."""
        states = {metric.name: metric.state_dict() for metric in self._modules()}
        return {
            "outputs": self._objective.build_config,
            "added": self._auxiliary.build_config,
            "states": encode_arrays(states),
        }

    def load_state_dict(self, state: StateDict) -> None:
        """Build the metrics for the same outputs, and restore their states."""
        self._objective.build_from_config(state["outputs"], self._device)
        self._auxiliary.build_from_config(state["added"])
        states = decode_arrays(state["states"])
        for metric in self._modules():
            if metric.name in states:
                metric.load_state_dict(states[metric.name])

    def _modules(self) -> list[Metric]:
        return [metric for metric in self._model.metrics if isinstance(metric, nn.Module)]


class CallbacksState:
    """The states of callbacks, identified by class and position among the callbacks of the class."""

    def __init__(self, callbacks: Iterable[Callback]) -> None:
        self._callbacks: dict[str, Callback] = {}
        for callback in callbacks:
            name, number = type(callback).__name__, 1
            while f"{name} {number}" in self._callbacks:
                number += 1
            self._callbacks[f"{name} {number}"] = callback

    def state_dict(self) -> StateDict:
        """Return the states by name."""
        return {
            name: encode_arrays(callback.state_dict())
            for name, callback in self._callbacks.items()
            if hasattr(callback, "state_dict")
        }

    def load_state_dict(self, state: StateDict) -> None:
        """Restore the states; callbacks without a saved state keep their initial one."""
        for name, callback in self._callbacks.items():
            if name in state:
                callback.load_state_dict(decode_arrays(state[name]))


class RNGState:
    """The global random generators."""

    def state_dict(self) -> StateDict:
        """Return their states."""
        return random_state()

    def load_state_dict(self, state: StateDict) -> None:
        """Restore them."""
        restore_random_state(state)


class NullState:
    """A component that a run does not have."""

    def state_dict(self) -> None:
        """Return nothing."""

    def load_state_dict(self, state: object) -> None:
        """Restore nothing."""
