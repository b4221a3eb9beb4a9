"""Trains in processes that are killed again and again, and compares the end with a training left in peace.

`python killed.py SCENARIO KILLS SEED FOLDER` prints what it saw as JSON. It imports torch once; each training runs in a
fork, in a group of its own, so that its workers die with it.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import torchfit
from torchfit import callbacks

EPOCHS = 12


class Noisy(Dataset):
    """Samples with noise from the generators of the worker that reads them."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index] + 0.01 * np.float32(np.random.rand()) + 0.01 * torch.rand(4).numpy(), self.y[index]


def data():
    random_numbers = np.random.default_rng(0)
    x = random_numbers.normal(size=(96, 4)).astype("float32")
    y = ((x[:, 0] > 0) ^ (random_numbers.random(96) < 0.3)).astype("int64")
    return x, y


def arrays():
    return data(), {"batch_size": 8, "validation_split": 0.25}


def one_epoch_in_several_calls():
    return data(), {"batch_size": 8, "validation_split": 0.25, "steps_per_epoch": 7}


def loader():
    x, y = data()
    generator = torch.Generator().manual_seed(5)
    train = DataLoader(Noisy(x[:72], y[:72]), 8, shuffle=True, num_workers=2, generator=generator)
    return (train,), {"validation_data": DataLoader(Noisy(x[72:], y[72:]), 8)}


def dataset():
    x, y = data()
    return (Noisy(x[:72], y[:72]),), {"batch_size": 8, "validation_data": (x[72:], y[72:]), "workers": 2}


SCENARIOS = {
    "arrays": (arrays, {}),
    "arrays that epochs cut anew": (one_epoch_in_several_calls, {}),
    "several steps in a call": (arrays, {"steps_per_execution": 2}),
    "loader with 2 workers": (loader, {}),
    "dataset with 2 workers": (dataset, {}),
    "compiled": (arrays, {"jit_compile": True}),
}


class Slowly(callbacks.Callback):
    """Leaves time to be killed between the steps."""

    def on_train_batch_end(self, batch, logs=None):
        time.sleep(0.002)


def train(scenario, folder, save_freq):
    """Train to the end, going on where an earlier process was killed, and write the outcome."""
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    make, options = SCENARIOS[scenario]
    net = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 2))
    model = torchfit.Model(net, device="cpu")
    loss = torchfit.losses.SparseCategoricalCrossentropy(from_logits=True)
    schedule_free = torchfit.optimizers.Adam(0.02, use_ema=True, ema_momentum=0.9)
    model.compile(schedule_free, loss, metrics=["accuracy"], **options)
    arguments, more = make()
    history = model.fit(
        *arguments,
        epochs=EPOCHS,
        verbose=0,
        callbacks=[
            callbacks.BackupAndRestore(folder / "backup", save_freq=save_freq),
            callbacks.EarlyStopping(patience=5, restore_best_weights=True),
            callbacks.ReduceLROnPlateau(patience=1, factor=0.5),
            callbacks.CSVLogger(folder / "log.csv"),
            Slowly(),
        ],
        **more,
    )
    outcome = {
        "weights": dict(net.state_dict()),
        "optimizer": model.optimizer.state_dict(),
        "history": history.history,
        "epochs": history.epoch,
        "csv": (folder / "log.csv").read_text(),
        "random": [torch.get_rng_state(), float(np.random.rand()), random.random()],
    }
    torch.save(outcome, folder / "outcome.pt")


def start(*arguments):
    """Run `train` in a fork, and return its process id."""
    child = os.fork()
    os.setpgid(child, child)  # here and there: whoever comes first
    if child:
        return child
    status = 1
    try:
        torch.set_num_threads(1)
        train(*arguments)
        status = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


def has_ended(child):
    done, status = os.waitpid(child, os.WNOHANG)
    if done and status:
        raise SystemExit(f"the training failed with status {status}")
    return bool(done)


def writes_now(folder):
    return any(entry.name.endswith(".tmp") for entry in os.scandir(folder)) if folder.exists() else False


def kill_once(child, folder, random_moments, longest, while_writing):
    """Kill at a random moment, or as soon as a file is being written; tell whether it came to that."""
    deadline = time.monotonic() + random_moments.uniform(0.02, longest)
    while not has_ended(child):
        if while_writing and writes_now(folder / "backup"):
            time.sleep(random_moments.uniform(0, 0.002))
            break
        if not while_writing and time.monotonic() >= deadline:
            break
        time.sleep(0 if while_writing else 0.001)
    else:
        return False
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def same(first, second):
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


def main(scenario, kills, seed, folder):
    folder, random_moments = Path(folder), random.Random(int(seed))
    peaceful, killed = folder / "peaceful", folder / "killed"
    for part in (peaceful, killed):
        part.mkdir(parents=True)
    finish(start(scenario, peaceful, 3))
    seen = {"kills": 0, "torn": 0, "starts": 0, "rounds": 0, "equal": []}
    while seen["kills"] < int(kills):
        seen["rounds"] += 1
        is_alive = True
        while is_alive:
            child = start(scenario, killed, random_moments.choice([1, 3, 5, "epoch"]))
            seen["starts"] += 1
            if seen["kills"] >= int(kills):
                finish(child)
                break
            longest = 8.0 if scenario == "compiled" else 0.35  # seconds; compiling takes a few
            writing = random_moments.random() < 0.4
            is_alive = kill_once(child, killed, random_moments, longest, while_writing=writing)
            seen["kills"] += is_alive
            seen["torn"] += is_alive and writes_now(killed / "backup")
        outcomes = [torch.load(part / "outcome.pt", weights_only=False) for part in (peaceful, killed)]
        seen["equal"].append({name: same(*(outcome[name] for outcome in outcomes)) for name in outcomes[0]})
        seen["left"] = os.listdir(killed)
        for name in ("outcome.pt", "log.csv"):
            (killed / name).unlink()
    seen["rates"] = len(set(outcomes[0]["history"]["learning_rate"]))
    seen["epochs"] = len(outcomes[0]["epochs"])
    print(json.dumps(seen))


def finish(child):
    while not has_ended(child):
        time.sleep(0.005)


if __name__ == "__main__":
    main(*sys.argv[1:])
