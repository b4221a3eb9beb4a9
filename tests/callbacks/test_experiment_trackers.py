import sys
from typing import Any

import numpy as np
import pytest
from torch import nn

import torchfit
from torchfit.callbacks import Callback, MLflowLogger, WandbLogger

x, y = np.ones((8, 2), "float32"), np.ones((8, 1), "float32")


def fit(*callbacks, epochs=2):
    model = torchfit.Model(nn.Linear(2, 1), device="cpu")
    model.compile("sgd", "mse")
    return model.fit(x, y, epochs=epochs, verbose=0, validation_split=0.5, callbacks=list(callbacks))


class Breaks(Callback):
    def on_epoch_end(self, epoch, logs=None):
        raise KeyboardInterrupt


class Run:
    """A run of Weights & Biases that keeps what it gets."""

    def __init__(self):
        self.config, self.logged, self.exit_code = {}, [], None
        self.config = type("Config", (dict,), {"update": lambda own, new, **_: dict.update(own, new)})()

    def log(self, values):
        self.logged.append(values)

    def finish(self, exit_code):
        self.exit_code = exit_code


@pytest.fixture
def wandb(monkeypatch):
    module: Any = type(sys)("wandb")
    module.run, module.made = None, []
    module.init = lambda **arguments: module.made.append((Run(), arguments)) or module.made[-1][0]
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_wandb_gets_every_epoch(wandb):
    history = fit(WandbLogger("digits", name="first", mode="offline"))
    (run, arguments) = wandb.made[0]
    assert arguments == {"project": "digits", "name": "first", "mode": "offline"}
    assert [logged["epoch"] for logged in run.logged] == [1, 2]
    assert [logged["val_loss"] for logged in run.logged] == history.history["val_loss"]
    assert run.config["optimizer"] == "sgd"
    assert (run.config["epochs"], run.config["parameters"]) == (2, 3)
    assert run.exit_code == 0


def test_wandbs_own_run_stays_open(wandb):
    wandb.run = Run()
    fit(WandbLogger())
    assert len(wandb.run.logged) == 2
    assert wandb.run.exit_code is None


def test_wandb_hears_of_a_failure(wandb):
    with pytest.raises(KeyboardInterrupt):
        fit(WandbLogger(), Breaks())
    assert wandb.made[0][0].exit_code == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_wandb_itself(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="the package wandb is not installed")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    fit(WandbLogger("digits", mode="offline", dir=str(tmp_path)))
    assert list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))


@pytest.fixture
def mlflow(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow = pytest.importorskip("mlflow", reason="the package mlflow is not installed")
    before = mlflow.get_tracking_uri()
    yield mlflow
    mlflow.end_run()
    mlflow.set_tracking_uri(before)


@pytest.mark.filterwarnings("ignore")
def test_mlflow_gets_every_epoch(mlflow, tmp_path):
    logger = MLflowLogger("digits", "first", tracking_uri=tmp_path.as_uri())
    history = fit(logger)
    run = mlflow.get_run(logger.run_id)
    assert run.info.run_name == "first"
    assert run.info.status == "FINISHED"
    assert run.data.params["optimizer"] == "sgd"
    assert run.data.metrics["val_loss"] == pytest.approx(history.history["val_loss"][-1])
    recorded = mlflow.MlflowClient().get_metric_history(logger.run_id, "loss")
    assert [(metric.step, metric.value) for metric in recorded] == list(enumerate(history.history["loss"], 1))


@pytest.mark.filterwarnings("ignore")
def test_mlflows_own_run_stays_open_and_failures_are_told(mlflow, tmp_path):
    mlflow.set_tracking_uri(tmp_path.as_uri())
    mlflow.set_experiment("digits")
    with mlflow.start_run() as run:
        fit(MLflowLogger())
        assert mlflow.active_run().info.run_id == run.info.run_id
    logger = MLflowLogger()
    with pytest.raises(KeyboardInterrupt):
        fit(logger, Breaks())
    assert mlflow.get_run(logger.run_id).info.status == "FAILED"


@pytest.mark.parametrize(("package", "callback"), [("wandb", WandbLogger), ("mlflow", MLflowLogger)])
def test_what_is_missing_is_told(package, callback, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=f"needs the package {package}. Type: pip install"):
        fit(callback())
