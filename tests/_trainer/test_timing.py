import time

import numpy as np
import pytest
import torch
from torch import nn

from torchfit import Model, callbacks
from torchfit._trainer.loops import EpochTimer, peak_memory

x, y = np.zeros((64, 2), "float32"), np.zeros((64, 1), "float32")
NAMES = ["data", "copy", "step", "callbacks", "validation", "compile", "total", "peak_memory"]


def model():
    made = Model(nn.Linear(2, 1))
    made.compile("sgd", "mse")
    return made


class SlowCallback(callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        time.sleep(0.05)


def slow_data():
    for start in range(0, 64, 16):
        time.sleep(0.05)
        yield x[start : start + 16], y[start : start + 16]


def test_every_epoch_is_taken_apart():
    timing = model().fit(x, y, epochs=2, validation_split=0.25, verbose=0, callbacks=[SlowCallback()]).timing
    assert list(timing) == NAMES
    assert all(len(values) == 2 for values in timing.values())
    assert all(seconds >= 0.05 for seconds in timing["callbacks"])
    assert all(seconds > 0 for seconds in timing["validation"])
    for epoch in range(2):
        assert sum(timing[name][epoch] for name in NAMES[:6]) == pytest.approx(timing["total"][epoch], abs=1e-6)


def test_an_epoch_that_is_broken_off_is_recorded():
    class Stop(callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = True

    assert len(model().fit(x, y, epochs=3, verbose=0, callbacks=[Stop()]).timing["total"]) == 1


def test_waiting_for_data_gets_a_line_of_advice_once(capsys):
    history = model().fit(slow_data(), epochs=1, verbose=2)
    lines = capsys.readouterr().out.splitlines()
    assert history.timing["data"][0] >= 0.2
    assert len(lines) == 2
    assert "went into waiting for data" in lines[1]


def test_batches_that_need_another_dtype_are_copied():
    batches = [(np.zeros((256, 1000)), np.zeros((256, 1)))] * 4
    network = Model(nn.Linear(1000, 1))
    network.compile("sgd", "mse")
    assert network.fit(iter(batches), verbose=0).timing["copy"][0] > 0
    assert network.fit(np.zeros((256, 1000)), np.zeros((256, 1)), verbose=0).timing["copy"] == [0.0]


def test_silent_trainings_say_nothing(capsys):
    model().fit(slow_data(), epochs=1, verbose=0)
    assert capsys.readouterr().out == ""


def test_what_a_wrapped_function_raises_is_timed_and_passed_on():
    watch = EpochTimer(torch.device("cpu"), lambda: 0.0, lambda: 0.0, verbose=False)
    next(watch.epochs([0]))
    with pytest.raises(ZeroDivisionError):
        watch.timed("validation", lambda: 1 / 0)()


def test_peak_memory_of_the_process_is_in_bytes():
    assert peak_memory(torch.device("cpu")) > 10_000_000
