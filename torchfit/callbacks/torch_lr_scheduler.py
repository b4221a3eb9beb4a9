"""`TorchLRScheduler`, which steps a scheduler of torch, and finds out what to pass to it."""

import inspect
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import torch
from torch.optim import Optimizer, lr_scheduler

from torchfit._types import Logs, Results, StateDict
from torchfit._utils import validation
from torchfit._utils.errors import describe
from torchfit.callbacks.base import Callback, Monitor
from torchfit.callbacks.learning_rate import built_optimizer, learning_rate_of, require_settable_rate

_VAL_LOSS = "val_loss"
_VALUE_WORDS = ("metric", "loss", "score", "accuracy", "value")


class TorchLRScheduler(Callback):
    """Steps a scheduler of `torch.optim.lr_scheduler` after every epoch, or after every batch.

    Args:
        scheduler: A scheduler of the `torch.optim` optimizer that the model was compiled with; or a callable that
            creates one for an optimizer, which works with every optimizer of the model:
            `lambda optimizer: StepLR(optimizer, 10)`. With torchfit's own optimizers only the learning rate is set,
            not the momentum that `OneCycleLR` and `CyclicLR` would cycle. Schedulers of your own need a method `step`,
            without arguments or with `metrics`. Those of timm are passed the number of completed epochs or batches.
        interval: `"epoch"` or `"batch"`: when to step. Epoch steps come after validation.
        monitor: The name in the logs whose value is passed to schedulers whose `step` takes one: as the parameter of
            this name, or one with a name like `metrics` (that of torch's `ReduceLROnPlateau`) or `val_loss`. If the
            parameter has a default, there need not be a `val_loss`. With `interval="batch"` the value is read at every
            step, which synchronizes with the device.

    Writes `learning_rate`, the rate of the epoch, into the logs.

    Raises:
        ValueError: If `interval` is invalid; before the first epoch, if `monitor` cannot occur, or if the scheduler
            belongs to another optimizer than that of the model; before a step with a negative learning rate, if the
            optimizer is one of torchfit.
        TypeError: If `scheduler` is neither a scheduler nor callable; before the first epoch, if the optimizer has a
            learning-rate schedule, or if it is unknown what to pass to `step`.

    >>> from torch.optim.lr_scheduler import StepLR
    >>> halving = TorchLRScheduler(lambda optimizer: StepLR(optimizer, step_size=10, gamma=0.5))
    """

    written_logs = ("learning_rate",)
    reads_logs_synchronously = True

    _not_copied = ("training_state", "_optimizer", "_call", "_read")

    def __init__(self, scheduler: Any, interval: str = "epoch", monitor: str = _VAL_LOSS) -> None:
        if interval not in ("epoch", "batch"):
            raise ValueError(f"interval: expected 'epoch' or 'batch'. Received: {describe(interval)}")
        is_created = hasattr(scheduler, "step") and not isinstance(scheduler, type)
        if not is_created and not callable(scheduler):
            raise TypeError(
                "scheduler: expected a scheduler of torch.optim.lr_scheduler, or a callable that creates one for an "
                f"optimizer. Received: {describe(scheduler)}"
            )
        self.interval = interval
        self.monitor = monitor
        self._create: Callable[[Optimizer], object] | None = None if is_created else scheduler
        self.scheduler: Any = scheduler if is_created else None
        self._last_batch = -1
        self._num_batches = 0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Create the scheduler for the optimizer of the model, unless one was given."""
        require_settable_rate(type(self).__name__, self.model)
        own = getattr(built_optimizer(self.model), "optimizer", None)
        self._optimizer = self._optimizer_of_scheduler(own)
        self._check_groups()
        self._uses_placeholder = self._optimizer is not own
        if self._uses_placeholder:
            self._optimizer.step()  # changes nothing; without it schedulers warn
        self._copy_rate()
        self._num_batches = 0
        self._choose_call()

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Restart the count of batches."""
        self._require_rate()
        self._last_batch = -1

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Step once for each batch since the last call, if `interval` is "batch"."""
        if self.interval == "batch":
            self._require_rate()
            for _ in range(batch - self._last_batch):
                self._num_batches += 1
                self._step(self._num_batches, logs)
            self._last_batch = batch

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Write the rate of the epoch into the logs, and step, if `interval` is "epoch"."""
        logs = {} if logs is None else logs
        logs["learning_rate"] = learning_rate_of(self.model)
        if self.interval == "epoch":
            self._step(epoch + 1, logs)

    def state_dict(self) -> StateDict:
        """Return the scheduler's state and the learning rates of its optimizer.

        Raises:
            TypeError: If the scheduler has no `state_dict` and `load_state_dict`.
        """
        if not hasattr(self.scheduler, "state_dict") or not hasattr(self.scheduler, "load_state_dict"):
            raise TypeError(
                f"scheduler: to resume a run, {describe(self.scheduler)} needs the methods state_dict() and "
                "load_state_dict(state), as schedulers of torch have them."
            )
        return {
            "scheduler": self.scheduler.state_dict(),
            "rates": [group["lr"] for group in self._optimizer.param_groups],
            "last_batch": self._last_batch,
            "num_batches": self._num_batches,
        }

    def load_state_dict(self, state: StateDict) -> None:
        """Continue the schedule."""
        self.scheduler.load_state_dict(state["scheduler"])
        for group, rate in zip(self._optimizer.param_groups, state["rates"]):
            group["lr"] = rate
        self._last_batch, self._num_batches = state["last_batch"], state.get("num_batches", 0)
        self._copy_rate()

    def __getstate__(self) -> StateDict:
        """Omit a scheduler that `on_train_begin` created from copies and pickles."""
        return {**super().__getstate__(), "scheduler": self.scheduler if self._create is None else None}

    def _optimizer_of_scheduler(self, own: Optimizer | None) -> Optimizer:
        """Create the scheduler, unless one was given, and return the optimizer whose learning rates it sets."""
        if self._create is not None:
            passed = own or _placeholder_optimizer(learning_rate_of(self.model))
            self.scheduler = self._create(passed)
            if not hasattr(self.scheduler, "step"):
                raise TypeError(
                    "scheduler: the callable must return a scheduler, an object with a method `step`. It returned: "
                    f"{describe(self.scheduler)}"
                )
            held: Optimizer = getattr(self.scheduler, "optimizer", passed)
            return held
        values = _attributes(self.scheduler)
        if own is None or all(each is not own for each in (getattr(self.scheduler, "optimizer", None), *values)):
            raise ValueError(
                "scheduler: it belongs to another optimizer than the one that the model was compiled with. "
                "Pass a callable instead, such as lambda optimizer: StepLR(optimizer, 10)."
            )
        return own

    def _check_groups(self) -> None:
        groups, rates = self._optimizer.param_groups, getattr(self.scheduler, "base_lrs", None)
        if rates is not None and len(rates) != len(groups):
            raise ValueError(
                f"scheduler: it was created for {len(rates)} parameter groups, but the optimizer has {len(groups)} "
                "now. Pass a callable instead, such as lambda optimizer: StepLR(optimizer, 10)."
            )

    def _choose_call(self) -> None:
        """Decide what is passed to the scheduler, from the signature of its method.

        Raises:
            TypeError: If it is unknown what to pass.
            ValueError: If a value is needed, but does not occur, or if a scheduler of timm steps at the other interval.
        """
        step, parameters = self.scheduler.step, validation.named_parameters(self.scheduler.step)
        takes_count = any(each.name == "epoch" and validation.is_required(each) for each in parameters)
        if takes_count and self._counts_updates():
            step, parameters = self.scheduler.step_update, validation.named_parameters(self.scheduler.step_update)
        value = _find_value(parameters, self.monitor)
        others = [each for each in parameters if validation.is_required(each) and each is not value]
        if len(others) > takes_count:
            raise TypeError(
                f"scheduler: the method `step` of {describe(self.scheduler)} takes {inspect.signature(step)}. It is "
                "called without arguments, with the value of `monitor` as `metrics` (or as a parameter named after it, "
                "or like a metric or loss), or with the number of completed epochs as `epoch`. Define one of these."
            )
        self._needs_value = value is not None and (validation.is_required(value) or _wraps_plateau(self.scheduler))
        self._read = self._choose_reader(value is not None)
        self._call = _caller(step, parameters, others[0] if others else None, value)

    def _counts_updates(self) -> bool:
        """Return whether a scheduler of timm counts updates, in `step_update`, instead of epochs, in `step`."""
        is_batch = self.interval == "batch"
        counts_updates = hasattr(self.scheduler, "step_update") and not getattr(
            self.scheduler, "t_in_epochs", not is_batch
        )
        if counts_updates != is_batch:
            counted, interval = ("updates", "batch") if counts_updates else ("epochs", "epoch")
            raise ValueError(
                f"TorchLRScheduler: {describe(self.scheduler)} counts {counted}. Pass interval={interval!r}."
            )
        return counts_updates

    def _choose_reader(self, takes_value: bool) -> Callable[[Results], float | None]:
        """Return a function that reads the value from the logs, `None` if there is none."""
        is_optional = self.monitor == _VAL_LOSS and not self._needs_value
        if not takes_value or (is_optional and self.interval == "batch"):
            return lambda logs: None
        if is_optional:
            return lambda logs: logs.get(_VAL_LOSS)
        if self.interval == "batch" and self.monitor.startswith("val_"):
            raise ValueError(
                f"TorchLRScheduler: monitor: {self.monitor!r} is known only at the end of epochs. Pass "
                "interval='epoch', or the name of a training value, such as monitor='loss'."
            )
        monitor = Monitor(type(self).__name__, self.monitor, "min")
        monitor.check(self.model, self.params)
        return lambda logs: monitor.read(self.model, self.params, logs)

    def _step(self, count: int, logs: Logs | None) -> None:
        value = self._read({} if logs is None else logs)
        if value is not None or not self._needs_value:
            self._call(count, value)
        self._copy_rate()

    def _copy_rate(self) -> None:
        """Copy the rate from the placeholder to the optimizer of the model.

        A negative rate, in which a linear one-cycle schedule ends, is only refused before a step that would use it.
        """
        self._refused_rate = None
        if self._uses_placeholder:
            rate = float(self._optimizer.param_groups[0]["lr"])
            if rate < 0:
                self._refused_rate = rate
            else:
                self.model.optimizer.learning_rate = rate

    def _require_rate(self) -> None:
        if self._refused_rate is not None:
            raise ValueError(
                f"scheduler: {describe(self.scheduler)} sets the learning rate {self._refused_rate:g}, which must not "
                "be negative. Check its number of steps, such as `total_steps`, against the length of the training."
            )

    def unneeded_hooks(self) -> Collection[str]:
        """Return the hook of batches, if `interval` is "epoch"."""
        return ("on_train_batch_end",) if self.interval == "epoch" else ()


