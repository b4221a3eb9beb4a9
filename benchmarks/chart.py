"""Draw the ratios of `results-*.json` as bars, a panel for each case and task.

python -m benchmarks.chart [folder]
"""

import sys
from pathlib import Path
from typing import Any

from benchmarks.frameworks import REFERENCE, TASKS
from benchmarks.measure import ratio
from benchmarks.report import DEVICES, load, ordered

TICKS = [0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50]
OURS, THEIRS, HAND = "#d1495b", "#8d99ae", "#2b2d42"


def draw(folder: Path) -> None:
    """Draw a chart for each device that was measured; without matplotlib, print so and return."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("no chart: matplotlib is not installed")
        return
    for device in DEVICES:
        result = load(folder, device)
        if result is None:
            continue
        cases = list(result["times"])
        height = 0.9 + 0.24 * max(len(times) for times in result["times"].values())
        figure = Figure(figsize=(1.5 + 4.2 * len(cases), height * len(TASKS)), layout="constrained")
        axes = figure.subplots(len(TASKS), len(cases), squeeze=False)
        for row, task in enumerate(TASKS):
            for column, case in enumerate(cases):
                panel(axes[row][column], result["times"][case], task)
                axes[row][column].set_title(f"{task}: {case}", fontsize=10)
        figure.suptitle("Time per step over that of\nthe loop tuned by hand (logarithmic)", fontsize=11)
        figure.savefig(folder / f"results-{device}.png", dpi=110)


def panel(axes: Any, times: dict[str, Any], task: str) -> None:
    """Draw the bars of one case and task, the fastest on top."""
    reference = times.get(REFERENCE, {}).get(task, [])
    ratios = {
        name: ratio(times[name][task], reference)
        for name in ordered(times)
        if len(times[name].get(task, ())) == len(reference) > 0
    }
    names = sorted(ratios, key=lambda name: -ratios[name])
    bars = axes.barh(names, [ratios[name] for name in names], color=[colour(name) for name in names])
    axes.bar_label(bars, [f"{ratios[name]:.2f}" for name in names], padding=2, fontsize=7)
    axes.set_xscale("log")
    axes.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
    axes.minorticks_off()
    axes.set_xlim(min(ratios.values(), default=1) * 0.6, max(ratios.values(), default=1) * 1.7)
    axes.axvline(1.0, color=HAND, linewidth=0.8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def colour(name: str) -> str:
    """Return the colour of a framework's bar."""
    if name.startswith("torchfit"):
        return OURS
    return HAND if "by hand" in name or name.startswith("loop") else THEIRS


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
