"""History: what `fit` returns."""

from collections.abc import Mapping
from typing import Any

from torchfit.callbacks.base import Callback


class History(Callback):
    """Record the logs of every epoch. `fit` adds one, after all other callbacks, and returns it.

    Attributes:
        history: name -> list of floats, one per epoch that had the value.
        epoch: the epochs' indices, from 0 (or from `initial_epoch`).
        timing: where the time went: name -> list, one per epoch, of the seconds spent on `data` (waiting for batches),
            `step`, `callbacks`, `validation` and `compile`, of their `total`, and of the `peak_memory` in bytes.

    >>> history = History()
    >>> history.on_train_begin()
    >>> history.on_epoch_end(0, {"loss": 0.5})
    >>> history.on_epoch_end(1, {"loss": 0.25})
    >>> history.history, history.epoch
    ({'loss': [0.5, 0.25]}, [0, 1])
    """

    _is_builtin = True

    def __init__(self) -> None:
        self.history: dict[str, list[Any]] = {}
        self.epoch: list[int] = []
        self.timing: dict[str, list[float]] = {}

    def on_train_begin(self, logs: Any = None) -> None:
        """Start counting epochs again; an object used twice goes on recording values, as in Keras."""
        self.epoch = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Append the epoch's values."""
        self.epoch.append(epoch)
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(value)
        if self.model is not None:
            self.model.history = self

    def state_dict(self) -> dict[str, Any]:
        """Return the record so far."""
        return {
            "history": {name: list(values) for name, values in self.history.items()},
            "epoch": list(self.epoch),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with a record."""
        self.history = {name: list(values) for name, values in state["history"].items()}
        self.epoch = list(state["epoch"])
