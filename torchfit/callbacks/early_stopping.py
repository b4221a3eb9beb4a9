"""EarlyStopping: stop when a value has stopped improving."""

import copy
from collections.abc import Mapping
from typing import Any

from torchfit._utils import console
from torchfit.callbacks._monitor import Watch
from torchfit.callbacks.base import Callback


class EarlyStopping(Callback):
    """Stop training when a value in the logs has stopped improving.

    Args:
        monitor: name in the logs, such as `"val_loss"`.
        min_delta: how much better a value must be to count as an improvement.
        patience: epochs without improvement after which training stops; 0 acts like 1.
        verbose: 1 says when it stops and which weights it restores.
        mode: `"min"`, `"max"`, or `"auto"`: the metric itself says which way is better.
        baseline: a value to beat: epochs that improve, but not on the baseline, use up patience as well. Training
            stops in the first epoch after that which does not improve.
        restore_best_weights: go back to the weights of the best epoch when training ends: by patience, by
            itself, or stopped by somebody else, also by an exception. They count even if the baseline was
            never beaten. Costs a copy of the weights in host memory at every improvement.
        start_from_epoch: epochs to let pass before watching.

    Attributes:
        wait: epochs since the last improvement.
        best: the best value.
        best_epoch: index of the best epoch, from 0.
        stopped_epoch: index of the last epoch, from 0; it stays 0 if training was not stopped here.
        best_weights: those of the best epoch, if they are to be restored.

    Raises:
        ValueError: before the first epoch if `monitor` cannot occur, or if nothing tells its direction; at
            the end of an epoch if it is missing then.

    >>> stopping = EarlyStopping(monitor="val_loss", patience=3)
    """

    _is_builtin = True

    wait: int
    best: Any
    best_epoch: int
    stopped_epoch: int
    best_weights: Any

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0,
        patience: int = 0,
        verbose: int = 0,
        mode: str = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
    ) -> None:
        self.monitor = monitor
        self.patience = patience
        self.verbose = verbose
        self.mode = mode
        self.baseline = baseline
        self.restore_best_weights = restore_best_weights
        self.start_from_epoch = start_from_epoch
        self.min_delta = abs(min_delta)
        self._watch = Watch(type(self).__name__, monitor, mode, min_delta)
        self._forget()

    def on_train_begin(self, logs: Any = None) -> None:
        """Start afresh, and refuse a `monitor` that cannot occur."""
        self._watch.check(self.model, self.params)
        self._forget()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Compare the epoch with the best one, and stop if patience has run out."""
        if epoch < self.start_from_epoch:
            return
        value = self._watch.read(self.model, self.params, logs or {})
        if value is None:
            return
        self.wait += 1
        if self._watch.improved(value, self.best):
            self.best = value
            self._keep(epoch)
            if self.baseline is None or self._watch.improved(value, self.baseline):
                self.wait = 0
            return
        if self.restore_best_weights and self.best_weights is None:
            self._keep(epoch)
        if self.wait >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def on_train_end(self, logs: Any = None) -> None:
        """Say that training was stopped, and restore the best weights."""
        if self.stopped_epoch > 0 and self.verbose > 0:
            console.write_line(f"Epoch {self.stopped_epoch + 1:05d}: early stopping")
        self._restore()

    def get_monitor_value(self, logs: Mapping[str, Any] | None) -> Any:
        """Return the watched value of some logs, or None."""
        return self._watch.read(self.model, self.params, logs or {})

    def state_dict(self) -> dict[str, Any]:
        """Return patience, best value and best weights."""
        return {
            "wait": self.wait,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "stopped_epoch": self.stopped_epoch,
            "best_weights": self.best_weights,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting."""
        for name in self.state_dict():
            setattr(self, name, state[name])

    def _forget(self) -> None:
        self.wait = 0
        self.best = None
        self.best_epoch = 0
        self.stopped_epoch = 0
        self.best_weights = None
        self._restored = False

    def _keep(self, epoch: int) -> None:
        self.best_epoch = epoch
        if self.restore_best_weights:
            # Arrays may share memory with parameters that go on changing.
            self.best_weights = copy.deepcopy(self.model.get_weights())

    def _restore(self) -> None:
        """Restore the best weights, once."""
        if self.best_weights is None or self._restored:
            return
        self._restored = True
        if self.verbose > 0:
            console.write_line(f"Restoring model weights from the end of the best epoch: {self.best_epoch + 1}.")
        self.model.set_weights(self.best_weights)

    def _release(self) -> None:
        """Restore the best weights where training was broken off."""
        self._restore()
