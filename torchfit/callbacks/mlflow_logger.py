"""MLflowLogger: log epochs to MLflow."""

from typing import Any

from torchfit._types import Logs
from torchfit.callbacks import _experiment_trackers
from torchfit.callbacks.base import Callback


class MLflowLogger(Callback):
    """Log every epoch, and how the run is set up, to MLflow.

    Needs the package mlflow or mlflow-skinny (`pip install mlflow-skinny`), which is imported when training
    starts. An active run (`mlflow.start_run`) is used and left open; otherwise a run is started, and ended with the
    training.

    Args:
        experiment: The experiment of a new run, by name.
        run_name: The name of a new run.
        tracking_uri: Where runs are stored; by default the setting of MLflow.
        **run_arguments: More arguments of `mlflow.start_run`, such as `tags`.

    Attributes:
        run_id: The identifier of the run, once training has started.

    Raises:
        ImportError: before the first epoch, if mlflow is not installed.

    >>> logger = MLflowLogger(experiment="digits", run_name="first")
    """

    is_writer = True
    written_logs = ()

    def __init__(
        self,
        experiment: str | None = None,
        run_name: str | None = None,
        tracking_uri: str | None = None,
        **run_arguments: object,
    ) -> None:
        self.experiment = experiment
        self.tracking_uri = tracking_uri
        self._arguments = {"run_name": run_name, **run_arguments}
        self.run_id: str | None = None
        self._is_ours = False

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Start a run, unless one is active."""
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
        mlflow.log_params(_experiment_trackers.run_config(self.model, self.params))

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Log the values of the epoch."""
        self._mlflow().log_metrics(_experiment_trackers.numeric_logs(self.model, logs), step=epoch + 1)

    def on_train_end(self, logs: Logs | None = None) -> None:
        """End the run, if it was started here."""
        self._finish("FINISHED")

    def release_resources(self) -> None:
        """Mark the run as failed if training was interrupted, and the run thus was not ended yet."""
        self._finish("FAILED")

    def _finish(self, status: str) -> None:
        if self._is_ours:
            self._is_ours = False
            self._mlflow().end_run(status)

    def _mlflow(self) -> Any:
        return _experiment_trackers.require_package("mlflow", "MLflowLogger")
