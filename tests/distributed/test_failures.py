"""One process fails: all end, with its message; processes that wait for each other would not answer in time."""

import os
import signal
import subprocess
import sys

import pytest
import torch

from tests.distributed.cases import LABELS, X, compiled, network
from torchfit import callbacks, distribution
from torchfit.distribution import launch


class Fails(callbacks.Callback):
    def __init__(self, hook):
        setattr(self, hook, lambda *_, **__: fail_in(1))


def fail_in(rank):
    if distribution.rank() == rank:
        raise ValueError("the disk is on fire")


def failing_data():
    for start in range(0, 96, 16):
        if start == 48:
            fail_in(1)
        yield X[start : start + 16], LABELS[start : start + 16]


def train_until_failure(where):
    """Return what this process heard."""
    model, data, settings = compiled(network()), (X, LABELS), {}
    if where.startswith("on_"):
        settings = {"callbacks": [Fails(where)], "validation_split": 0.3}
    if where == "forward":
        model.module.register_forward_hook(lambda *_: fail_in(1))
    if where == "data":
        data = (failing_data(),)  # type: ignore[assignment]
    try:
        model.fit(*data, epochs=100, verbose=0, **settings)
    except Exception as error:
        heard = f"{type(error).__name__}: {error}"
    with pytest.raises(RuntimeError, match="no longer connected, because process 1 of 3 failed"):
        model.evaluate(X, LABELS, verbose=0)
    return heard


@pytest.mark.parametrize("where", ["data", "forward", "on_train_batch_end", "on_test_begin", "on_epoch_end"])
def test_all_end_with_the_message_even_if_it_is_caught(pools, where):
    for rank, message in enumerate(pools(3, forks=True).run(train_until_failure, where)):
        assert "the disk is on fire" in message
        assert rank == 1 or message.startswith("ProcessFailedError: process 1 of 3 failed: ValueError: ")


def mistake(model, x, y):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        model.fit(x, y, verbose=0)
    return str(caught.value)


def mistakes():
    model = compiled(network())
    heard = [mistake(model, *data) for data in ((X[:, :3], LABELS), (X, LABELS[:5]), (X, LABELS + 9))]
    torch.manual_seed(0)
    return heard, model.fit(X, LABELS, verbose=0).history


def test_mistakes_that_all_make_leave_them_connected(pools):
    (heard, history), *others = pools(2, forks=True).run(mistakes)
    assert len(heard) == 3
    assert history["loss"][0] > 0
    assert others == [(heard, history)]


def train_with_hook():
    model = compiled(network())
    handle = next(model.parameters()).register_hook(print)
    heard = mistake(model, X, LABELS)
    handle.remove()
    return heard, model.fit(X, LABELS, verbose=0).history["loss"]


def test_hooks_that_would_get_gradients_of_a_part_are_refused(pools):
    (heard, losses), other = pools(2, forks=True).run(train_with_hook)
    assert heard.startswith("With several processes, hooks for the gradients of parameters would get those of a part")
    assert other == (heard, losses)


def train_until_killed():
    def kill(epoch, logs):
        if epoch == 1 and distribution.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    model = compiled(network())
    try:
        model.fit(X, LABELS, epochs=100, verbose=0, callbacks=[callbacks.LambdaCallback(on_epoch_end=kill)])
    except RuntimeError as error:
        return str(error)


def test_a_killed_process_ends_the_others(pools):
    first, killed, last = pools(3, forks=True).run(train_until_killed)
    assert killed is None
    assert first.startswith("a process of 3 ended without a message: it was killed")
    assert last.startswith("a process of 3 ended without a message: it was killed")


def trains_and_fails(fails):
    model = compiled(network())
    loss = model.fit(X, LABELS, verbose=0).history["loss"]
    if fails:
        fail_in(1)
        model.fit(X, LABELS, verbose=0)
    return loss, distribution.world_size()


@pytest.mark.slow
def test_launch():
    import functools

    (loss,), size = launch(functools.partial(trains_and_fails, False))
    assert loss > 0
    assert size == 2
    with pytest.raises(RuntimeError, match="process 1 of 2 failed: ValueError: the disk is on fire"):
        launch(functools.partial(trains_and_fails, True))


@pytest.mark.slow
def test_launch_in_a_script_that_new_processes_run_again_is_explained(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(
        "import torch, torchfit\nfrom torchfit import distribution\ndistribution.launch(torch.get_num_threads)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, path], capture_output=True, text=True, env=environment, timeout=60)
    assert result.stderr.rstrip().endswith('in a script call `launch` under `if __name__ == "__main__":`.')


def test_launch_refuses_what_it_cannot_send():
    with pytest.raises(ValueError, match="must be a function"):
        launch(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="processes"):
        launch(trains_and_fails, 0)  # type: ignore[arg-type]


SCRIPT = """
import numpy as np, torch, torchfit

class Fails(torchfit.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1 and torchfit.distribution.rank() == 1:
            raise ValueError("the disk is on fire")

model = torchfit.Model(torch.nn.Linear(4, 1), device="cpu")
model.compile("sgd", "mse")
model.fit(np.ones((32, 4), "float32"), np.ones((32, 1), "float32"), epochs=100, verbose=1, callbacks=[Fails()])
"""


@pytest.mark.slow
def test_torchrun_shows_the_message(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, cwd=tmp_path)
    assert result.returncode != 0
    assert "the disk is on fire" in result.stderr[result.stderr.index("Root Cause") :]
    assert result.stdout.count("Epoch 1/100") == 1  # One process writes.
