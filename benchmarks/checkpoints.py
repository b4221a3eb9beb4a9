"""Cost of checkpoints during training, and of callbacks without batch hooks, on the 784-64-64-10 network.

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

from benchmarks.budget import BudgetResult, report_results
from benchmarks.cases import CASES, Case
from benchmarks.frameworks.torchfit_fit import compiled
from benchmarks.measure import interleaved
from torchfit import callbacks

SAVE_FREQ, STEPS_AFTER = 100, 10
CHECKPOINT_LIMIT, CALLBACK_LIMIT = 1.02, 1.001
ROUNDS = 15
SHORT, LONG = 10, 60  # steps; the difference of a long and a short run is the cost of steps


class EpochOnly(callbacks.Callback):
    """Overrides `on_epoch_end` only."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.last = epoch


def results() -> list[BudgetResult]:
    """Return the cost of each, as a ratio to a run without it."""
    torch.set_num_threads(1)
    return [*of_checkpoints(CASES["mnist"], ROUNDS), of_callback(CASES["mnist"])]


def of_checkpoints(case: Case, rounds: int) -> list[BudgetResult]:
    """Compare the steps at a checkpoint of the whole training state, and just after it, with those between two.

    Whole epochs differ by more from one to the next than checkpoints cost; what a step takes at the same distance from
    the last checkpoint, in the median over many of them, does not.
    """
    model = compiled(case)
    with tempfile.TemporaryDirectory() as folder:
        made: dict[str, Callable[[], callbacks.Callback]] = {
            "ModelCheckpoint": lambda: callbacks.ModelCheckpoint(f"{folder}/model.torchfit", save_freq=SAVE_FREQ),
            "BackupAndRestore": lambda: callbacks.BackupAndRestore(folder, save_freq=SAVE_FREQ),
        }
        timers = {name: StepTimer() for name in made}
        interleaved({name: fit(model, case, make, timers[name]) for name, make in made.items()}, rounds)
    return [
        BudgetResult(f"`{name}` every {SAVE_FREQ} steps", 1 + timer.extra() / SAVE_FREQ, CHECKPOINT_LIMIT)
        for name, timer in timers.items()
    ]


class StepTimer(callbacks.Callback):
    """Records the time of every step, by epoch."""

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
        """Return the time of a checkpoint in steps: the extra time of the step at it and of those after it.

        Times are relative to a step between two checkpoints of the same epoch, since the speed of the machine varies.
        """
        relative = [_relative(epoch) for epoch in self.epochs]
        after = [
            [epoch[step] for epoch in relative for step in range(SAVE_FREQ - 1 + distance, len(epoch), SAVE_FREQ)]
            for distance in range(STEPS_AFTER)
        ]
        return sum(map(statistics.median, after))


def _relative(epoch: list[float]) -> list[float]:
    """Return by how much each step of an epoch exceeds the median of those between two checkpoints, as a share."""
    between = statistics.median(
        taken for step, taken in enumerate(epoch) if SAVE_FREQ // 2 <= step % SAVE_FREQ < SAVE_FREQ - 1
    )
    return [taken / between - 1 for taken in epoch]


def of_callback(case: Case) -> BudgetResult:
    """Compare the calls in a step, of functions in Python and in C: times of the very same steps differ by percents."""
    model = compiled(case)
    calls(model, case, callbacks.Callback(), SHORT)  # The first training also settles what the others use.
    plain, beside = (calls_in_a_step(model, case, callback) for callback in (callbacks.Callback(), EpochOnly()))
    what = f"calls in a step ({plain:g}) with a callback without batch hooks"
    return BudgetResult(what, beside / plain, CALLBACK_LIMIT)


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


def fit(model: Any, case: Case, make: Callable[[], callbacks.Callback], timer: StepTimer) -> Callable[[], object]:
    """Return a training of one epoch with a new callback and a clock."""
    x, y = case.data
    return lambda: model.fit(x, y, batch_size=case.batch, callbacks=[make(), timer], verbose=0)


if __name__ == "__main__":
    sys.exit(report_results(results()))
