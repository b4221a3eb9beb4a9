"""Keras' callbacks and ours, on the same logs: the same decisions, messages and files."""

import os
import re

os.environ.setdefault("KERAS_BACKEND", "torch")

import numpy as np
import pytest

from torchfit import callbacks as ours

keras = pytest.importorskip("keras")
theirs = keras.callbacks

LOSSES = [0.61, 0.5, 0.55, 0.56, 0.4, 0.41, 0.39995, 0.43, 0.44, 0.45, 0.2]
EPOCHS = [{"loss": loss / 2, "acc": 1 - loss, "val_loss": loss, "val_acc": 1 - loss} for loss in LOSSES]


class Rate:
    """An optimizer whose rate lives in float32, as Keras' and ours do."""

    def __init__(self):
        self.value = np.float32(0.1)

    @property
    def learning_rate(self):
        return float(str(self.value))

    @learning_rate.setter
    def learning_rate(self, value):
        self.value = np.float32(value)


class Model:
    def __init__(self):
        self.optimizer = Rate()
        self.stop_training = False
        self.metrics = []
        self.weights = -1
        self.saved = []

    def get_weights(self):
        return self.weights

    def set_weights(self, weights):
        self.weights = weights

    def save(self, path, overwrite=True):
        self.saved.append(path)

    save_weights = save


def run(callback, steps):
    """Return all that a callback does over the epochs."""
    model = Model()
    callback.set_model(model)
    callback.set_params({})
    seen = []
    callback.on_train_begin({})
    for epoch, values in enumerate(EPOCHS):
        callback.on_epoch_begin(epoch, {})
        for batch in range(steps):
            callback.on_train_batch_end(batch, {"loss": values["loss"], "acc": values["acc"]})
        model.weights = epoch
        logs = dict(values)
        callback.on_epoch_end(epoch, logs)
        seen.append((logs, round(model.optimizer.learning_rate, 9), model.stop_training))
        if model.stop_training:
            break
    callback.on_train_end({})
    return seen, model.weights, model.saved


def spoken(capsys):
    """Return the messages; Keras 2 (our texts) pads epochs and begins at infinity, and says nothing twice."""
    text = re.sub(r"Epoch 0*(\d+)", r"Epoch \1", capsys.readouterr().out)
    lines = [line for line in text.splitlines() if line and "finished saving" not in line]
    return [re.sub(r"from (None|-?inf)", "from the start", line) for line in lines]


def both(name, capsys, steps=0, **settings):
    results = []
    for family in (theirs, ours):
        done = run(getattr(family, name)(**settings), steps)
        results.append((done, spoken(capsys)))
    return results


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"patience": 1},
        {"patience": 2},
        {"patience": 3, "restore_best_weights": True},
        {"patience": 2, "min_delta": 0.15, "restore_best_weights": True},
        {"patience": 2, "baseline": 0.45},
        {"patience": 1, "baseline": 0.45, "restore_best_weights": True},
        {"patience": 2, "baseline": 0.1, "restore_best_weights": True},
        {"patience": 1, "start_from_epoch": 4, "restore_best_weights": True},
        {"patience": 50, "restore_best_weights": True},
        {"monitor": "val_acc", "mode": "max", "patience": 2},
        {"monitor": "acc", "mode": "min"},
    ],
)
def test_early_stopping(settings, capsys):
    keras_does, we_do = both("EarlyStopping", capsys, verbose=1, **settings)
    assert we_do == keras_does


@pytest.mark.parametrize(
    "settings",
    [
        {"patience": 1},
        {"patience": 2, "factor": 0.5},
        {"patience": 1, "cooldown": 2, "factor": 0.5},
        {"patience": 1, "min_lr": 0.01},
        {"patience": 2, "min_delta": 0.2, "factor": 0.5, "min_lr": 0.03},
        {"patience": 0, "factor": 0.5},
        {"monitor": "val_acc", "mode": "max", "patience": 1, "factor": 0.5},
    ],
)
def test_reduce_lr_on_plateau(settings, capsys):
    keras_does, we_do = both("ReduceLROnPlateau", capsys, verbose=1, **settings)
    assert rounded(we_do) == rounded(keras_does)


def rounded(result):
    """Leave out digits that float32 does not hold: Keras prints them, we do not."""
    (seen, weights, saved), lines = result
    lines = [re.sub(r"to ([\d.e-]+)\.$", lambda m: f"to {float(m[1]):.6g}.", line) for line in lines]
    return seen, weights, saved, lines


@pytest.mark.parametrize("schedule", [lambda epoch, rate: rate * 0.5, lambda epoch: 0.25 / (epoch + 1)])
def test_learning_rate_scheduler(schedule, capsys):
    keras_does, we_do = both("LearningRateScheduler", capsys, schedule=schedule, verbose=1)
    assert we_do == keras_does


@pytest.mark.parametrize(
    "settings",
    [
        {"filepath": "a_{epoch}.keras"},
        {"filepath": "a_{epoch:03d}_{val_loss:.3f}_{acc}.keras"},
        {"filepath": "a_{epoch}.keras", "save_best_only": True},
        {"filepath": "a.keras", "save_best_only": True, "monitor": "val_acc", "mode": "max"},
        {"filepath": "a_{epoch}.keras", "save_best_only": True, "initial_value_threshold": 0.45},
        {"filepath": "a_{epoch}.weights.h5", "save_weights_only": True},
        {"filepath": "a_{epoch}_{batch}_{loss:.2f}.keras", "save_freq": 3},
        {"filepath": "a_{epoch}_{batch}.keras", "save_freq": 7},
    ],
)
def test_model_checkpoint(settings, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keras_does, we_do = both("ModelCheckpoint", capsys, steps=4, verbose=1, **settings)
    assert we_do == keras_does


@pytest.mark.parametrize("append", [False, True])
@pytest.mark.parametrize("separator", [",", ";"])
def test_csv_logger(append, separator, tmp_path):
    files = []
    for family in (theirs, ours):
        path = tmp_path / f"{family.__name__}.csv"
        for _ in range(2):
            run(family.CSVLogger(str(path), separator=separator, append=append), 0)
        files.append(path.read_bytes())
    assert files[0] == files[1]


def test_csv_logger_without_validation_at_first(tmp_path):
    files = []
    for family in (theirs, ours):
        path = tmp_path / f"{family.__name__}.csv"
        logger = family.CSVLogger(str(path))
        logger.set_model(Model())
        logger.on_train_begin()
        logger.on_epoch_end(0, {"loss": 0.5, "acc": np.float32(0.25)})
        logger.on_epoch_end(1, {"loss": 0.5, "acc": [1, 2], "val_loss": np.array([1.0, 2.0])})
        logger.on_train_end()
        files.append(path.read_bytes())
    assert files[0] == files[1]


def test_terminate_on_nan(capsys):
    said = []
    for family in (theirs, ours):
        callback, model = family.TerminateOnNaN(), Model()
        callback.set_model(model)
        for batch, loss in enumerate([1.0, 1e30, float("nan")]):
            callback.on_batch_end(batch, {"loss": loss})
            said.append((batch, model.stop_training))
        said.append(spoken(capsys))
    assert said[:4] == said[4:]


def test_history():
    records = []
    for family in (theirs, ours):
        history = family.History()
        run(history, 0)
        run(history, 0)  # goes on recording
        records.append((history.history, history.epoch))
    assert records[0] == records[1]
