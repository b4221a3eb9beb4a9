"""Fair timing: interleaved rounds, medians, and ratios within a round."""

import gc
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

Seconds = float


def interleaved(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[Seconds]]:
    """Time every run once a round, after one round that does not count; each round starts with another one.

    Other load on the machine then affects all of them alike.
    """
    names = list(runs)
    times: dict[str, list[Seconds]] = {name: [] for name in names}
    for name in names:
        runs[name]()
    for number in range(rounds):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            times[name].append(timed(runs[name]))
    return times


def best_of_turns(calls: Sequence[Callable[[], object]], rounds: int, repeats: int) -> list[float]:
    """Return the microseconds of each call: the best of rounds, in which all take turns, each repeated in a row."""
    best = [float("inf")] * len(calls)
    for _ in range(rounds):
        for index, call in enumerate(calls):
            start = time.perf_counter()
            for _ in range(repeats):
                call()
            best[index] = min(best[index], (time.perf_counter() - start) / repeats * 1e6)
    return best


def timed(run: Callable[[], object]) -> Seconds:
    """Time one call, after collecting the garbage of the others."""
    gc.collect()
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def ratio(times: Sequence[Seconds], reference: Sequence[Seconds]) -> float:
    """Return the median of the ratios within each round."""
    return statistics.median(ours / theirs for ours, theirs in zip(times, reference, strict=True))


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a table: the first column to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cells[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:])),
        ]
        return f"| {' | '.join(padded)} |"

    rule = f"|{'-' * (widths[0] + 2)}|" + "".join(f"{'-' * (width + 1)}:|" for width in widths[1:])
    return "\n".join([line(header), rule, *map(line, rows)])


def machine() -> str:
    """Describe the machine."""
    return (
        f"{processor()}, {torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}; "
        f"{platform.system()}, Python {platform.python_version()}, torch {torch.__version__}"
    )


def processor() -> str:
    """Return the processor's name as the operating system reports it."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
