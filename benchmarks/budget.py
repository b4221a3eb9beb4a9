"""Measured costs and their limits."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.measure import markdown_table


@dataclass(frozen=True)
class BudgetResult:
    """A measured value and its limit, both in the same unit."""

    what: str
    value: float
    at_most: float
    unit: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)

    def cells(self) -> list[str]:
        """Return the cells of its row in a table."""
        unit = f" {self.unit}" if self.unit else ""
        return [self.what, f"{self.value:.4g}{unit}", f"{self.at_most:g}{unit}", self.verdict]

    @property
    def verdict(self) -> str:
        """Whether the limit holds, as a word."""
        return "yes" if self.value <= self.at_most else "**no**"


HEADER = ["", "measured", "at most", "holds"]


def report_results(results: Sequence[BudgetResult]) -> int:
    """Print results, as JSON with `--json` on the command line; return the exit status, 1 if a limit is exceeded."""
    if "--json" in sys.argv:
        print(json.dumps([result.as_json() for result in results]))
        return 0
    print(markdown_table(HEADER, [result.cells() for result in results]))
    return int(any(result.value > result.at_most for result in results))
