"""The benchmarks with a limit, each in a process of its own.

python -m benchmarks.budgets                 # all of them
python -m benchmarks.budgets metrics loaders
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence

from benchmarks.budget import BudgetResult, report_results

NAMES = ["import_time", "small_calls", "metrics", "checkpoints", "loaders", "memmap"]


def measured(names: Sequence[str]) -> list[BudgetResult]:
    """Run the benchmarks of these names one after another."""
    return [result for name in names for result in one(name)]


def one(name: str) -> list[BudgetResult]:
    """Run one benchmark."""
    started = time.monotonic()
    command = [sys.executable, "-m", f"benchmarks.{name}", "--json"]
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    results = [BudgetResult(**values) for values in json.loads(ran.stdout.splitlines()[-1])]
    print(f"  {name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return results


if __name__ == "__main__":
    sys.exit(report_results(measured([name for name in sys.argv[1:] if name in NAMES] or NAMES)))
