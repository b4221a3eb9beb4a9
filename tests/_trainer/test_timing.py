import numpy as np
import pytest
import torch
from torch import nn

from torchfit import Model, callbacks
from torchfit._trainer.loops import EpochTimer, peak_memory

x, y = np.zeros((64, 2), "float32"), np.zeros((64, 1), "float32")
NAMES = ["data", "copy", "step", "callbacks", "validation", "compile", "total", "peak_memory", "background_compile"]


def model():
    made = Model(nn.Linear(2, 1))
    made.compile("sgd", "mse")
    return made


@pytest.fixture
def clock(stop_clock):
    return stop_clock(EpochTimer)


def slow_data(clock):
    for start in range(0, 64, 16):
        clock.advance(0.25)
        yield x[start : start + 16], y[start : start + 16]


def test_every_epoch_is_taken_apart(clock):
    class SlowLayer(nn.Linear):
        def forward(self, x):
            clock.advance(2.0 if self.training else 3.0)
            return super().forward(x)

    class SlowCallback(callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            clock.advance(0.5)

    slow = Model(SlowLayer(2, 1))
    slow.compile("sgd", "mse")
    history = slow.fit(x, y, 16, epochs=2, validation_split=0.25, verbose=0, callbacks=[SlowCallback()])
    assert list(history.timing) == NAMES
    assert history.timing.pop("peak_memory") == [pytest.approx(peak_memory(torch.device("cpu")), rel=0.1)] * 2
    seconds = {"data": 0.0, "copy": 0.0, "step": 6.0, "callbacks": 0.5, "validation": 3.0, "compile": 0.0, "total": 9.5}
    assert history.timing.pop("background_compile") == [0.0, 0.0]
    assert history.timing == {name: [value] * 2 for name, value in seconds.items()}


def test_an_epoch_that_is_broken_off_is_recorded():
    class Stop(callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = True

    assert len(model().fit(x, y, epochs=3, verbose=0, callbacks=[Stop()]).timing["total"]) == 1


def test_waiting_for_data_gets_a_line_of_advice_once(clock, capsys):
    history = model().fit(slow_data(clock), epochs=1, verbose=2)
    lines = capsys.readouterr().out.splitlines()
    assert history.timing["data"][0] == pytest.approx(1.0, abs=0.1)  # less the real time of transfers
    assert len(lines) == 2
    assert "went into waiting for data" in lines[1]


def test_batches_that_need_another_dtype_are_copied():
    batches = [(np.zeros((256, 1000)), np.zeros((256, 1)))] * 4
    network = Model(nn.Linear(1000, 1))
    network.compile("sgd", "mse")
    assert network.fit(iter(batches), verbose=0).timing["copy"][0] > 0
    assert network.fit(np.zeros((256, 1000)), np.zeros((256, 1)), verbose=0).timing["copy"] == [0.0]


def test_silent_trainings_say_nothing(clock, capsys):
    model().fit(slow_data(clock), epochs=1, verbose=0)
    assert capsys.readouterr().out == ""


def test_what_a_wrapped_function_raises_is_timed_and_passed_on():
    watch = EpochTimer(torch.device("cpu"), lambda: (0.0, 0.0), lambda: 0.0, verbose=False)
    next(watch.epochs([0]))
    with pytest.raises(ZeroDivisionError):
        watch.timed("validation", lambda: 1 / 0)()


def test_peak_memory_of_the_process_is_in_bytes():
    assert peak_memory(torch.device("cpu")) > 10_000_000
