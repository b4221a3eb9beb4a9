"""Print what importing torchfit costs over `import torch`: fresh interpreters in turn, medians.

`import torchfit` imports nothing but the version, so what users meet is the cost of `from torchfit import Model`; both
have the limit. Bytecode is kept, as by `pip install`: the first round, which does not count, writes what is missing.

python -m benchmarks.import_time
"""

import os
import statistics
import subprocess
import sys

from benchmarks.budget import BudgetResult, report_results
from benchmarks.measure import ratio

LIMIT, ROUNDS = 1.10, 9
TORCH = "import torch"
OURS = ["import torchfit", "from torchfit import Model"]
PROGRAM = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"


def results(rounds: int = ROUNDS) -> list[BudgetResult]:
    """Return the ratio of each way of importing torchfit to `import torch`."""
    statements = [TORCH, *OURS]
    times: dict[str, list[float]] = {statement: [] for statement in statements}
    for number in range(rounds + 1):
        for statement in statements if number % 2 else reversed(statements):
            seconds = import_seconds(statement)
            if number:  # the first round warms the disk's cache and writes bytecode
                times[statement].append(seconds)
    return [
        BudgetResult(
            f"`{ours}` ({statistics.median(times[ours]):.2f} s) over `{TORCH}`", ratio(times[ours], times[TORCH]), LIMIT
        )
        for ours in OURS
    ]


def import_seconds(statement: str) -> float:
    """Return how long a fresh interpreter takes for an import statement."""
    command = [sys.executable, "-c", PROGRAM.format(statement)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return float(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)


if __name__ == "__main__":
    sys.exit(report_results(results()))
