"""WandbLogger: epochs into a run of Weights & Biases."""

from typing import Any

from torchfit.callbacks import _tracking
from torchfit.callbacks.base import Callback


class WandbLogger(Callback):
    """Log every epoch to Weights & Biases, and how the training was set up.

    Needs the package wandb (`pip install "torchfit[tracking]"`), which is imported when training begins. A run that
    is active (`wandb.init`) is used and left open; else one is begun, and finished with the training.

    Args:
        project: The project of a new run.
        name: The name of a new run.
        **init_arguments: More arguments of `wandb.init`, such as `mode="offline"`, `dir` or `tags`.

    Attributes:
        run: The run, while training lasts and afterwards.

    Raises:
        ImportError: before the first epoch, if wandb is not installed.

    >>> logger = WandbLogger(project="digits", mode="offline")
    """

    _is_builtin = True

    def __init__(self, project: str | None = None, name: str | None = None, **init_arguments: Any) -> None:
        self._arguments = {"project": project, "name": name, **init_arguments}
        self.run: Any = None
        self._is_ours = False

    def on_train_begin(self, logs: Any = None) -> None:
        """Begin a run, unless there is one."""
        wandb = _tracking.imported("wandb", "WandbLogger")
        self._is_ours = wandb.run is None
        self.run = wandb.init(**self._arguments) if self._is_ours else wandb.run
        self.run.config.update(_tracking.setup(self.model, self.params), allow_val_change=True)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Log the values of the epoch."""
        self.run.log({**_tracking.values(self.model, logs), "epoch": epoch + 1})

    def on_train_end(self, logs: Any = None) -> None:
        """Finish the run, if it was begun here."""
        self._finish(0)

    def _release(self) -> None:
        self._finish(1)  # Only a training that broke off gets here with its run unfinished.

    def _finish(self, exit_code: int) -> None:
        if self._is_ours:
            self._is_ours = False
            self.run.finish(exit_code=exit_code)
