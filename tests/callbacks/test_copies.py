"""Callbacks can be copied and pickled before, during and after a run; copies leave what belongs to the run out."""

import copy
import functools
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import torchfit
from torchfit import callbacks

X, Y = np.ones((8, 2), "float32"), np.ones((8, 1), "float32")

MAKERS = {
    "BackupAndRestore": lambda folder: callbacks.BackupAndRestore(folder / "backup"),
    "BackupAndRestore of batches": lambda folder: callbacks.BackupAndRestore(folder / "backup", save_freq=1),
    "CSVLogger": lambda folder: callbacks.CSVLogger(folder / "log.csv"),
    "EarlyStopping": lambda folder: callbacks.EarlyStopping("loss", restore_best_weights=True),
    "History": lambda folder: callbacks.History(),
    "ModelCheckpoint": lambda folder: callbacks.ModelCheckpoint(folder / "model"),
    "ModelCheckpoint of batches": lambda folder: callbacks.ModelCheckpoint(folder / "model", save_freq=1),
    "ProgbarLogger": lambda folder: callbacks.ProgbarLogger(),
    "ReduceLROnPlateau": lambda folder: callbacks.ReduceLROnPlateau("loss"),
    "TensorBoard": lambda folder: callbacks.TensorBoard(folder / "logs", profile_batch=(1, 100)),
    "TerminateOnNaN": lambda folder: callbacks.TerminateOnNaN(),
    "TorchLRScheduler": lambda folder: callbacks.TorchLRScheduler(
        functools.partial(torch.optim.lr_scheduler.StepLR, step_size=1)
    ),
}


def compiled():
    model = torchfit.Model(nn.Linear(2, 1), device="cpu")
    model.compile("sgd", "mse")
    return model


class Copies(callbacks.Callback):
    def __init__(self, callback, copied):
        self.callback, self.copied = callback, copied

    def on_train_batch_end(self, batch, logs=None):
        self.twin = self.copied(self.callback)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda callback: pickle.loads(pickle.dumps(callback))])
@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.filterwarnings("ignore")  # of the profiler and of tracing
def test_copies_work_as_the_callback_would(kind, copied, tmp_path, capsys):
    callback = MAKERS[kind](tmp_path)
    amid = Copies(callback, copied)
    new = copied(callback)
    compiled().fit(X, Y, batch_size=4, verbose=0, callbacks=[callback, amid])
    for twin in (new, amid.twin, copied(callback)):
        assert twin.training_state is None
        compiled().fit(X, Y, batch_size=4, verbose=0, callbacks=[twin])


def test_a_copied_history_leaves_the_model_out_and_knows_what_is_better():
    model = compiled()
    model.compile("sgd", "mse", metrics=[torchfit.metrics.MeanAbsoluteError(name="distance")])
    history = model.fit(X, Y, epochs=2, verbose=0)
    twin = pickle.loads(pickle.dumps(history))
    assert twin.model is None
    assert twin.history == history.history
    assert twin._repr_html_().count("–") == history._repr_html_().count("–")


def test_a_model_can_be_pickled_and_copied_by_a_callback():
    model = compiled()
    twins = []
    keep = callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: twins.extend([pickle.loads(pickle.dumps(model)), copy.deepcopy(model)])
    )
    model.fit(X, Y, epochs=2, verbose=0, callbacks=[keep])
    assert all(torch.equal(twin.module.weight, model.module.weight) for twin in twins[2:])
