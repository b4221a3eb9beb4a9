"""An interrupted run is resumed with the same, more, or fewer processes."""

import os
import signal

import pytest
import torch
from torch import nn

import torchfit
from tests.distributed.cases import CROSSENTROPY, LABELS, X
from tests.distributed.compare import assert_same
from torchfit import callbacks, distribution


class EndsAt(callbacks.Callback):
    """Kills one process, or sends it a signal, after a step."""

    def __init__(self, step, number):
        self.step, self.number, self.steps = step, number, 0

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        if self.steps == self.step and distribution.rank() == distribution.world_size() - 1:
            os.kill(os.getpid(), self.number)


def run(folder, ends=None, save_freq=3):
    torch.manual_seed(0)
    model = torchfit.Model(nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.3), nn.Linear(16, 3)), device="cpu")
    model.compile("adam", CROSSENTROPY, ["accuracy"])
    backup = callbacks.BackupAndRestore(folder, save_freq=save_freq, delete_checkpoint=ends is None)
    others = [] if ends is None else [EndsAt(*ends)]
    history = model.fit(
        X, LABELS, batch_size=16, epochs=3, validation_split=0.3, verbose=0, callbacks=[*others, backup]
    ).history
    return {"history": history, "weights": [array.astype("float64") for array in model.get_weights()]}


def interrupted(folder, *ends, save_freq=3):
    try:
        run(folder, ends, save_freq)
    except (RuntimeError, SystemExit) as error:
        return type(error).__name__, getattr(error, "code", None)


@pytest.mark.parametrize("size", [2, 1, 3, 4])
def test_a_run_goes_on_after_a_process_was_killed(pools, tmp_path, size):
    whole = pools(2, forks=True).run(run, tmp_path / "whole")[0]
    (error, _), killed = pools(2, forks=True).run(interrupted, tmp_path / "run", 8, signal.SIGKILL)
    assert (error, killed) == ("ProcessFailedError", None)
    if size == 1:
        assert_same(run(tmp_path / "run"), whole, 1e-6)
        return
    for found in pools(size, forks=True).run(run, tmp_path / "run"):
        assert_same(found, whole, 0 if size == 2 else 1e-6)  # Bit by bit with as many processes.
    assert not (tmp_path / "run").exists()


def test_all_store_the_same_step_and_end_when_one_gets_a_signal(pools, tmp_path):
    whole = pools(2, forks=True).run(run, tmp_path / "whole", save_freq="epoch")[0]
    found = pools(2, forks=True).run(interrupted, tmp_path / "run", 8, signal.SIGTERM, save_freq="epoch")
    assert found == [("InterruptedRun", 128 + signal.SIGTERM)] * 2
    state = torch.load(tmp_path / "run" / "latest.pt", weights_only=True)
    assert (state["position"]["epoch"], state["position"]["step"]) == (1, 4)
    for again in pools(2, forks=True).run(run, tmp_path / "run", save_freq="epoch"):
        assert_same(again, whole, 0)
