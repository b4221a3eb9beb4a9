"""Trains in processes that are killed again and again, and compares the result with an uninterrupted run.

`python killed.py SCENARIO KILLS SEED FOLDER` prints what it saw as JSON; "all" goes through all scenarios, with so many
kills for each. It imports torch once; each training runs in a fork, in a group of its own, so that its workers die with
it.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import torchfit
from torchfit import callbacks, optimizers

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


# -- what is trained ---------------------------------------------------------------------------------------------------


def adam_with_averages(net, loss):
    return optimizers.Adam(0.02, use_ema=True, ema_momentum=0.9)


def accumulating(net, loss):
    return optimizers.AdamW(0.02, gradient_accumulation_steps=3)


def several_optimizers(net, loss):
    rate = optimizers.schedules.ExponentialDecay(0.05, 10, 0.9)
    return optimizers.MultiOptimizer({"0.*": optimizers.SGD(rate, momentum=0.9)}, default=optimizers.Lion(0.001))


def groups(net, loss):
    biases = [parameter for parameter in net.parameters() if parameter.ndim == 1]
    weights = [parameter for parameter in net.parameters() if parameter.ndim > 1]
    return torch.optim.AdamW([{"params": weights}, {"params": biases, "weight_decay": 0.0, "lr": 0.05}], lr=0.01)  # type: ignore[arg-type]


def lbfgs(net, loss):
    return torch.optim.LBFGS(net.parameters(), lr=0.05, max_iter=2)


def crossentropy():
    return torchfit.losses.SparseCategoricalCrossentropy(from_logits=True)


class Margins(nn.Module):
    """Learns the temperature and a margin for each class, and keeps an average in a buffer."""

    def __init__(self):
        super().__init__()
        self.temperature, self.margins = nn.Parameter(torch.ones(())), nn.Parameter(torch.zeros(2))
        self.register_buffer("mean", torch.zeros(2))

    def forward(self, y_pred, y_true):
        with torch.no_grad():
            self.mean.lerp_(y_pred.mean(0), 0.1)
        logits = (y_pred - 0.1 * self.mean) * self.temperature + self.margins
        return nn.functional.cross_entropy(logits, y_true.long()) + 0.1 * self.temperature.square()


class Unfreeze(callbacks.Callback):
    """Trains the last layer at first, and freezes it while the first one is trained."""

    def on_train_begin(self, logs=None):
        self.model.module[0].requires_grad_(False)

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            self.model.module[0].requires_grad_(True)

    def on_train_batch_end(self, batch, logs=None):
        if batch in (4, 6):
            self.model.module[4].requires_grad_(batch == 6)


def on_plateau():
    return [callbacks.EarlyStopping(patience=5, restore_best_weights=True), callbacks.ReduceLROnPlateau(patience=1)]


def one_cycle():
    make = torch.optim.lr_scheduler.OneCycleLR
    return [callbacks.TorchLRScheduler(lambda each: make(each, 0.05, total_steps=9 * EPOCHS), interval="batch")]


@dataclass
class Scenario:
    """A training: its data, optimizer, loss, further arguments of `compile`, and callbacks."""

    data: Callable = arrays
    optimizer: Callable = adam_with_averages
    loss: Callable = crossentropy
    options: dict = field(default_factory=dict)
    callbacks: Callable = on_plateau


SCENARIOS = {
    "arrays": Scenario(),
    "arrays and epochs of their own length": Scenario(one_epoch_in_several_calls),
    "several steps in a call": Scenario(options={"steps_per_execution": 2}),
    "loader with 2 workers": Scenario(loader),
    "dataset with 2 workers": Scenario(dataset),
    "compiled": Scenario(options={"jit_compile": True}),
    "layers that are unfrozen": Scenario(callbacks=lambda: [Unfreeze(), *on_plateau()]),
    "groups with rates of their own": Scenario(optimizer=groups, callbacks=one_cycle),
    "a loss with parameters": Scenario(loss=Margins),
    "accumulated gradients": Scenario(optimizer=accumulating),
    "several optimizers": Scenario(optimizer=several_optimizers, callbacks=list),
    "an optimizer with a closure": Scenario(optimizer=lbfgs),
}


class Slowly(callbacks.Callback):
    """Leaves time to be killed between the steps."""

    def on_train_batch_end(self, batch, logs=None):
        time.sleep(0.002)


def train(scenario, folder, save_freq):
    """Train to the end, resuming where an earlier process was killed, and write the outcome."""
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    setup = SCENARIOS[scenario]
    net = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 2))
    model, loss = torchfit.Model(net, device="cpu"), setup.loss()
    model.compile(setup.optimizer(net, loss), loss, metrics=["accuracy"], **setup.options)
    arguments, more = setup.data()
    history = model.fit(
        *arguments,
        epochs=EPOCHS,
        verbose=0,
        callbacks=[
            callbacks.BackupAndRestore(folder / "backup", save_freq=save_freq),
            *setup.callbacks(),
            callbacks.CSVLogger(folder / "log.csv"),
            callbacks.LearningRateMonitor(),
            Slowly(),
        ],
        **more,
    )
    outcome = {
        "weights": dict(net.state_dict()),
        "losses": dict(model.loss_modules.state_dict()),
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
    """Kill at a random moment, or as soon as a file is being written; return whether it was killed."""
    deadline = time.monotonic() + random_moments.uniform(0.02, longest)
    while not has_ended(child):
        if while_writing and writes_now(folder / "backup"):
            time.sleep(random_moments.choice([0, 0.0005, 0.002]))
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


def run_all(kills, seed, folder):
    """Go through all scenarios, and print a line for each."""
    for number, scenario in enumerate(SCENARIOS):
        seen = run(scenario, kills, int(seed) + number, Path(folder) / scenario.replace(" ", "_"))
        is_equal = all(all(parts.values()) for parts in seen["equal"])
        print(f"{scenario}: {seen['kills']} kills, {'bit for bit' if is_equal else seen['equal']}", flush=True)


def run(scenario, kills, seed, folder):
    """Return what was seen of one scenario."""
    folder, random_moments = Path(folder), random.Random(int(seed))
    peaceful, killed = folder / "peaceful", folder / "killed"
    for part in (peaceful, killed):
        part.mkdir(parents=True)
    finish(start(scenario, peaceful, 3))
    seen: dict[str, Any] = {"kills": 0, "torn": 0, "starts": 0, "rounds": 0, "equal": []}

    def is_enough():
        """Return whether there were enough kills, one of them while a file was written (of three times as many)."""
        return seen["kills"] >= int(kills) and (seen["torn"] > 0 or seen["kills"] >= 3 * int(kills))

    while not is_enough():
        seen["rounds"] += 1
        is_alive = True
        while is_alive:
            child = start(scenario, killed, random_moments.choice([1, 3, 5, "epoch"]))
            seen["starts"] += 1
            if is_enough():
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
    return seen


def main(scenario, kills, seed, folder):
    if scenario == "all":
        run_all(kills, seed, folder)
    else:
        print(json.dumps(run(scenario, kills, seed, folder)))


def finish(child):
    while not has_ended(child):
        time.sleep(0.005)


if __name__ == "__main__":
    main(*sys.argv[1:])
