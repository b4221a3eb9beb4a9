"""Training again and again, also after runs that were broken off."""

import gc
import os

import numpy as np
import pytest
import torch

import torchfit
from torchfit import callbacks

X = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
Y = (X[:, 0] > 0).astype("int64")


class Breaks(callbacks.Callback):
    def __init__(self, error, epoch):
        self.error, self.epoch = error, epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise self.error


@pytest.fixture
def model():
    model = torchfit.Model(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)))
    model.compile("adam", torch.nn.CrossEntropyLoss(), metrics=["accuracy"])
    return model


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("mine")])
def test_finished_epochs_are_kept_and_the_model_can_be_fitted_again(model, error):
    model.module[0].eval()
    with pytest.raises(type(error)):
        model.fit(X, Y, epochs=5, verbose=0, callbacks=Breaks(error, epoch=2))
    assert model.history.epoch == [0, 1]
    assert list(map(len, model.history.history.values())) == [2, 2]
    assert [module.training for module in model.module] == [False, True, True]
    assert len(model.fit(X, Y, epochs=3, verbose=0).history["loss"]) == 3


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def once(model, folder, number):
    watch = [callbacks.EarlyStopping(restore_best_weights=True), callbacks.CSVLogger(folder / "log.csv")]
    if number % 4 == 0:
        watch.append(callbacks.BackupAndRestore(folder / f"backup {number}"))
    options = {"verbose": 0, "epochs": 2, "validation_split": 0.25}
    if number % 2:
        with pytest.raises(KeyboardInterrupt):
            model.fit(X, Y, callbacks=[*watch, Breaks(KeyboardInterrupt(), epoch=1)], **options)
    else:
        model.fit(X, Y, callbacks=watch, **options)


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="memory is measured through /proc")
def test_200_fits_do_not_grow_memory(model, tmp_path):
    for number in range(20):
        once(model, tmp_path, number)
    gc.collect()
    objects, memory = len(gc.get_objects()), resident()
    for number in range(200):
        once(model, tmp_path, number)
    gc.collect()
    assert len(gc.get_objects()) - objects < 200
    assert resident() - memory < 8 << 20


def test_a_finished_training_holds_no_data(model):
    marked = torch.tensor(X)
    kept = gc.get_referrers(marked)
    model.fit(marked, Y, verbose=0, callbacks=callbacks.EarlyStopping("loss"))
    gc.collect()
    assert len(gc.get_referrers(marked)) <= len(kept) + 1
