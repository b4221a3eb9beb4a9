"""Turn measurements into `RESULTS.md`: `results-cpu.json` and, where there was a GPU, `results-cuda.json`.

`results-gpu.json`, if it is there, is the `gpu.json` that `benchmarks/gpu/run.sh` wrote.

python -m benchmarks.report [folder]           # rewrite the report from existing measurements
"""

import importlib.metadata
import json
import os
import platform
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

import torchfit
from benchmarks.budget import HEADER, BudgetResult
from benchmarks.cases import CASES
from benchmarks.frameworks import MODULES, REFERENCE, TASKS
from benchmarks.gpu import report as gpu_report
from benchmarks.measure import markdown_table, processor, ratio

DEVICES = {"cpu": "CPU", "cuda": "GPU"}
PACKAGES = [
    "torch",
    "numpy",
    "keras",
    "jax",
    "poutyne",
    "skorch",
    "lightning",
    "pytorch-ignite",
    "accelerate",
]
Result = dict[str, Any]
NOT_MEASURED = (
    "Not measured (as of 2026-11-27): no GPU was available. `bash benchmarks/gpu/run.sh` tests and measures on one in "
    "less than eight minutes."
)

INTRODUCTION = """\
# Results

Written by `python -m benchmarks.suite` (`make bench`). The numbers are those of the machines described below; run it on
yours. Networks, data and batch sizes are the same for all, and so is RMSprop (torch's, or the library's own); all track
loss and accuracy. One thread. Each framework has a process of its own; one runs while the others wait. A round is one
pass over the data for each, and every round starts with another one.

*Ratio*: the median, over the rounds, of the time divided by that of the loop tuned by hand in the same round. *Median*
and *min*: µs per step over the rounds. The loop tuned by hand indexes whole batches, updates with a foreach optimizer
and reads nothing back before the end of the epoch.

"""


def machine(device: str, pinned: int) -> dict[str, str]:
    """Describe the machine: hardware, system and versions, without the name of the machine."""
    described = {
        "processor": f"{processor()}, {os.cpu_count()} cores",
        "memory": memory(),
        "system": system(),
        "Python": platform.python_version(),
        "versions": ", ".join([f"torchfit {torchfit.__version__}", *filter(None, map(version, PACKAGES))]),
        "threads": f"{torch.get_num_threads()}, {'all pinned to one processor' if pinned >= 0 else 'not pinned'}",
    }
    if device == "cuda":
        described["GPU"] = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    return described


def memory() -> str:
    """Return the size of the memory."""
    names = os.sysconf_names if hasattr(os, "sysconf_names") else {}
    if "SC_PHYS_PAGES" not in names:
        return "unknown"
    return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB"


def system() -> str:
    """Return the name of the operating system."""
    try:
        return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {platform.machine()}"
    except (OSError, KeyError, AttributeError):
        return f"{platform.system()}, {platform.machine()}"


def version(package: str) -> str | None:
    """Return the name and version of a package, if it is installed."""
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return None


def save(result: Result, folder: Path) -> None:
    """Store measurements, so that those of another device can be added to the same report."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"results-{result['device']}.json"
    path.write_text(json.dumps(rounded(result), indent=1) + "\n", encoding="utf-8")


def rounded(value: Any) -> Any:
    """Return plain data with floats of four digits."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


def load(folder: Path, device: str) -> Result | None:
    """Return the measurements on a device, if there are any."""
    path = folder / f"results-{device}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def write(folder: Path) -> None:
    """Write the report from the stored measurements."""
    sections = [section(device, load(folder, device)) for device in DEVICES]
    training = load(folder, "gpu")
    if training is not None:
        sections.append(f"## Training on a GPU\n\n{gpu_report.section(training)}")
    (folder / "RESULTS.md").write_text(INTRODUCTION + "\n\n".join(sections) + "\n", encoding="utf-8")


def section(device: str, result: Result | None) -> str:
    """Return everything about one device."""
    title = f"## {DEVICES[device]}"
    if result is None:
        return f"{title}\n\n{NOT_MEASURED}"
    parts = [
        title,
        "\n".join(f"- {key}: {value}" for key, value in result["machine"].items()),
        f"![Time per step over that of the loop tuned by hand](results-{device}.png)",
        *(speed(name, result) for name in result["times"]),
        "### Starting, and memory",
        starting(result),
    ]
    if result["left out"]:
        lines = [f"- {name}: {reason}" for name, reason in result["left out"].items()]
        parts += ["Left out:", "\n".join(lines)]
    if result["budgets"]:
        rows = [BudgetResult(**values).cells() for values in result["budgets"]]
        parts += ["### What parts cost", markdown_table(HEADER, rows)]
    return "\n\n".join(parts)


def speed(case: str, result: Result) -> str:
    """Return the table of one case: for each task the ratio, the median and the minimum time of a step."""
    times = result["times"][case]
    header = ["", *(f"{task}: {column}" for task in TASKS for column in ("ratio", "median", "min"))]
    rows = [[name, *(cell for task in TASKS for cell in cells(times, name, task))] for name in ordered(times)]
    title = f"### {case}: {CASES[case].what} ({result['rounds'][case]} rounds)"
    return f"{title}\n\n{markdown_table(header, rows)}"


def cells(times: Result, name: str, task: str) -> list[str]:
    """Return ratio, median and minimum time of a step."""
    taken = times[name].get(task)
    if not taken:
        return ["", "", ""]
    reference = times.get(REFERENCE, {}).get(task, [])
    share = f"{ratio(taken, reference):.2f}" if len(reference) == len(taken) else ""
    return [share, f"{statistics.median(taken):.0f}", f"{min(taken):.0f}"]


def ordered(names: Any) -> list[str]:
    """Return the names in the order of the list of frameworks."""
    return [name for name in MODULES if name in names]


def starting(result: Result) -> str:
    """Return the table of seconds until the first step, seconds of warming up, and memory."""
    case = next(iter(result["times"]))
    on_device = result["device"] != "cpu"
    header = ["", "import s", "first step s", *(f"warm-up {task} s" for task in TASKS), "peak MiB", "above start MiB"]
    rows = [[name, *start_cells(result, case, name, on_device)] for name in ordered(result["times"][case])]
    explained = (
        f"On the case {case}. *First step*: from data and imported libraries to the end of the first training step,"
        " in a fresh process. *Warm-up*: the extra time of the first pass over later ones, mostly compilation;"
        " torchfit runs the first step of a run before it compiles. *Peak*: the most resident memory of the"
        " process up to the end of the first pass of training; *above start*: without that of libraries and data."
    )
    return f"{explained}\n\n{markdown_table([*header, *(['GPU MiB'] if on_device else [])], rows)}"


def start_cells(result: Result, case: str, name: str, on_device: bool) -> list[str]:
    """Return the cells of one row of the table of starting."""
    start, held = result["start"][name], result["memory"][case][name]
    cells = [f"{start['import']:.1f}", f"{start['first step']:.2f}"]
    cells += [extra_seconds(result, case, name, task) for task in TASKS]
    cells += [f"{held['peak']:.0f}", f"{held['above start']:.0f}"]
    return cells + ([f"{held['accelerator']:.0f}" if "accelerator" in held else ""] if on_device else [])


def extra_seconds(result: Result, case: str, name: str, task: str) -> str:
    """Return the extra time of the first pass over the later ones."""
    first = result["warm-up"][case][name].get(task)
    if first is None:
        return ""
    steady = statistics.median(result["times"][case][name][task]) * result["steps"][case] / 1e6
    return f"{max(0.0, first - steady):.1f}"


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
