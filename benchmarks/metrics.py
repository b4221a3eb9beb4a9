"""Cost of an update of the accuracies, which run on every step: 64 samples, 10 classes, on one thread.

python -m benchmarks.metrics
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch

from benchmarks.budget import BudgetResult, report_results
from torchfit import metrics

LIMIT = 40.0
ROUNDS, UPDATES = 15, 400


def results() -> list[BudgetResult]:
    """Return the microseconds of an update of each accuracy."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    times: dict[str, list[float]] = {name: [] for name in updates()}
    for number in range(ROUNDS + 1):
        for name, update in updates().items():
            taken = microseconds(update)
            if number:  # the first round only warms up
                times[name].append(taken)
    return [
        BudgetResult(f"update of {name}, 64 × 10", statistics.median(taken), LIMIT, "µs")
        for name, taken in times.items()
    ]


def updates() -> dict[str, Callable[[], None]]:
    """Return an update of each accuracy with one batch."""
    scores, labels = torch.rand(64, 10), torch.randint(0, 10, (64,))
    one_hot = torch.nn.functional.one_hot(labels, 10).float()
    members = [
        (metrics.SparseCategoricalAccuracy(), labels),
        (metrics.CategoricalAccuracy(), one_hot),
        (metrics.BinaryAccuracy(), one_hot),
    ]
    return {type(metric).__name__: updating(metric, target, scores) for metric, target in members}


def updating(metric: metrics.Metric, target: torch.Tensor, scores: torch.Tensor) -> Callable[[], None]:
    """Return a function that updates a metric once."""
    return lambda: metric.update_state(target, scores)


@torch.no_grad()
def microseconds(update: Callable[[], None]) -> float:
    """Return the time of one update."""
    start = time.perf_counter()
    for _ in range(UPDATES):
        update()
    return (time.perf_counter() - start) / UPDATES * 1e6


if __name__ == "__main__":
    sys.exit(report_results(results()))
