"""Measure torchfit, hand-written loops and other trainers side by side, and write `benchmarks/RESULTS.md`.

python -m benchmarks.suite                       # all of it in about eleven minutes, on an idle machine
python -m benchmarks.suite --minutes 30          # more rounds
python -m benchmarks.suite --cases tiny --only "by hand" torchfit --output /tmp/results

Each framework has its own process, all pinned to the same processor; one runs while the others wait. A round is one
pass over the data of training, evaluation and prediction for each, and each round starts with another one. There
are as many rounds as fit into the time. On a machine with a GPU the same command measures on it (`--device`).
"""

import argparse
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import budgets, chart, report
from benchmarks.cases import CASES
from benchmarks.frameworks import MODULES, TASKS, matching_names
from benchmarks.worker_process import LeftOutError, WorkerProcess

MIN_ROUNDS = 3
# Whole batches, so that compilers do not need to handle a second size.
SAMPLES = {"mnist": 469 * 64, "tiny": 1000 * 32, "convnet": 100 * 64}


def main() -> None:
    """Measure what the command line asks for, and write the report."""
    options = arguments()
    started = time.monotonic()
    end = started + options.minutes * 60
    found = budgets.measured(options.budgets)
    with tempfile.TemporaryDirectory() as folder:
        result = Suite(options, Path(folder), end).run()
    result["budgets"] = [result.as_json() for result in found]
    report.save(result, options.output)
    report.write(options.output)
    chart.draw(options.output)
    print(f"{(time.monotonic() - started) / 60:.1f} minutes; written to {options.output}")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=11.0, help="total time limit")
    parser.add_argument("--rounds", type=int, default=15, help="maximum number of rounds")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--only", nargs="+", default=[""], help="words, one of which a framework's name has")
    parser.add_argument("--samples", type=int, help="size of the data, if not the case's own")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--processor", type=int, default=last_processor(), help="pin to this one; -1: do not pin")
    parser.add_argument("--budgets", nargs="*", choices=budgets.NAMES, default=budgets.NAMES, help="with nothing: none")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder of RESULTS.md")
    return parser.parse_args()


def last_processor() -> int:
    """Return the number of the last processor that is available, or -1 where processes cannot be pinned."""
    return max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else -1


class Suite:
    """The workers of all frameworks, and what was measured."""

    def __init__(self, options: argparse.Namespace, folder: Path, end: float) -> None:
        """Take the command line, a folder for temporary files, and the time (monotonic) to be done by."""
        self._options, self._folder, self._end = options, folder, end
        self._workers: dict[str, WorkerProcess] = {}
        self._result: dict[str, Any] = defaultdict(lambda: defaultdict(dict))
        self._left_out: dict[str, str] = {}

    def run(self) -> dict[str, Any]:
        """Measure, and return everything as plain data."""
        options = self._options
        try:
            for name in matching_names(options.only):
                self._attempt(name, partial(self._start, name))
            for index, name in enumerate(options.cases):
                cases_left = len(options.cases) - index
                self._measure(name, time.monotonic() + (self._end - time.monotonic()) / cases_left)
        finally:
            for worker in self._workers.values():
                for message in worker.compile_messages():
                    print(f"{worker.name}: {message}")
                worker.close()
        return {
            "device": options.device,
            "machine": report.machine(options.device, options.processor),
            "left out": self._left_out,
            **{key: dict(value) for key, value in self._result.items()},
        }

    def _attempt(self, name: str, action: Callable[[], object]) -> None:
        """Do something with a worker, and leave the framework out if that fails."""
        try:
            action()
        except LeftOutError as reason:
            print(f"  {name} is left out: {reason}", flush=True)
            self._left_out[name] = str(reason)
            if name in self._workers:
                self._workers.pop(name).close()

    def _start(self, name: str) -> None:
        number = list(MODULES).index(name)
        self._workers[name] = worker = WorkerProcess(name, self._options.processor, self._folder / str(number))
        importing = worker.answer()["seconds"]
        step = worker.ask(do="first", **self._case(self._options.cases[0]))["seconds"]
        self._result["start"][name] = {"import": importing, "first step": step}
        print(f"  {name}: imported in {importing:.1f} s, first step after {step:.2f} s more", flush=True)

    def _case(self, name: str) -> dict[str, Any]:
        return {"case": name, "device": self._options.device, "samples": self._options.samples or SAMPLES[name]}

    def _steps(self, case: str) -> int:
        return CASES[case].of(self._case(case)["samples"]).steps

    def _measure(self, case: str, end: float) -> None:
        print(f"\n{case}: {CASES[case].what}", flush=True)
        for name in list(self._workers):
            self._attempt(name, partial(self._warm_up, name, case))
        rounds = 0
        before = time.monotonic()
        while rounds < self._options.rounds:
            took = time.monotonic() - before
            if rounds >= MIN_ROUNDS and time.monotonic() + took / rounds > end:
                break
            self._round(case, rounds)
            rounds += 1
        self._result["rounds"][case] = rounds
        self._result["steps"][case] = self._steps(case)
        print(f"  {rounds} rounds in {time.monotonic() - before:.0f} s", flush=True)
        for name, worker in list(self._workers.items()):
            self._attempt(name, partial(worker.ask, do="end"))

    def _warm_up(self, name: str, case: str) -> None:
        began = time.monotonic()
        answer = self._workers[name].ask(do="run", **self._case(case))
        self._result["warm-up"].setdefault(case, {})[name] = answer["warm-up"]
        self._result["memory"].setdefault(case, {})[name] = answer["memory"]
        print(f"  {name}: warm after {time.monotonic() - began:.1f} s", flush=True)

    def _round(self, case: str, number: int) -> None:
        steps = self._steps(case)
        names = list(self._workers)
        start = number % len(names)
        for name in names[start:] + names[:start]:
            self._attempt(name, partial(self._take_times, name, case, steps))

    def _take_times(self, name: str, case: str, steps: int) -> None:
        seconds = self._workers[name].ask(do="run", tasks=TASKS)["seconds"]
        for task, taken in seconds.items():
            times = self._result["times"].setdefault(case, {}).setdefault(name, {}).setdefault(task, [])
            times.append(taken / steps * 1e6)


if __name__ == "__main__":
    main()
