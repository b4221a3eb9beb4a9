"""The course of a training: where it begins, through which epochs it goes, and all that it depends on, as one state."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from torchfit._serialization.archive import to_host
from torchfit._trainer.logs import Logs
from torchfit._utils.errors import describe

State = dict[str, Any]
Work = Iterator[tuple[int, int, Any]]

FORMAT = "torchfit training"
VERSION = 2
_CHANGED_BY_A_STEP = ("weights", "optimizers", "metrics", "random")


class Stateful(Protocol):
    """A part of a training that changes."""

    def state_dict(self) -> Any:
        """Return what changes."""
        ...

    def load_state_dict(self, state: Any) -> Any:
        """Take up what `state_dict` returned."""
        ...


class Batches(Protocol):
    """What a course goes through."""

    @property
    def steps(self) -> int | None:
        """The number of batches in an epoch, `None` while unknown."""
        ...

    @property
    def replayable(self) -> bool:
        """Whether an epoch can be entered in the middle."""
        ...

    def epochs(self, indices: range, start: int = 0) -> Iterator[int]:
        """Give the epochs for which there are data."""
        ...

    def state_dict(self, is_inside: bool = False) -> State:
        """Return what the batches to come depend on."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Give the batches that were to come then."""
        ...


class Course:
    """Leads a loop through its epochs: from the first one, or from wherever `load_state_dict` puts it.

    A state is that between two steps or two epochs. It may be loaded in `on_train_begin`; one from the middle of an
    epoch is to be loaded in the first `on_epoch_begin` once more, after the callbacks that start that epoch afresh.
    """

    def __init__(
        self,
        batches: Batches,
        work: Callable[[Any, int, int], Work],
        epochs: range,
        signals: Any,
        start_epoch: Callable[[], None],
        parts: Mapping[str, Stateful],
    ) -> None:
        """Begin with the first of `epochs`.

        Args:
            batches: The data.
            work: Gives the work of an epoch, for (batches, epoch, number of its first batch).
            epochs: The indices of the epochs.
            signals: The model, which holds `stop_training`.
            start_epoch: What is to be done before each epoch.
            parts: What changes in a training, in the order in which it is to be restored.

        `rehearse` may be set to a step whose first call differs from those after it, if only by a rounding, as where
        graphs are compiled. A training that goes on then makes its first step twice, and takes back the first.
        """
        self._batches, self._work, self._signals, self._start_epoch = batches, work, signals, start_epoch
        self._parts = parts
        self._is_resumed = False
        self.rehearse: Callable[[Any], Any] | None = None
        self._epochs, self._step = epochs, 0
        self._logs: State = {}

    @property
    def is_resumable(self) -> bool:
        """Whether an epoch can be entered in the middle."""
        return self._batches.replayable

    @property
    def is_mid_epoch(self) -> bool:
        """Whether the course begins in the middle of an epoch."""
        return self._step > 0

    def epochs(self) -> Iterator[int]:
        """Give the indices of the epochs to come. Where they begin is asked at the first one."""
        if not self._signals.stop_training:
            yield from self._batches.epochs(self._epochs, self._step)

    def start(self) -> Logs:
        """Start an epoch, and return its logs before its first step."""
        self._start_epoch()
        logs, self._logs = self._logs, {}
        return Logs.of(logs)

    def work(self, epoch: int) -> Work:
        """Give (index of the first batch, index of the last, what one call takes) for an epoch, or the rest of it."""
        work = self._work(self._batches, epoch, self._step if epoch == self._epochs.start else 0)
        return work if self.rehearse is None or not self._is_resumed else self._rehearsed(work, self.rehearse)

    def _rehearsed(self, work: Work, rehearse: Callable[[Any], Any]) -> Work:
        first = next(work, None)  # Behind the last step of an epoch there is none: the next epoch has it.
        if first is not None:
            self._is_resumed = False
            before = to_host({name: self.state_of(name) for name in _CHANGED_BY_A_STEP}, copy=True)
            rehearse(first[2])
            for name, state in before.items():
                self._parts[name].load_state_dict(state)
            yield first
        yield from work

    def state_dict(self, epoch: int, step: int, logs: Mapping[str, Any]) -> State:
        """Return everything that a training depends on before step `step` of epoch `epoch`; tensors are those in use.

        Args:
            epoch: The index of the epoch to go on with.
            step: The number of its steps that are done.
            logs: The logs of these steps.
        """
        steps = self._batches.steps
        return {
            "format": FORMAT,
            "version": VERSION,
            "position": {"epoch": epoch, "step": step, "steps": steps},
            "logs": dict(logs) if step and steps in (None, step) else {},  # The next step gives others.
            "stop_training": bool(self._signals.stop_training),
            "data": self._batches.state_dict(is_inside=step > 0),
            **{name: part.state_dict() for name, part in self._parts.items()},
        }

    def state_of(self, part: str) -> Any:
        """Return the state of one part, by name."""
        return self._parts[part].state_dict()

    def load_state_dict(self, state: State) -> None:
        """Go on from a state.

        Raises:
            ValueError: It is no such state, or belongs to another model or other data.
        """
        state = _checked(state)
        position = state["position"]
        steps = self._batches.steps
        if position["step"] and steps is not None and position["steps"] != steps:
            raise ValueError(
                f"The training was interrupted after step {position['step']} of an epoch of {position['steps']} steps, "
                f"but now an epoch has {steps}. Pass the same data, `batch_size` and `steps_per_epoch` as then."
            )
        self._epochs, self._step = range(position["epoch"], self._epochs.stop), position["step"]
        self._is_resumed = True
        self._logs = dict(state["logs"])
        self._signals.stop_training = state["stop_training"]
        self._batches.load_state_dict(state["data"])
        for name, part in self._parts.items():
            part.load_state_dict(state[name])


def _checked(state: Any) -> State:
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(f"This is no state of a training: {describe(state)}.")
    if state["version"] > VERSION:
        raise ValueError(
            f"The state of a training was written in version {state['version']} of its format; this torchfit reads "
            f"versions up to {VERSION}. Upgrade."
        )
    return {"graphs": {}, **state}  # Version 1 did not tell which graphs there were.
