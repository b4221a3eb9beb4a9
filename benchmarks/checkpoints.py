"""What checkpoints cost during training, and callbacks that only hear of epochs, on the 784-64-64-10 network.

python -m benchmarks.checkpoints
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import chain
from typing import Any

import torch

from benchmarks.budget import Finding, tell
from benchmarks.cases import CASES, Case
from benchmarks.contenders.torchfit_fit import compiled
from benchmarks.measure import interleaved, ratio
from torchfit import callbacks

OFTEN, BEHIND = 100, 10
CHECKPOINT_LIMIT, CALLBACK_LIMIT = 1.02, 1.001
ROUNDS, CALLBACK_ROUNDS = 15, 21


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

    _reads_logs_at_once = True  # It reads none.

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
        """Return how many more steps could be made in the time of a checkpoint: of the step at it and those behind."""
        at = [
            [epoch[step] for epoch in self.epochs for step in range(OFTEN - 1 + distance, len(epoch), OFTEN)]
            for distance in range(OFTEN)
        ]
        between = statistics.median(chain.from_iterable(at[OFTEN // 2 : -1]))
        return sum(statistics.median(taken) - between for taken in at[:BEHIND]) / between


def of_callback(case: Case, rounds: int = CALLBACK_ROUNDS) -> Finding:
    """Compare the median step of epochs with the callback and without, in each round."""
    model, clocks = compiled(case), {"plain": Clock(), "callback": Clock()}
    made = {"plain": callbacks.Callback, "callback": EpochOnly}
    interleaved({name: fit(model, case, make, clocks[name]) for name, make in made.items()}, rounds)
    medians = {name: [statistics.median(epoch) for epoch in clock.epochs] for name, clock in clocks.items()}
    return Finding("callback that hears of epochs only", ratio(medians["callback"], medians["plain"]), CALLBACK_LIMIT)


def fit(model: Any, case: Case, make: Callable[[], callbacks.Callback], clock: "Clock") -> Callable[[], object]:
    """Return a training of one epoch with a new callback and a clock."""
    x, y = case.data
    return lambda: model.fit(x, y, batch_size=case.batch, callbacks=[make(), clock], verbose=0)


if __name__ == "__main__":
    sys.exit(tell(findings()))
