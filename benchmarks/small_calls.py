"""Cost of calls with one batch, as in hand-written loops (reinforcement learning) and in serving, on one thread.

    python -m benchmarks.small_calls

Prints microseconds per call (the best of interleaved rounds), for torchfit and for the same work written by hand in
PyTorch, and the ratio with its limit.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import torchfit
from benchmarks.budget import BudgetResult, report_results
from benchmarks.cases import CASES, Case
from benchmarks.measure import best_of_turns

ROUNDS, CALLS = 30, 50
ROWS_OF_FIT = 10
LIMITS = {
    "train_on_batch": {"mnist": 1.2, "tiny": 1.2},
    "test_on_batch": {"mnist": 1.5, "tiny": 4.0},
    "predict_on_batch": {"mnist": 1.3, "tiny": 3.0},
    "model(x)": {"mnist": 1.05, "tiny": 1.05},
    "predict": {"mnist": 1.5, "tiny": 4.0},
    "evaluate": {"mnist": 1.5, "tiny": 4.0},
    "fit": {"mnist": 1.5, "tiny": 1.5},
}
Call = Callable[[], object]


def by_hand(case: Case) -> dict[str, Call]:
    """Return what an expert writes for each call; losses are read, as `*_on_batch` returns numbers."""
    net, loss_fn = case.fresh_network(), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(net.parameters(), fused=True)
    x, y = (tensor[: case.batch] for tensor in case.data)

    def train(x: torch.Tensor, y: torch.Tensor) -> float:
        net.train()
        optimizer.zero_grad()
        loss = loss_fn(net(x), y)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    def test() -> float:
        net.eval()
        with torch.no_grad():
            return float(loss_fn(net(x), y))

    def predict() -> Any:
        net.eval()
        with torch.no_grad():
            return net(x).numpy()

    return {
        "train_on_batch": lambda: train(x, y),
        "test_on_batch": test,
        "predict_on_batch": predict,
        "model(x)": lambda: net(x),
        "predict": predict,
        "evaluate": test,
        "fit": lambda: train(x[:ROWS_OF_FIT], y[:ROWS_OF_FIT]),
    }


def ours(case: Case) -> dict[str, Call]:
    """Return the calls of torchfit."""
    model = torchfit.Model(case.fresh_network(), device="cpu")
    model.compile(torch.optim.Adam(model.module.parameters(), fused=True), nn.CrossEntropyLoss())
    x, y = (tensor[: case.batch] for tensor in case.data)
    few = x[:ROWS_OF_FIT], y[:ROWS_OF_FIT]
    return {
        "train_on_batch": lambda: float(model.train_on_batch(x, y)),
        "test_on_batch": lambda: float(model.test_on_batch(x, y)),
        "predict_on_batch": lambda: model.predict_on_batch(x),
        "model(x)": lambda: model(x),
        "predict": lambda: model.predict(x, batch_size=case.batch, verbose=0),
        "evaluate": lambda: model.evaluate(x, y, batch_size=case.batch, verbose=0),
        "fit": lambda: model.fit(*few, verbose=0),
    }


def main() -> int:
    """Measure all calls, print them, and return the exit status."""
    torch.set_num_threads(1)
    results = []
    for case in (CASES["mnist"], CASES["tiny"]):
        hand, model = by_hand(case), ours(case)
        for name, limits in LIMITS.items():
            theirs, mine = best_of_turns([hand[name], model[name]], ROUNDS, CALLS)
            print(f"{case.name:6} {name:17} {mine:7.1f} µs, by hand {theirs:7.1f} µs", file=sys.stderr, flush=True)
            results.append(
                BudgetResult(f"{name}, {case.name}, over the loop by hand", mine / theirs, limits[case.name])
            )
    return report_results(results)


if __name__ == "__main__":
    sys.exit(main())
