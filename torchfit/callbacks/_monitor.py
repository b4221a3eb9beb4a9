"""Watching one value: does it exist, which way is better, has it improved."""

import operator
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from torchfit._utils.errors import describe
from torchfit._utils.names import did_you_mean

_UP = (
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
_DOWN = ("loss", "error", "mse", "mae", "mape", "msle", "crossentropy", "false_positives", "false_negatives")


def direction_of(model: Any, monitor: str) -> str | None:
    """Return "up" or "down", whichever way is better for a name in the logs, or None if nothing tells.

    The metric of that name says it (`model.metrics`, attribute `direction`); `val_` and an output's name
    before it do not matter. Losses go down. For values that are no metric, the name decides.

    >>> direction_of(None, "val_loss"), direction_of(None, "val_accuracy"), direction_of(None, "score")
    ('down', 'up', None)
    """
    name = monitor.removeprefix("val_")
    if name == "loss" or name.endswith("_loss"):
        return "down"
    metrics = list(getattr(model, "metrics", None) or [])
    exact = [metric for metric in metrics if _name(metric) == name]
    inside = [metric for metric in metrics if name.endswith("_" + _name(metric))]
    told = [getattr(metric, "direction", None) for metric in exact or inside]
    return next((direction for direction in told if direction in ("up", "down")), _by_name(name))


def check_monitor(monitor: str, available_names: Collection[str], argument: str = "monitor") -> None:
    """Refuse a name that is not among those that can occur.

    Raises:
        ValueError: listing the names.

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


def check_mode(mode: Any) -> str:
    """Return "auto", "min" or "max"; refuse anything else with ValueError."""
    if mode not in ("auto", "min", "max"):
        raise ValueError(f"mode: expected 'auto', 'min' or 'max'. Received: {describe(mode)}")
    return str(mode)


def with_possible_names(params: Mapping[str, Any], callbacks: Iterable[Any]) -> dict[str, Any]:
    """Add to `params["metrics"]` what the callbacks write, and say whether other names may turn up.

    torchfit's callbacks declare what they write. What a user's callback writes is unknown; then
    `params["metrics_complete"]` is False, and a monitored name is checked when the first logs come.
    """
    if "metrics" not in params:
        return dict(params)
    kinds = [vars(type(callback)) for callback in callbacks]
    complete = all(kind.get("_is_builtin", False) for kind in kinds)
    written = [name for kind in kinds for name in kind.get("_written_logs", ())]
    names = list(dict.fromkeys([*params["metrics"], *written]))
    return {**params, "metrics": names, "metrics_complete": complete and params.get("metrics_complete", True)}


class Watch:
    """What EarlyStopping, ModelCheckpoint and ReduceLROnPlateau have in common: a name and a direction.

    Args:
        owner: the callback's class name, for messages.
        monitor: name in the logs.
        mode: "min", "max" or "auto", which asks the metric.
        min_delta: how much better a value must be to count.
    """

    def __init__(self, owner: str, monitor: str, mode: str, min_delta: float = 0.0) -> None:
        self.owner = owner
        self.monitor = monitor
        self.min_delta = abs(float(min_delta))
        self._better: Callable[[Any, Any], bool] | None = None
        if check_mode(mode) != "auto":
            self._turn("up" if mode == "max" else "down")

    def check(self, model: Any, params: Mapping[str, Any]) -> None:
        """Refuse, before the first epoch, a name that cannot occur, or whose direction cannot be known."""
        names = params.get("metrics")
        if names is not None and params.get("metrics_complete", True):
            check_monitor(self.monitor, names, f"{self.owner}: monitor")
        if self._better is None:
            self._turn(direction_of(model, self.monitor))
        known = [_name(metric) for metric in getattr(model, "metrics", None) or []]
        if self._better is None and self.monitor.removeprefix("val_") in known:
            raise self._ambiguous()

    def read(self, model: Any, params: Mapping[str, Any], logs: Mapping[str, Any]) -> Any:
        """Return the value in the logs, or None in an epoch without it (`validation_freq`)."""
        if self.monitor not in logs:
            if self.monitor not in params.get("metrics", ()):
                check_monitor(self.monitor, list(logs), f"{self.owner}: monitor")
            return None
        if self._better is None:
            self._turn(direction_of(model, self.monitor))
        return logs[self.monitor]

    def improved(self, value: Any, best: Any) -> bool:
        """Tell whether a value beats the best one by more than `min_delta`; `best` is None at first."""
        if self._better is None:
            raise self._ambiguous()
        if best is None:
            best = self.worst
        delta = self.min_delta if self.worst < 0 else -self.min_delta
        return bool(self._better(value - delta, best))

    @property
    def worst(self) -> float:
        """The value that every other one beats: inf, or -inf where higher is better."""
        return float("-inf") if self._better is operator.gt else float("inf")

    def _turn(self, direction: str | None) -> None:
        self._better = {"up": operator.gt, "down": operator.lt}.get(str(direction))

    def _ambiguous(self) -> ValueError:
        return ValueError(
            f"{self.owner}: cannot tell whether {self.monitor!r} is better when higher or when lower. "
            "Pass mode='max' or mode='min'."
        )


def _name(metric: Any) -> str:
    return str(getattr(metric, "name", ""))


def _by_name(name: str) -> str | None:
    if any(part in name for part in _DOWN):
        return "down"
    return "up" if any(part in name for part in _UP) else None
