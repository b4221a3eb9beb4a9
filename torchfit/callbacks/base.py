"""The base class of callbacks, `LambdaCallback`, and the monitoring of log entries."""

import operator
from collections.abc import Callable, Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from torchfit._types import Logs, Params, Results, RunState, StateDict
from torchfit._utils.errors import describe
from torchfit._utils.names import SuggestsKeywords, did_you_mean

HOOKS = (
    "on_train_begin",
    "on_train_end",
    "on_epoch_begin",
    "on_epoch_end",
    "on_train_batch_begin",
    "on_train_batch_end",
    "on_test_begin",
    "on_test_end",
    "on_test_batch_begin",
    "on_test_batch_end",
    "on_predict_begin",
    "on_predict_end",
    "on_predict_batch_begin",
    "on_predict_batch_end",
)
"""Every hook of a callback, in the order of the loops below."""

HOOK_ALIASES: Mapping[str, str] = MappingProxyType(
    {"on_train_batch_begin": "on_batch_begin", "on_train_batch_end": "on_batch_end"}
)
"""Hooks with a second name, which is called if the first is not overridden."""


class Callback(SuggestsKeywords):
    """Base class of callbacks: objects whose hooks are called at certain points of `fit`, `evaluate` and `predict`.

    Override the hooks that you need; hooks that no callback overrides are free. The loops, in pseudocode::

        fit:       on_train_begin(logs)
                   for epoch in epochs:
                       on_epoch_begin(epoch, logs)
                       for batch in batches:
                           on_train_batch_begin(batch, logs)       # alias: on_batch_begin
                           train on the batch
                           on_train_batch_end(batch, logs)         # alias: on_batch_end
                       evaluate, if there is validation data
                       on_epoch_end(epoch, logs)                   # logs holds val_ entries as well
                       stop if model.stop_training
                   on_train_end(logs)
                   release_resources()                         # also after an exception

        evaluate:  on_test_begin(logs)
                   for batch in batches:
                       on_test_batch_begin(batch, logs)
                       on_test_batch_end(batch, logs)              # stop if model.stop_evaluating
                   on_test_end(logs)
                   release_resources()                         # not after a validation in fit

        predict:   on_predict_begin(logs)
                   for batch in batches:
                       on_predict_batch_begin(batch, logs)
                       on_predict_batch_end(batch, {"outputs": …}) # stop if model.stop_predicting
                   on_predict_end(logs)
                   release_resources()

    `epoch` and `batch` count from 0. `logs` is a dictionary of names to Python floats. Its values are fetched from
    the device on first read, which synchronizes with the device; copies and pickles are plain dictionaries. Entries
    written into the `logs` of `on_epoch_end` are visible to later callbacks and to the history. Gradients are
    enabled in all hooks, unless the caller of `evaluate` or `predict` has disabled them. With `steps_per_execution=K`,
    `on_train_batch_begin` gets the first index of a group of batches, and `on_train_batch_end` the last.

    Hooks are looked up once, when a loop starts. A subclass need not call `super().__init__()`.

    Attributes:
        model: The model that is trained, evaluated or predicts.
        params: How the loop runs: `"epochs"`, `"steps"` (None if unknown), `"verbose"`, and `"metrics"`, the names
            that can occur in `logs`.
        training_state: During `fit`, everything needed to resume the run; else None. Its `state_dict(epoch, step,
            logs)` returns the state before a step, and `load_state_dict(state)`, called in `on_train_begin`, resumes
            from it.

    Class attributes that a subclass may set. They apply only to the class that sets them, not to its subclasses:

    - `written_logs`: the names of all entries that the callback writes into `logs`; None if they are unknown.
    - `uses_log_names`: whether `on_train_begin` reads `params["metrics"]`, which takes a while to infer. It is assumed
      of callbacks with an attribute `monitor`.
    - `reads_logs_synchronously`: whether batch hooks read `logs` only while they run, and keep no reference to it.
      All batches may then share one mapping.
    - `runs_first`, `runs_last`: the names of hooks that are called before, or after, those of other callbacks.

    >>> class Losses(Callback):
    ...     def on_train_begin(self, logs=None):
    ...         self.values = []
    ...
    ...     def on_epoch_end(self, epoch, logs=None):
    ...         self.values.append(logs["loss"])
    >>> losses = Losses()
    >>> losses.on_train_begin()
    >>> losses.on_epoch_end(0, {"loss": 0.5})
    >>> losses.values
    [0.5]
    """

    model: Any = None
    params: Params = MappingProxyType({})
    training_state: RunState | None = None

    written_logs: tuple[str, ...] | None = None
    uses_log_names: bool = False
    reads_logs_synchronously: bool = False
    runs_first: Collection[str] = ()
    runs_last: Collection[str] = ()

    # Attributes that belong to a run in progress, and are omitted from copies and pickles.
    _not_copied: Collection[str] = ("training_state",)

    def set_model(self, model: Any) -> None:
        """Receive the model, before the first hook is called."""
        self.model = model

    def set_params(self, params: Params) -> None:
        """Receive the parameters of the loop, before the first hook is called."""
        self.params = params

    def set_training_state(self, state: RunState | None) -> None:
        """Receive the state of the training run before `on_train_begin`, and None when `fit` returns or raises."""
        self.training_state = state

    def unneeded_hooks(self) -> Collection[str]:
        """Return hooks of this class that are not needed with the current settings; they are not called.

        What a subclass, or the object itself, defines under these names is called nevertheless.
        """
        return ()

    def state_dict(self) -> StateDict:
        """Return the state to resume from: numbers, strings, arrays, tensors, and lists and dicts of them."""
        return {}

    def load_state_dict(self, state: StateDict) -> None:
        """Restore a state that `state_dict` returned. Call it after `on_train_begin`, which resets the callback."""

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Called at the start of `fit`."""

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Called at the end of `fit`; `logs` is that of the last epoch."""

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Called at the start of an epoch of training."""

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Called at the end of an epoch; `logs` holds its loss and metrics, and those of validation with `val_`."""

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Called before a training batch."""
        self.on_batch_begin(batch, logs)

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Called after a training batch; `logs` holds loss and metrics averaged over the epoch so far."""
        self.on_batch_end(batch, logs)

    def on_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Alias of `on_train_batch_begin`."""

    def on_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Alias of `on_train_batch_end`."""

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Called at the start of `evaluate`, and of the validation of an epoch."""

    def on_test_end(self, logs: Logs | None = None) -> None:
        """Called at the end of `evaluate`, and of the validation of an epoch; `logs` holds the results."""

    def on_test_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Called before a batch is evaluated."""

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Called after a batch is evaluated; `logs` holds the results so far."""

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        """Called at the start of `predict`."""

    def on_predict_end(self, logs: Logs | None = None) -> None:
        """Called at the end of `predict`."""

    def on_predict_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Called before a batch is predicted."""

    def on_predict_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Called after a batch is predicted; `logs["outputs"]` holds the outputs of the model for it."""

    def release_resources(self) -> None:
        """Called when a loop ends or raises, to release files, bars and module hooks. May be called twice."""

    def __getstate__(self) -> StateDict:
        """Return the attributes for copies and pickles: all but those of a run in progress."""
        return {name: value for name, value in vars(self).items() if name not in self._not_copied}


class LambdaCallback(Callback):
    """A callback whose hooks are given as functions. Hooks without a function are free.

    Args:
        on_epoch_begin, on_epoch_end: Functions of `(epoch, logs)`.
        on_train_begin, on_train_end: Functions of `(logs)`.
        on_train_batch_begin, on_train_batch_end: Functions of `(batch, logs)`.
        **kwargs: Functions for the other hooks of `Callback`.

    Raises:
        TypeError: If a hook is unknown, or an argument is not callable.

    >>> printer = LambdaCallback(on_epoch_end=lambda epoch, logs: print(epoch, logs["loss"]))
    >>> printer.on_epoch_end(0, {"loss": 0.5})
    0 0.5
    """

    def __init__(
        self,
        on_epoch_begin: Callable[..., object] | None = None,
        on_epoch_end: Callable[..., object] | None = None,
        on_train_begin: Callable[..., object] | None = None,
        on_train_end: Callable[..., object] | None = None,
        on_train_batch_begin: Callable[..., object] | None = None,
        on_train_batch_end: Callable[..., object] | None = None,
        **kwargs: Callable[..., object] | None,
    ) -> None:
        given = {
            "on_epoch_begin": on_epoch_begin,
            "on_epoch_end": on_epoch_end,
            "on_train_begin": on_train_begin,
            "on_train_end": on_train_end,
            "on_train_batch_begin": on_train_batch_begin,
            "on_train_batch_end": on_train_batch_end,
            **kwargs,
        }
        for hook, function in given.items():
            if function is not None:
                setattr(self, _checked(hook, function), function)


def _checked(hook: str, function: object) -> str:
    known = [*HOOKS, *HOOK_ALIASES.values()]
    if hook not in known:
        raise TypeError(f"`LambdaCallback` has no argument `{hook}`. {did_you_mean(hook, known)}")
    if not callable(function):
        raise TypeError(f"{hook}: expected a function. Received: {describe(function)}")
    return hook


_MAXIMIZED = (
    "acc",
    "auc",
    "precision",
    "recall",
    "f1",
    "fbeta",
    "iou",
    "r2",
    "fmeasure",
    "true_positives",
    "true_negatives",
)
_MINIMIZED = ("loss", "error", "mse", "mae", "mape", "msle", "crossentropy", "false_positives", "false_negatives")


def mode_of(model: object, monitor: str) -> str | None:
    """Return whether "max" or "min" is better for a log entry, or None if that is unknown.

    The mode is that of the metric of this name (its attribute `mode`); prefixes such as `val_` and names of outputs are
    ignored. Losses are minimized. For entries that are not metrics, the mode is inferred from the name.

    >>> mode_of(None, "val_loss"), mode_of(None, "val_accuracy"), mode_of(None, "score")
    ('min', 'max', None)
    """
    name = monitor.removeprefix("val_")
    if name == "loss" or name.endswith("_loss"):
        return "min"
    metrics = list(getattr(model, "metrics", None) or [])
    exact = [metric for metric in metrics if _name(metric) == name]
    prefixed = [metric for metric in metrics if name.endswith("_" + _name(metric))]
    modes = [getattr(metric, "mode", None) for metric in exact or prefixed]
    return next((mode for mode in modes if mode in ("max", "min")), _infer_mode(name))


def check_monitor(monitor: str, available_names: Collection[str], argument: str = "monitor") -> None:
    """Check that a name can occur in the logs.

    Raises:
        ValueError: If it cannot; the message lists the names that can.

    >>> check_monitor("val_acc", ["loss", "accuracy"])
    Traceback (most recent call last):
    ValueError: monitor: 'val_acc' does not occur in the logs. Names that do: loss, accuracy. ...
    """
    if monitor in available_names:
        return
    hint = did_you_mean(monitor, available_names) if available_names else ""
    if monitor.startswith("val_") and not any(name.startswith("val_") for name in available_names):
        hint = "There is no validation: pass validation_data or validation_split."
    names = ", ".join(available_names) or "none"
    hint = "" if hint.startswith("Known names") else " " + hint
    raise ValueError(f"{argument}: {monitor!r} does not occur in the logs. Names that do: {names}.{hint}")


def check_mode(mode: object) -> str:
    """Return "auto", "min" or "max"; raise ValueError for anything else."""
    if mode not in ("auto", "min", "max"):
        raise ValueError(f"mode: expected 'auto', 'min' or 'max'. Received: {describe(mode)}")
    return str(mode)


def add_log_names(params: Params, callbacks: Iterable[object]) -> StateDict:
    """Return `params` with the names of the entries that callbacks write added to `metrics`.

    torchfit's callbacks declare which entries they write (`written_logs`). If a callback does not, as is usual for
    custom ones, `params["metrics_complete"]` is False, and a monitored name is checked in the logs of the first epoch.
    """
    if "metrics" not in params:
        return dict(params)
    written = [vars(type(callback)).get("written_logs") for callback in callbacks]
    names = list(dict.fromkeys([*params["metrics"], *(name for names in written for name in names or ())]))
    complete = None not in written and params.get("metrics_complete", True)
    return {**params, "metrics": names, "metrics_complete": complete}


class Monitor:
    """The log entry that EarlyStopping, ModelCheckpoint or ReduceLROnPlateau monitors.

    Args:
        owner: The callback's class name, for messages.
        monitor: The name in the logs.
        mode: "min", "max" or "auto", which means that of the metric.
        min_delta: The smallest change that counts as an improvement.
    """

    def __init__(self, owner: str, monitor: str, mode: str, min_delta: float = 0.0) -> None:
        self.owner = owner
        self.monitor = monitor
        self.min_delta = abs(float(min_delta))
        self._better: Callable[[float, float], bool] | None = None
        self._set_mode(check_mode(mode))

    def check(self, model: object, params: Params) -> None:
        """Raise ValueError, before the first epoch, if the name cannot occur or its mode is unknown."""
        names = params.get("metrics")
        if names is not None and params.get("metrics_complete", True):
            check_monitor(self.monitor, names, f"{self.owner}: monitor")
        if self._better is None:
            self._set_mode(mode_of(model, self.monitor))
        known = [_name(metric) for metric in getattr(model, "metrics", None) or []]
        if self._better is None and self.monitor.removeprefix("val_") in known:
            raise self._ambiguous()

    def read(self, model: object, params: Params, logs: Results) -> float | None:
        """Return the value in the logs, or None in an epoch without it (`validation_freq`)."""
        if self.monitor not in logs:
            if self.monitor not in params.get("metrics", ()):
                check_monitor(self.monitor, list(logs), f"{self.owner}: monitor")
            return None
        if self._better is None:
            self._set_mode(mode_of(model, self.monitor))
        value: float = logs[self.monitor]
        return value

    def is_improvement(self, value: float, best: float | None) -> bool:
        """Return whether a value beats the best one by more than `min_delta`; `best` is None at first."""
        if self._better is None:
            raise self._ambiguous()
        if best is None:
            best = self.worst_value
        delta = self.min_delta if self.worst_value < 0 else -self.min_delta
        return bool(self._better(value - delta, best))

    @property
    def worst_value(self) -> float:
        """The worst possible value: -inf if the entry is maximized, else inf."""
        return float("-inf") if self._better is operator.gt else float("inf")

    def _set_mode(self, mode: str | None) -> None:
        self._better = {"max": operator.gt, "min": operator.lt}.get(str(mode))

    def _ambiguous(self) -> ValueError:
        return ValueError(
            f"{self.owner}: cannot know whether {self.monitor!r} is better when higher or when lower. "
            "Pass mode='max' or mode='min'."
        )


def _name(metric: object) -> str:
    return str(getattr(metric, "name", ""))


def _infer_mode(name: str) -> str | None:
    if any(part in name for part in _MINIMIZED):
        return "min"
    return "max" if any(part in name for part in _MAXIMIZED) else None
