"""Who takes part: one small file for each group, listed here.

A contender turns a case into three runs, each one pass over the data: `train`, `evaluate`, `predict`.
A run that it does not have is left out. What cannot be imported here does not take part.
"""

import importlib
from collections.abc import Callable

from benchmarks.cases import Case

Runs = dict[str, Callable[[], object]]
Contender = Callable[[Case], Runs]

GROUPS = ["by_hand", "torchfit_fit", "keras_on_torch"]


def contenders() -> dict[str, Contender]:
    """Return everybody who can take part, the reference first."""
    return {name: contender for group in GROUPS for name, contender in members(group).items()}


def members(group: str) -> dict[str, Contender]:
    """Return the contenders of one file, or none if what it needs is not installed."""
    try:
        found: dict[str, Contender] = importlib.import_module(f"{__name__}.{group}").CONTENDERS
    except ImportError as error:
        print(f"left out: {group} ({error})")
        return {}
    return found
