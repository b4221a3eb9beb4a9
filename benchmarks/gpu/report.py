"""Tables of what was measured on a GPU, and whether it is what torchfit aims at."""

from collections.abc import Mapping
from typing import Any

from benchmarks.gpu.cases import CASES
from benchmarks.measure import markdown_table

REFERENCE, TUTORIAL, GRAPH = "tuned loop", "loop of the tutorials", "tuned loop, CUDA graph"
BY_HAND = (REFERENCE, GRAPH, "loop, torch.compile reduce-overhead")
COMPILED = ("torchfit, jit_compile", "torchfit, jit_compile, 8 steps a call")
SMALL = ("mnist", "tiny", "convnet")
Result = Mapping[str, Any]


def section(result: Result) -> str:
    """Return everything that was measured, as Markdown."""
    parts = ["\n".join(f"- {key}: {value}" for key, value in result["machine"].items())]
    for case, found in result["cases"].items():
        parts += [f"### {case}: {CASES[case].what}", case_table(found)]
    for case, found in result["growth"].items():
        parts += [f"### {case}: µs a step by batch", growth_table(found)]
    reached = goals(result)
    if reached:
        parts += ["### Goals", markdown_table(["", "measured", "goal", "reached"], reached)]
    if result["left out"]:
        lines = [f"- {name}: {reason}" for name, reason in result["left out"].items()]
        parts += ["Left out:", "\n".join(lines)]
    return "\n\n".join(parts)


def case_table(found: Result) -> str:
    """Return the table of one case: ratio to the tuned loop, times of a step, launches of a step, and memory."""
    reference = found.get(REFERENCE, {}).get("step")
    header = ["", "ratio", "µs a step", "fastest", "µs on the host", "launches", "peak MiB", "warm-up s"]
    rows = [
        [
            name,
            f"{of['step'] / reference:.2f}" if reference else "",
            *(_number(of[key]) for key in ("step", "fastest step", "host", "launches", "peak", "warm-up")),
        ]
        for name, of in found.items()
    ]
    return markdown_table(header, rows)


def growth_table(found: Result) -> str:
    """Return how the time of a step grows with the batch."""
    batches = sorted({batch for steps in found.values() for batch in steps}, key=int)
    rows = [[name, *(_number(steps.get(batch)) for batch in batches)] for name, steps in found.items()]
    return markdown_table(["", *batches], rows)


def short_table(result: Result) -> str:
    """Return one table: the time of a step over that of the tuned loop, for every trainer and case."""
    cases = result["cases"]
    names = list(dict.fromkeys(name for found in cases.values() for name in found))
    rows = [[name, *(_ratio(found, name) for found in cases.values())] for name in names]
    table = markdown_table([result["machine"]["device"], *cases], rows)
    reached = "\n".join(f"{what}: {measured} (goal {goal}): {holds}" for what, measured, goal, holds in goals(result))
    return f"{table}\n\n{reached}"


def goals(result: Result) -> list[list[str]]:
    """Return what torchfit aims at, what was measured, and whether it holds."""
    rows = []
    for case, found in result["cases"].items():
        steps = {name: of["step"] for name, of in found.items()}
        best = min((steps[name] for name in COMPILED if name in steps), default=None)
        by_hand = min((steps[name] for name in BY_HAND if name in steps), default=None)
        if best is None or by_hand is None:
            continue
        if case in SMALL and TUTORIAL in steps:
            rows.append(_goal(f"{case}: tutorial loop over torchfit", steps[TUTORIAL] / best, 5.0, at_least=True))
        if case in SMALL and GRAPH in steps:
            rows.append(_goal(f"{case}: torchfit over the CUDA graph by hand", best / steps[GRAPH], 1.05))
        if case not in SMALL:
            own = min(best, steps.get("torchfit", best))
            rows.append(_goal(f"{case}: torchfit over the best loop by hand", own / by_hand, 1.02))
        rows += _memory_goals(case, found)
    return rows


def _memory_goals(case: str, found: Result) -> list[list[str]]:
    pairs = [("torchfit", REFERENCE), ("torchfit, jit_compile", GRAPH)]
    peaks = [(found[ours]["peak"], found[theirs]["peak"], ours) for ours, theirs in pairs if {ours, theirs} <= {*found}]
    return [_goal(f"{case}: memory of {ours} over the loop by hand", a / b, 1.02) for a, b, ours in peaks if a and b]


def _goal(what: str, measured: float, goal: float, at_least: bool = False) -> list[str]:
    holds = measured >= goal if at_least else measured <= goal
    return [what, f"{measured:.2f}", f"{'≥' if at_least else '≤'} {goal:.2f}", "yes" if holds else "**no**"]


def _ratio(found: Result, name: str) -> str:
    if name not in found or REFERENCE not in found:
        return ""
    return f"{found[name]['step'] / found[REFERENCE]['step']:.2f} ({found[name]['step']:.0f} µs)"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"
