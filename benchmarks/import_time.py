"""Print what `import torchfit` costs over `import torch`: fresh interpreters in turn, medians.

python -m benchmarks.import_time
"""

import statistics
import subprocess
import sys

from benchmarks.budget import Finding, tell
from benchmarks.measure import ratio

LIMIT, ROUNDS = 1.10, 9
PROGRAM = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def findings(rounds: int = ROUNDS) -> list[Finding]:
    """Return the ratio of both imports."""
    names = ["torch", "torchfit"]
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        for name in names if number % 2 else reversed(names):
            seconds = import_seconds(name)
            if number:  # the first round only warms the disk's cache
                times[name].append(seconds)
    what = f"`import torchfit` ({statistics.median(times['torchfit']):.2f} s) over `import torch`"
    return [Finding(what, ratio(times["torchfit"], times["torch"]), LIMIT)]


def import_seconds(name: str) -> float:
    """Return how long a fresh interpreter takes to import a module."""
    command = [sys.executable, "-c", PROGRAM.format(name)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    sys.exit(tell(findings()))
