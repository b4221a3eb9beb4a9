"""One framework in a process of its own, driven by requests: a line of JSON in, a line of JSON out.

It imports what the framework needs, and then forks for every case: each starts with everything imported and nothing
built or compiled. It is started by `benchmarks/suite.py`.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, TextIO

Ask = dict[str, Any]
Reply = Callable[[Ask], None]


def main() -> None:
    """Import the framework that the command line names, on the processor that it names, and serve."""
    name, processor = sys.argv[1], int(sys.argv[2])
    reply = replies()
    if processor >= 0:
        os.sched_setaffinity(0, {processor})  # as `taskset -c` does, and before any thread pool starts
    started = time.perf_counter()
    try:
        from benchmarks.frameworks import load

        framework = load(name)
    except Exception as error:
        reply({"error": f"{type(error).__name__}: {error}"})
        return
    reply({"seconds": time.perf_counter() - started})
    while request := sys.stdin.readline():
        in_a_fork(lambda: handle(framework, json.loads(request), reply), reply)


def replies() -> Reply:
    """Return a function that answers; anything printed from now on is discarded."""
    channel: TextIO = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return lambda answer: print(json.dumps(answer), file=channel, flush=True)


def in_a_fork(work: Callable[[], None], reply: Reply) -> None:
    """Run `work` in a child process, which answers itself, and wait for it."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except Exception as error:
            traceback.print_exc()
            reply({"error": f"{type(error).__name__}: {error}".splitlines()[0]})
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status:
        reply({"error": f"its process ended with status {status}"})


def handle(framework: Any, request: Ask, reply: Reply) -> None:
    """Handle one request in a fresh child."""
    from benchmarks.cases import CASES

    os.environ["TORCHINDUCTOR_CACHE_DIR"] = request["cache"]  # shares nothing that another one compiled
    case = CASES[request["case"]].on(request["device"]).of(request["samples"])
    if request["do"] == "first":
        reply({"seconds": first_step(framework, case)})
    else:
        run(framework, case, reply)


def first_step(framework: Any, case: Any) -> float:
    """Return the seconds from nothing but data to the end of the first training step."""
    case = case.of(case.batch)
    _ = case.data
    return timed(lambda: framework(case)["train"]())


def run(framework: Any, case: Any, reply: Reply) -> None:
    """Warm up, report the time, and then run what is requested until the end."""
    from benchmarks import memory

    _ = case.data
    memory.reset_peak()
    start = memory.now()
    runs: dict[str, Callable[[], object]] = {}
    making = timed(lambda: runs.update(framework(case)))
    training = timed(runs["train"])
    held = {"peak": memory.peak(), "above start": memory.peak() - start, **accelerator_memory()}
    warm_up = {"train": making + training, **{task: timed(run) for task, run in runs.items() if task != "train"}}
    reply({"warm-up": warm_up, "memory": held})
    while (request := json.loads(sys.stdin.readline()))["do"] != "end":
        reply({"seconds": {task: timed(run) for task, run in runs.items() if task in request["tasks"]}})
    reply({})


def timed(run: Callable[[], object]) -> float:
    """Time one run to the end of what it started on the accelerator."""
    from benchmarks import measure

    def run_to_the_end() -> None:
        run()
        synchronize()

    return measure.timed(run_to_the_end)


def synchronize() -> None:
    """Wait for the accelerator, if torch uses one here."""
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def accelerator_memory() -> dict[str, float]:
    """Return the peak of torch's memory on the accelerator in MiB, if it uses one here."""
    import torch

    return {"accelerator": torch.cuda.max_memory_allocated() / 2**20} if torch.cuda.is_initialized() else {}


if __name__ == "__main__":
    main()
