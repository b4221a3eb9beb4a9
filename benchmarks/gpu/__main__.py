"""Measure every trainer on a GPU, one after the other in one process; `benchmarks/gpu/run.sh` calls this.

python -m benchmarks.gpu --output /tmp/results
python -m benchmarks.gpu --cases tiny gpt --only torchfit tuned

What matters most comes first, and results are written after each trainer, so that running out of time loses little.
`TORCHFIT_GPU_REHEARSAL=1` runs the same code on small sizes on the CPU.
"""

import argparse
import gc
import json
import os
import platform
import time
import traceback
from pathlib import Path
from typing import Any

import torch

import torchfit
from benchmarks.gpu import loops, report
from benchmarks.gpu.cases import CASES, REHEARSAL, GpuCase
from benchmarks.gpu.clock import Clock
from benchmarks.gpu.trainers import Trainer, with_keras, with_lightning, with_torchfit

IS_REHEARSAL = os.environ.get("TORCHFIT_GPU_REHEARSAL") == "1"

TRAINERS: dict[str, Trainer] = {
    "loop of the tutorials": loops.tutorial,
    "tuned loop": loops.tuned,
    "tuned loop, CUDA graph": loops.graphed,
    "torchfit": with_torchfit(),
    "torchfit, jit_compile": with_torchfit(jit_compile=True),
    "torchfit, jit_compile, 8 steps a call": with_torchfit(jit_compile=True, steps_per_execution=8),
    "loop, torch.compile reduce-overhead": loops.compiled,
    "Lightning": with_lightning,
    "Keras on torch": with_keras("torch"),
    "Keras on JAX": with_keras("jax"),
}
FIRST = ["tuned loop", "loop of the tutorials", "tuned loop, CUDA graph", "torchfit", "torchfit, jit_compile"]
GROWTH = {"mnist": [64, 256, 1024, 4096], "resnet18": [64, 256, 1024]}
GROWING = ["tuned loop", "tuned loop, CUDA graph", "torchfit", "torchfit, jit_compile"]


def main() -> None:
    """Measure what the command line asks for."""
    options = arguments()
    torch.set_float32_matmul_precision("high")  # TF32, for all alike.
    device = torch.device("cpu") if IS_REHEARSAL else torch.device("cuda", 0)
    run = Run(device, options)
    names = [name for name in TRAINERS if any(word.lower() in name.lower() for word in options.only)]
    cases = REHEARSAL if IS_REHEARSAL else CASES
    for group in ([n for n in FIRST if n in names], [n for n in names if n not in FIRST]):
        for case in options.cases:
            for name in group:
                run.measure(cases[case], name)
    for case, batches in GROWTH.items() if not options.no_growth else ():
        for batch in batches if not IS_REHEARSAL else (2, 4):
            for name in GROWING:
                if name in names and case in options.cases:
                    run.grow(cases[case].with_batch(batch, 3 if IS_REHEARSAL else 60), name)
    print(f"\n{report.short_table(run.result)}")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--only", nargs="+", default=[""], help="words, one of which a trainer's name has")
    parser.add_argument("--rounds", type=int, default=2 if IS_REHEARSAL else 5, help="timed passes over the data")
    parser.add_argument("--seconds", type=float, default=300.0, help="no trainer is started after this time")
    parser.add_argument("--no-growth", action="store_true", help="leave out how time grows with the batch")
    parser.add_argument("--output", type=Path, default=Path("gpu-results"), help="folder of gpu.json and gpu.md")
    return parser.parse_args()


class Run:
    """What was measured so far, on disk after every trainer; a file that is there already is added to."""

    def __init__(self, device: torch.device, options: argparse.Namespace) -> None:
        self._device, self._rounds = device, options.rounds
        self._end = time.monotonic() + options.seconds
        self._file = options.output / "gpu.json"
        options.output.mkdir(parents=True, exist_ok=True)
        empty: dict[str, Any] = {"machine": machine(device), "cases": {}, "growth": {}, "left out": {}}
        self.result = json.loads(self._file.read_text(encoding="utf-8")) if self._file.exists() else empty

    def measure(self, case: GpuCase, name: str) -> None:
        """Measure one trainer on one case."""
        found = self._attempt(case, name)
        if found is not None:
            self.result["cases"].setdefault(case.name, {})[name] = found
            self._save()

    def grow(self, case: GpuCase, name: str) -> None:
        """Measure how long a step takes with this batch."""
        found = self._attempt(case, name)
        if found is not None:
            steps = self.result["growth"].setdefault(case.name, {}).setdefault(name, {})
            steps[str(case.batch)] = found["step"]
            self._save()

    def _attempt(self, case: GpuCase, name: str) -> dict[str, Any] | None:
        label = f"{case.name}, batch {case.batch}: {name}"
        if time.monotonic() > self._end:
            self._leave_out(label, "no time was left")
            return None
        began = time.monotonic()
        try:
            clock = Clock(self._device, self._rounds, case.steps)
            TRAINERS[name](case, self._device, clock)
            found = clock.result()
        except ImportError as error:
            self._leave_out(label, str(error))
            return None
        except Exception as error:
            traceback.print_exc()
            self._leave_out(label, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
            return None
        finally:
            torch.compiler.reset()
            gc.collect()
        print(f"{label}: {found['step']:.1f} µs a step, in {time.monotonic() - began:.0f} s", flush=True)
        return found

    def _leave_out(self, label: str, reason: str) -> None:
        print(f"{label}: left out, {reason}", flush=True)
        self.result["left out"][label] = reason
        self._save()

    def _save(self) -> None:
        self._file.write_text(json.dumps(self.result, indent=1) + "\n", encoding="utf-8")
        text = report.section(self.result)
        self._file.with_suffix(".md").write_text(text + "\n", encoding="utf-8")


def machine(device: torch.device) -> dict[str, str]:
    """Describe the device and the versions."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU (a rehearsal)"
    return {
        "device": name,
        "CUDA": str(torch.version.cuda),
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "torchfit": torchfit.__version__,
    }


if __name__ == "__main__":
    main()
