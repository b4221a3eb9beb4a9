"""What something may cost at the most, and what it costs."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.measure import markdown_table


@dataclass(frozen=True)
class Finding:
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
        """Say whether the limit holds."""
        return "yes" if self.value <= self.at_most else "**no**"


HEADER = ["", "measured", "at most", "holds"]


def tell(findings: Sequence[Finding]) -> int:
    """Print findings, as JSON if the command line says `--json`; return an exit status: 1 if a limit is exceeded."""
    if "--json" in sys.argv:
        print(json.dumps([finding.as_json() for finding in findings]))
        return 0
    print(markdown_table(HEADER, [finding.cells() for finding in findings]))
    return int(any(finding.value > finding.at_most for finding in findings))
