"""Tests neither sleep nor measure how long something takes: on a busy machine the same test would fail now and then."""

import ast
from pathlib import Path

TESTS = Path(__file__).parents[1]
CLOCKS = {"sleep", "time", "time_ns", "monotonic", "perf_counter", "process_time"}
EXCEPTIONS = {"reliability/killed.py", "fuzz/test_files.py"}  # kills at random moments; reports the slowest file


def reads_a_clock(node):
    if isinstance(node, ast.ImportFrom):
        return node.module == "time" and bool(CLOCKS & {alias.name for alias in node.names})
    return isinstance(node, ast.Attribute) and node.attr in CLOCKS and ast.unparse(node.value) == "time"


def test_no_test_sleeps_or_measures_time():
    files = {path.relative_to(TESTS).as_posix(): path.read_text(encoding="utf-8") for path in TESTS.rglob("*.py")}
    found = {name for name, text in files.items() if any(map(reads_a_clock, ast.walk(ast.parse(text))))}
    assert found == EXCEPTIONS, (
        "hold a threading.Event until the other side is there, or move the clock with `stop_clock`"
    )
