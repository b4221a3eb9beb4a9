"""MLflowLogger: epochs into a run of MLflow."""

from typing import Any

from torchfit.callbacks import _tracking
from torchfit.callbacks.base import Callback


class MLflowLogger(Callback):
    """Log every epoch to MLflow, and how the training was set up.

    Needs the package mlflow or mlflow-skinny (`pip install "torchfit[tracking]"`), which is imported when training
    begins. A run that is active (`mlflow.start_run`) is used and left open; else one is begun, and ended with the
    training.

    Args:
        experiment: The experiment of a new run, by name.
        run_name: The name of a new run.
        tracking_uri: Where runs are stored; by default what MLflow is set to.
        **run_arguments: More arguments of `mlflow.start_run`, such as `tags`.

    Attributes:
        run_id: The identifier of the run, once training has begun.

    Raises:
        ImportError: before the first epoch, if mlflow is not installed.

    >>> logger = MLflowLogger(experiment="digits", run_name="first")
    """

    _is_builtin = True

    def __init__(
        self,
        experiment: str | None = None,
        run_name: str | None = None,
        tracking_uri: str | None = None,
        **run_arguments: Any,
    ) -> None:
        self.experiment = experiment
        self.tracking_uri = tracking_uri
        self._arguments = {"run_name": run_name, **run_arguments}
        self.run_id: str | None = None
        self._is_ours = False

    def on_train_begin(self, logs: Any = None) -> None:
        """Begin a run, unless there is one."""
        mlflow = self._mlflow()
        active = mlflow.active_run()
        self._is_ours = active is None
        if active is None:
            if self.tracking_uri is not None:
                mlflow.set_tracking_uri(self.tracking_uri)
            if self.experiment is not None:
                mlflow.set_experiment(self.experiment)
            active = mlflow.start_run(**self._arguments)
        self.run_id = active.info.run_id
        mlflow.log_params(_tracking.setup(self.model, self.params))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Log the values of the epoch."""
        self._mlflow().log_metrics(_tracking.values(self.model, logs), step=epoch + 1)

    def on_train_end(self, logs: Any = None) -> None:
        """End the run, if it was begun here."""
        self._finish("FINISHED")

    def _release(self) -> None:
        self._finish("FAILED")  # Only a training that broke off gets here with its run unfinished.

    def _finish(self, status: str) -> None:
        if self._is_ours:
            self._is_ours = False
            self._mlflow().end_run(status)

    def _mlflow(self) -> Any:
        return _tracking.imported("mlflow", "MLflowLogger")
