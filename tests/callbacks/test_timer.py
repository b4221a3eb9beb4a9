from datetime import timedelta

import numpy as np
import pytest
from torch import nn

import torchfit
from torchfit.callbacks import BackupAndRestore, LambdaCallback, Timer

X, Y = np.ones((8, 2), "float32"), np.ones((8, 1), "float32")


@pytest.fixture
def clock(stop_clock):
    return stop_clock(Timer)


def fit(clock, *callbacks, epochs=3):
    """Train with batches that take a second each, and return the number of steps."""
    model = torchfit.Model(nn.Linear(2, 1), device="cpu")
    model.compile("sgd", "mse")
    tick = LambdaCallback(on_train_batch_end=lambda batch, logs: clock.advance(1.0))
    model.fit(X, Y, batch_size=2, epochs=epochs, verbose=0, callbacks=[tick, *callbacks])
    return model.optimizer.iterations


@pytest.mark.parametrize(("interval", "steps"), [("batch", 6), ("epoch", 8)])
def test_training_stops_after_the_duration(clock, interval, steps, capsys):
    timer = Timer(6, interval=interval, verbose=1)
    assert fit(clock, timer) == steps
    assert timer.elapsed == steps
    assert timer.remaining == 0.0
    assert capsys.readouterr().out == f"\nTimer: training stops after 0:00:0{steps}.\n"


def test_without_a_duration_the_time_is_measured(clock):
    timer = Timer()
    assert fit(clock, timer) == 12
    assert (timer.elapsed, timer.remaining) == (12.0, float("inf"))


def test_a_new_run_starts_a_new_time(clock):
    timer = Timer(6)
    assert [fit(clock, timer), fit(clock, timer)] == [6, 6]


def test_the_time_of_an_interrupted_run_counts(clock, tmp_path):
    def interrupt(batch, logs):
        if clock.now == 103.0:
            raise KeyboardInterrupt

    stop = LambdaCallback(on_train_batch_end=interrupt)
    with pytest.raises(KeyboardInterrupt):
        fit(clock, Timer(6), BackupAndRestore(tmp_path, save_freq=1), stop)
    clock.now = 500.0
    timer = Timer(6)
    assert fit(clock, timer, BackupAndRestore(tmp_path, save_freq=1)) == 6
    assert timer.elapsed == 6.0


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [
        (90, 90.0),
        (1.5, 1.5),
        (timedelta(hours=1), 3600.0),
        ("01:30", 90.0),
        ("1:00:00", 3600.0),
        ("2:00:00:01", 172801.0),
    ],
)
def test_durations(duration, seconds):
    assert Timer(duration).remaining == seconds


@pytest.mark.parametrize("wrong", [0, -1, "soon", "1:2:3:4:5", True, float("nan"), timedelta(0), [1]])
def test_other_durations_are_refused(wrong):
    with pytest.raises(ValueError, match="duration: expected a positive number of seconds"):
        Timer(wrong)


def test_another_interval_is_refused():
    with pytest.raises(ValueError, match="interval: expected 'batch' or 'epoch'"):
        Timer(1, interval="step")
