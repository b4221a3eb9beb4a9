"""Print what `import torchfit` costs over `import torch`: fresh interpreters in turn, medians.

python -m benchmarks.import_time [rounds]
"""

import statistics
import subprocess
import sys

from benchmarks.measure import markdown_table, ratio

LIMIT = 1.10
PROGRAM = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def main() -> int:
    """Measure, print, and fail if importing torchfit costs more than a tenth over importing torch."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    names = ["torch", "torchfit"]
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        for name in names if number % 2 else reversed(names):
            seconds = import_seconds(name)
            if number:  # the first round only warms the disk's cache
                times[name].append(seconds)
    found = ratio(times["torchfit"], times["torch"])
    rows = [[f"import {name}", f"{statistics.median(times[name]) * 1e3:.0f}"] for name in names]
    print(markdown_table(["", "ms"], rows), f"\nratio {found:.3f}, at most {LIMIT:.2f} allowed", sep="\n")
    return int(found > LIMIT)


def import_seconds(name: str) -> float:
    """Return how long a fresh interpreter takes to import a module."""
    command = [sys.executable, "-c", PROGRAM.format(name)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    sys.exit(main())
