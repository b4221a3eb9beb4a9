"""A monitored log entry: whether it can occur, which way is better, whether it has improved."""

import operator
from collections.abc import Callable, Collection, Iterable
from typing import Any

from torchfit._types import Params, Results, StateDict
from torchfit._utils.errors import describe
from torchfit._utils.names import did_you_mean

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
    """Return "max" or "min", whichever is better for a name in the logs, or None if that is unknown.

    The metric of that name decides (`model.metrics`, attribute `mode`), whether or not `val_` or the name of an
    output precedes it. Losses are minimized. For entries that are not metrics, the name decides.

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
    """Check that a name is among those that can occur.

    Raises:
        ValueError: if it is not, listing the names.

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
    """Return `params` with the names that callbacks write in `metrics`, and whether other names may occur.

    torchfit's callbacks declare which entries they write (`written_logs`). If one does not, as callbacks of users,
    `params["metrics_complete"]` is False, and a monitored name is checked against the logs of the first epoch.
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
        owner: the callback's class name, for messages.
        monitor: name in the logs.
        mode: "min", "max" or "auto", which means that of the metric.
        min_delta: the smallest change that counts as an improvement.
    """

    def __init__(self, owner: str, monitor: str, mode: str, min_delta: float = 0.0) -> None:
        self.owner = owner
        self.monitor = monitor
        self.min_delta = abs(float(min_delta))
        self._better: Callable[[Any, Any], bool] | None = None
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

    def read(self, model: object, params: Params, logs: Results) -> Any:
        """Return the value in the logs, or None in an epoch without it (`validation_freq`)."""
        if self.monitor not in logs:
            if self.monitor not in params.get("metrics", ()):
                check_monitor(self.monitor, list(logs), f"{self.owner}: monitor")
            return None
        if self._better is None:
            self._set_mode(mode_of(model, self.monitor))
        return logs[self.monitor]

    def is_improvement(self, value: Any, best: Any) -> bool:
        """Return whether a value beats the best one by more than `min_delta`; `best` is None at first."""
        if self._better is None:
            raise self._ambiguous()
        if best is None:
            best = self.worst_value
        delta = self.min_delta if self.worst_value < 0 else -self.min_delta
        return bool(self._better(value - delta, best))

    @property
    def worst_value(self) -> float:
        """The value that every other one beats: -inf if the entry is maximized, else inf."""
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
