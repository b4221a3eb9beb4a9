"""What checkpoints cost during training, and callbacks that only hear of epochs, on the 784-64-64-10 network.

python -m benchmarks.checkpoints
"""

import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.budget import Finding, tell
from benchmarks.cases import CASES, Case
from benchmarks.contenders.torchfit_fit import compiled
from benchmarks.measure import interleaved
from torchfit import callbacks

OFTEN, BEHIND = 100, 10
CHECKPOINT_LIMIT, CALLBACK_LIMIT = 1.02, 1.001
ROUNDS = 15
SHORT, LONG = 10, 60  # steps; what a long run has more than a short one is what steps cost


class EpochOnly(callbacks.Callback):
    """Hears of the ends of epochs and of nothing else."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.last = epoch


def findings() -> list[Finding]:
    """Return what each costs, as a ratio to a training without."""
    torch.set_num_threads(1)
    return [*of_checkpoints(CASES["mnist"], ROUNDS), of_callback(CASES["mnist"])]


def of_checkpoints(case: Case, rounds: int) -> list[Finding]:
    """Compare the steps at a checkpoint of the whole training state, and behind it, with the steps between two.

    Whole epochs differ by more from one to the next than checkpoints cost; what a step takes at the same distance from
    the last checkpoint, in the median over many of them, does not.
    """
    model = compiled(case)
    with tempfile.TemporaryDirectory() as folder:
        made: dict[str, Callable[[], callbacks.Callback]] = {
            "ModelCheckpoint": lambda: callbacks.ModelCheckpoint(f"{folder}/model.torchfit", save_freq=OFTEN),
            "BackupAndRestore": lambda: callbacks.BackupAndRestore(folder, save_freq=OFTEN),
        }
        clocks = {name: Clock() for name in made}
        interleaved({name: fit(model, case, make, clocks[name]) for name, make in made.items()}, rounds)
    return [
        Finding(f"`{name}` every {OFTEN} steps", 1 + clock.extra() / OFTEN, CHECKPOINT_LIMIT)
        for name, clock in clocks.items()
    ]


class Clock(callbacks.Callback):
    """Gathers what the steps of every epoch take."""

    reads_logs_synchronously = True  # It reads none.

    def __init__(self) -> None:
        super().__init__()
        self.epochs: list[list[float]] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epochs.append([])
        self._last = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        now = time.perf_counter()
        self.epochs[-1].append(now - self._last)
        self._last = now

    def extra(self) -> float:
        """Return how many more steps could be made in the time of a checkpoint: of the step at it and those behind.

        A step counts by what one between two checkpoints takes in its epoch: the machine is now faster, now slower.
        """
        relative = [_relative(epoch) for epoch in self.epochs]
        behind = [
            [epoch[step] for epoch in relative for step in range(OFTEN - 1 + distance, len(epoch), OFTEN)]
            for distance in range(BEHIND)
        ]
        return sum(map(statistics.median, behind))


def _relative(epoch: list[float]) -> list[float]:
    """Return by how much each step of an epoch exceeds the median of those between two checkpoints, as a share."""
    between = statistics.median(taken for step, taken in enumerate(epoch) if OFTEN // 2 <= step % OFTEN < OFTEN - 1)
    return [taken / between - 1 for taken in epoch]


def of_callback(case: Case) -> Finding:
    """Compare the calls in a step, of functions in Python and in C: times of the very same steps differ by percents."""
    model = compiled(case)
    calls(model, case, callbacks.Callback(), SHORT)  # The first training also settles what the others use.
    plain, beside = (calls_in_a_step(model, case, callback) for callback in (callbacks.Callback(), EpochOnly()))
    what = f"calls in a step ({plain:g}) beside a callback that hears of epochs only"
    return Finding(what, beside / plain, CALLBACK_LIMIT)


def calls_in_a_step(model: Any, case: Case, callback: callbacks.Callback) -> float:
    """Return how many functions a step calls."""
    return (calls(model, case, callback, LONG) - calls(model, case, callback, SHORT)) / (LONG - SHORT)


def calls(model: Any, case: Case, callback: callbacks.Callback, steps: int) -> int:
    """Return how many functions are called in a training of so many steps."""
    x, y = (column[: steps * case.batch] for column in case.data)
    seen: Counter[str] = Counter()
    sys.setprofile(lambda frame, event, argument: seen.update((event,)))
    try:
        model.fit(x, y, batch_size=case.batch, callbacks=[callback], verbose=0)
    finally:
        sys.setprofile(None)
    return seen["call"] + seen["c_call"]


def fit(model: Any, case: Case, make: Callable[[], callbacks.Callback], clock: Clock) -> Callable[[], object]:
    """Return a training of one epoch with a new callback and a clock."""
    x, y = case.data
    return lambda: model.fit(x, y, batch_size=case.batch, callbacks=[make(), clock], verbose=0)


if __name__ == "__main__":
    sys.exit(tell(findings()))
