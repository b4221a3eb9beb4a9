"""A quick look: print what a step costs in one process, everybody against the loop tuned by hand.

python -m benchmarks.training --cases tiny --rounds 3 --only torchfit

For numbers to report see `benchmarks.suite`, in which nobody shares a process.
"""

import argparse
import statistics

import torch

from benchmarks.cases import CASES, Case
from benchmarks.frameworks import REFERENCE, TASKS, Framework, load, matching_names
from benchmarks.measure import interleaved, machine, markdown_table, ratio


def main() -> None:
    """Measure what the command line asks for."""
    options = arguments()
    torch.set_num_threads(options.threads)
    frameworks = chosen(options.only)
    print(f"{machine()}\n{options.rounds} interleaved rounds; medians; the ratio is to the loop tuned by hand")
    for name in options.cases:
        case = CASES[name].of(options.samples or CASES[name].samples)
        for task in options.tasks:
            print(f"\n### {task}: {case.name} ({case.what}, {case.steps} steps a run)\n", flush=True)
            print(compared(case, task, frameworks, options.rounds), flush=True)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--samples", type=int, help="size of the data, if not the case's own")
    parser.add_argument(
        "--only", nargs="+", default=["by hand", "torchfit"], help="words, one of which a framework's name has"
    )
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def chosen(words: list[str]) -> dict[str, Framework]:
    """Return the frameworks that the words name, and the reference, as far as they are installed."""
    return {name: framework for name in matching_names(words) if (framework := installed(name)) is not None}


def installed(name: str) -> Framework | None:
    """Return a framework, or say why there is none."""
    try:
        return load(name)
    except ImportError as error:
        print(f"left out: {name} ({error})")
        return None


def compared(case: Case, task: str, frameworks: dict[str, Framework], rounds: int) -> str:
    """Return a table of microseconds per step and ratios."""
    runs = {name: made[task] for name, make in frameworks.items() if task in (made := make(case))}
    times = interleaved(runs, rounds)
    rows = [
        [
            name,
            f"{statistics.median(taken) / case.steps * 1e6:.1f}",
            f"{ratio(taken, times[REFERENCE]):.3f}",
        ]
        for name, taken in times.items()
    ]
    return markdown_table(["", "µs per step", "ratio"], rows)


if __name__ == "__main__":
    main()