def _attributes(scheduler: object) -> list[object]:
    return list(getattr(scheduler, "__dict__", {}).values())


def _find_value(parameters: Iterable[inspect.Parameter], monitor: str) -> inspect.Parameter | None:
    """Return the parameter for the monitored value: that of its name, or else one with the name of some value."""
    named = [each for each in parameters if each.name == monitor or any(word in each.name for word in _VALUE_WORDS)]
    return min(named, key=lambda each: each.name != monitor, default=None)


def _wraps_plateau(scheduler: object) -> bool:
    """Return whether a scheduler has one that needs a value, as some of timm have."""
    return any(isinstance(each, lr_scheduler.ReduceLROnPlateau) for each in _attributes(scheduler))


def _caller(
    step: Callable[..., object],
    parameters: Sequence[inspect.Parameter],
    count: inspect.Parameter | None,
    value: inspect.Parameter | None,
) -> Callable[[int, float | None], object]:
    """Return a function that steps a scheduler, given the number of completed epochs or batches and the value.

    The first parameter is passed by position, the others by name.
    """
    if count is None and value is None:
        return lambda completed, read: step()
    first = parameters[0].name if parameters[0].kind is not inspect.Parameter.KEYWORD_ONLY else None

    def call(completed: int, read: float | None) -> object:
        named: dict[str, object] = {} if count is None else {count.name: completed}
        if value is not None and read is not None:
            named[value.name] = read
        return step(named.pop(first), **named) if first in named else step(**named)

    return call


def _placeholder_optimizer(learning_rate: float) -> Optimizer:
    """Return a torch optimizer that only holds a learning rate, for a scheduler to set."""
    # OneCycleLR and CyclicLR need a momentum to cycle.
    return torch.optim.SGD([torch.zeros(0, requires_grad=True)], lr=learning_rate, momentum=0.9)
