"""WandbLogger: log epochs to Weights & Biases."""

from typing import Any

from torchfit._types import Logs
from torchfit.callbacks import _experiment_trackers
from torchfit.callbacks.base import Callback


class WandbLogger(Callback):
    """Log every epoch, and how the run is set up, to Weights & Biases.

    Needs the package wandb (`pip install wandb`), which is imported when training starts. An
    active run (`wandb.init`) is used and left open; otherwise a run is started, and finished with the training.

    Args:
        project: The project of a new run.
        name: The name of a new run.
        **init_arguments: More arguments of `wandb.init`, such as `mode="offline"`, `dir` or `tags`.

    Attributes:
        run: The run, during training and afterwards.

    Raises:
        ImportError: before the first epoch, if wandb is not installed.

    >>> logger = WandbLogger(project="digits", mode="offline")
    """

    is_writer = True
    written_logs = ()

    run: Any = None
    _is_ours = False
    _not_copied = ("training_state", "run", "_is_ours")

    def __init__(self, project: str | None = None, name: str | None = None, **init_arguments: object) -> None:
        self._arguments = {"project": project, "name": name, **init_arguments}

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Start a run, unless one is active."""
        wandb = _experiment_trackers.require_package("wandb", "WandbLogger")
        self._is_ours = wandb.run is None
        self.run = wandb.init(**self._arguments) if self._is_ours else wandb.run
        self.run.config.update(_experiment_trackers.run_config(self.model, self.params), allow_val_change=True)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Log the values of the epoch."""
        self.run.log({**_experiment_trackers.numeric_logs(self.model, logs), "epoch": epoch + 1})

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Finish the run, if it was started here."""
        self._finish(0)

    def release_resources(self) -> None:
        """Mark the run as failed if training was interrupted, and the run thus was not finished yet."""
        self._finish(1)

    def _finish(self, exit_code: int) -> None:
        if self._is_ours:
            self._is_ours = False
            self.run.finish(exit_code=exit_code)
