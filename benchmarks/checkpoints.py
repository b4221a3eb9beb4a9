"""What checkpoints cost during training, and callbacks that only hear of epochs, on the 784-64-64-10 network.

python -m benchmarks.checkpoints
"""

import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.budget import Finding, tell
from benchmarks.cases import CASES, Case
from benchmarks.contenders.torchfit_fit import compiled
from benchmarks.measure import interleaved, ratio
from torchfit import callbacks

OFTEN = 100
CHECKPOINT_LIMIT, CALLBACK_LIMIT = 1.02, 1.001
ROUNDS, CALLBACK_ROUNDS = 15, 41


class EpochOnly(callbacks.Callback):
    """Hears of the ends of epochs and of nothing else."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.last = epoch


def findings() -> list[Finding]:
    """Return what each costs, as a ratio to a training without."""
    return [*of_checkpoints(CASES["mnist"], ROUNDS), of_callback(CASES["mnist"].of(100 * 64))]


def of_checkpoints(case: Case, rounds: int) -> list[Finding]:
    """Compare an epoch with a checkpoint every 100 steps, the whole training state, with an epoch without.

    All train the same model: another one lies elsewhere in memory, which may cost or gain more than is looked for.
    """
    model = compiled(case)
    with tempfile.TemporaryDirectory() as folder:
        backup = callbacks.BackupAndRestore(folder, save_freq=OFTEN)
        checkpoint = callbacks.ModelCheckpoint(str(Path(folder) / "model.torchfit"), save_freq=OFTEN)
        heard: dict[str, list[callbacks.Callback]] = {
            "plain": [],
            "ModelCheckpoint": [checkpoint],
            "BackupAndRestore": [backup],
        }
        runs = {name: fit(model, case, *callback) for name, callback in heard.items()}
        times = interleaved(runs, rounds)
    return [
        Finding(f"`{name}` every {OFTEN} steps", ratio(times[name], times["plain"]), CHECKPOINT_LIMIT)
        for name in runs
        if name != "plain"
    ]


def of_callback(case: Case, rounds: int = CALLBACK_ROUNDS) -> Finding:
    """Compare the quickest tenths of many rounds: what is looked for is smaller than most of what disturbs."""
    model = compiled(case)
    times = interleaved({"plain": fit(model, case), "callback": fit(model, case, EpochOnly())}, rounds)
    quickest = {name: statistics.mean(sorted(taken)[: max(1, rounds // 10)]) for name, taken in times.items()}
    return Finding("callback that hears of epochs only", quickest["callback"] / quickest["plain"], CALLBACK_LIMIT)


def fit(model: Any, case: Case, *heard: callbacks.Callback) -> Callable[[], object]:
    """Return a training of one epoch with callbacks."""
    x, y = case.data
    return lambda: model.fit(x, y, batch_size=case.batch, callbacks=list(heard), verbose=0)


if __name__ == "__main__":
    sys.exit(tell(findings()))
