"""Disks that are full, workers that die, hooks that fail: a clear error, whole files, and a model that stays usable."""

import multiprocessing
import os
import signal
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import torchfit
from torchfit import callbacks

resource = pytest.importorskip("resource", reason="the system has no limits for the size of files")

X = np.random.default_rng(0).normal(size=(160, 8)).astype("float32")
Y = X.sum(axis=1, keepdims=True)


def make_model(width=16):
    torch.manual_seed(0)
    model = torchfit.Model(nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 1)), device="cpu")
    model.compile("adam", "mse", metrics=["mae"])
    return model


def fit_with(model, callback, **options):
    model.fit(X, Y, validation_data=(X, Y), callbacks=[callback], verbose=0, **options)


def workers(before):
    """Return the processes that were started since, and live."""
    return set(multiprocessing.active_children()) - before


# -- full disks --------------------------------------------------------------------------------------------------------

WRITES = {
    "save": (lambda model, path: model.save(path), "file"),
    "save_weights": (lambda model, path: model.save_weights(path), "file"),
    "safetensors": (lambda model, path: model.save_weights(path), "file.safetensors"),
    "ModelCheckpoint": (lambda model, path: fit_with(model, callbacks.ModelCheckpoint(path)), "file"),
    "ModelCheckpoint between steps": (
        lambda model, path: fit_with(model, callbacks.ModelCheckpoint(path, save_freq=2)),
        "file",
    ),
    "BackupAndRestore": (lambda model, path: fit_with(model, callbacks.BackupAndRestore(path.parent)), "latest.pt"),
    "BackupAndRestore between steps": (
        lambda model, path: fit_with(model, callbacks.BackupAndRestore(path.parent, save_freq=3), epochs=2),
        "latest.pt",
    ),
}


@pytest.mark.parametrize("write", WRITES)
def test_a_disk_that_is_full(write, tmp_path):
    """The error names the file, the old file stays whole, and nothing else is left."""
    write, name = WRITES[write]
    if name.endswith("safetensors"):
        pytest.importorskip("safetensors", reason="tests the extra package safetensors")
    path = tmp_path / name
    if name != "latest.pt":
        make_model().save_weights(path)
    before = path.read_bytes() if path.exists() else None
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, limits[1]))  # What is written beyond that fails.
    try:
        with pytest.raises(OSError, match=r"Could not write the file") as caught:
            write(make_model(width=4000), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.filename == str(path)
    assert (path.read_bytes() if path.exists() else None) == before
    assert os.listdir(tmp_path) == ([name] if before else [])


# -- workers that die --------------------------------------------------------------------------------------------------


class Fragile(Dataset):
    def __init__(self, fail):
        self.fail = fail

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        if index == 90:
            self.fail()
        return X[index], Y[index]


def be_killed():
    os.kill(os.getpid(), signal.SIGKILL)


def leave():
    sys.exit(3)


def fail():
    raise OSError(28, "disk gone")


LOADERS = {
    "DataLoader": lambda data: {"x": DataLoader(data, 32, num_workers=2)},
    "DataLoader with persistent workers": lambda data: {
        "x": DataLoader(data, 32, num_workers=2, persistent_workers=True)
    },
    "Dataset": lambda data: {"x": data, "workers": 2, "use_multiprocessing": True},
}


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("how", [be_killed, leave, fail], ids=lambda how: how.__name__)
def test_a_worker_that_dies(how, loader):
    model = make_model()
    before = workers(set())  # of other tests
    with pytest.raises((OSError, RuntimeError, EOFError)):
        model.fit(**LOADERS[loader](Fragile(how)), verbose=0)
    for worker in workers(before):
        worker.join(10)
    assert workers(before) == set()
    model.fit(X, Y, verbose=0)


# -- hooks that fail ---------------------------------------------------------------------------------------------------

HOOKS = [
    *("on_train_begin", "on_epoch_begin", "on_train_batch_begin", "on_train_batch_end", "on_test_begin"),
    *("on_test_batch_begin", "on_test_batch_end", "on_test_end", "on_epoch_end", "on_train_end"),
]


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt()], ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_that_fails(hook, error):
    def fails(*arguments, **named):
        raise error

    model, callback = make_model(), callbacks.Callback()
    setattr(callback, hook, fails)
    with pytest.raises(type(error)) as caught:
        fit_with(model, callback)
    assert caught.value is error
    assert all(module.training for module in model.modules())
    model.fit(X, Y, verbose=0)
    model.predict(X)
