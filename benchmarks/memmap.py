"""Memory used to train from a memory map of 4 GB of float32, in shuffled order.

python -m benchmarks.memmap
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

import torchfit
from benchmarks import memory
from benchmarks.budget import BudgetResult, report_results

LIMIT = 1024.0
BYTES, COLUMNS, BATCH = 4 * 2**30, 1024, 1024


def results(size: int = BYTES) -> list[BudgetResult]:
    """Return the growth of the process in MiB, at its peak."""
    with tempfile.TemporaryDirectory() as folder:
        x = memory_map(Path(folder) / "x.npy", size)
        model = torchfit.Model(nn.Sequential(nn.Linear(COLUMNS, 8), nn.ReLU(), nn.Linear(8, 1)), device="cpu")
        model.compile("sgd", "mse")
        labels = torch.zeros(len(x), 1)
        model.fit(torch.zeros(BATCH, COLUMNS), labels[:BATCH], batch_size=BATCH, verbose=0)  # imports everything
        memory.reset_peak()
        start = memory.now()
        model.fit(x, labels, batch_size=BATCH, verbose=0)
        peak = memory.peak()
        print(f"{start:.0f} MiB at the start, {peak:.0f} MiB at the peak", file=sys.stderr)
        del x
    what = f"memory to `fit` from a memory map of {size / 2**30:.3g} GiB"
    return [BudgetResult(what, peak - start, LIMIT, "MiB")]


def memory_map(path: Path, size: int) -> np.memmap:
    """Return a map `(rows, columns)` of a file of this size that takes no space: its holes read as zeros."""
    rows = size // (4 * COLUMNS)
    made: np.memmap = np.lib.format.open_memmap(path, "w+", dtype=np.float32, shape=(rows, COLUMNS))
    made[:: max(1, rows // 64)] = 1.0
    made.flush()
    del made
    return np.lib.format.open_memmap(path, "r")


if __name__ == "__main__":
    sys.exit(report_results(results()))
