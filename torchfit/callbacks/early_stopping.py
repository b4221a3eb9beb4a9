"""EarlyStopping: stop when a monitored value has stopped improving."""

import copy
from typing import Any

from torchfit._types import Logs, Results, StateDict
from torchfit._utils import console
from torchfit.callbacks._monitor import Monitor
from torchfit.callbacks.base import Callback


class EarlyStopping(Callback):
    """Stop training when a monitored value has stopped improving.

    Args:
        monitor: name in the logs, such as `"val_loss"`.
        min_delta: the smallest change that counts as an improvement.
        patience: epochs without improvement after which training stops; 0 acts like 1.
        verbose: 1 prints when training stops and which weights are restored.
        mode: `"min"`, `"max"`, or `"auto"`, which uses the mode of the metric.
        baseline: a value to beat: epochs that improve, but not on the baseline, use up patience as well. Training
            then stops in the first epoch that does not improve.
        restore_best_weights: restore the weights of the best epoch when training ends for any reason, also an
            exception, and even if the baseline was never beaten. Costs a copy of the weights in host memory at every
            improvement.
        start_from_epoch: the number of epochs before monitoring starts.

    Attributes:
        wait: epochs since the last improvement.
        best: the best value.
        best_epoch: index of the best epoch, from 0.
        stopped_epoch: index of the last epoch, from 0; 0 unless this callback stopped training.
        best_weights: the weights of the best epoch, if they are to be restored.

    Raises:
        ValueError: before the first epoch if `monitor` cannot occur or its mode is unknown; at the end of an epoch
            if it is missing.

    >>> stopping = EarlyStopping(monitor="val_loss", patience=3)
    """

    written_logs = ()

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
        self._monitor = Monitor(type(self).__name__, monitor, mode, min_delta)
        self._reset()

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Reset, and raise ValueError if `monitor` cannot occur."""
        self._monitor.check(self.model, self.params)
        self._reset()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Compare the epoch with the best one, and stop once patience is used up."""
        if epoch < self.start_from_epoch:
            return
        value = self._monitor.read(self.model, self.params, logs or {})
        if value is None:
            return
        self.wait += 1
        if self._monitor.is_improvement(value, self.best):
            self.best = value
            self._record_best(epoch)
            if self.baseline is None or self._monitor.is_improvement(value, self.baseline):
                self.wait = 0
            return
        if self.restore_best_weights and self.best_weights is None:
            self._record_best(epoch)
        if self.wait >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Print that training was stopped, and restore the best weights."""
        if self.stopped_epoch > 0 and self.verbose > 0:
            console.write_line(f"Epoch {self.stopped_epoch + 1:05d}: early stopping")
        self._restore()

    def get_monitor_value(self, logs: Results | None) -> Any:
        """Return the monitored value in `logs`, or None."""
        return self._monitor.read(self.model, self.params, logs or {})

    def state_dict(self) -> StateDict:
        """Return patience, best value and best weights."""
        return {
            "wait": self.wait,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "stopped_epoch": self.stopped_epoch,
            "best_weights": self.best_weights,
        }

    def load_state_dict(self, state: StateDict) -> None:
        """Restore patience, best value and best weights."""
        for name in self.state_dict():
            setattr(self, name, state[name])

    def _reset(self) -> None:
        self.wait = 0
        self.best = None
        self.best_epoch = 0
        self.stopped_epoch = 0
        self.best_weights = None
        self._restored = False

    def _record_best(self, epoch: int) -> None:
        self.best_epoch = epoch
        if self.restore_best_weights:
            # The arrays may share memory with the parameters.
            self.best_weights = copy.deepcopy(self.model.get_weights())

    def _restore(self) -> None:
        """Restore the best weights, once."""
        if self.best_weights is None or self._restored:
            return
        self._restored = True
        if self.verbose > 0:
            console.write_line(f"Restoring model weights from the end of the best epoch: {self.best_epoch + 1}.")
        self.model.set_weights(self.best_weights)

    def release_resources(self) -> None:
        """Restore the best weights if training was interrupted."""
        self._restore()
