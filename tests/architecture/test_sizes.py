"""Functions fit on a screen, files in a sitting."""

import ast
import statistics
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


def body_lines(function, text):
    """Count the lines of a function's body that are not blank, its docstring left out."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    if not body:
        return 0
    lines = text.splitlines()[body[0].lineno - 1 : function.end_lineno]
    return sum(1 for line in lines if line.strip())


@pytest.fixture(scope="module")
def function_sizes(sources):
    return {
        f"{source}:{node.lineno} {node.name}": body_lines(node, source.text)
        for source in sources
        for node in ast.walk(source.tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }


def test_half_of_the_functions_have_at_most_8_lines(function_sizes):
    assert statistics.median(function_sizes.values()) <= 8


def test_nine_of_ten_functions_have_at_most_30_lines(function_sizes):
    ninth = statistics.quantiles(function_sizes.values(), n=10)[-1]
    assert ninth <= 30


def test_no_function_has_more_than_60_lines(function_sizes):
    assert {where: size for where, size in function_sizes.items() if size > 60} == {}


def test_no_file_has_more_than_500_lines(sources):
    lengths = {str(source): len(source.text.splitlines()) for source in sources}
    assert {path: length for path, length in lengths.items() if length > 500} == {}


def test_no_file_of_the_tests_has_more_than_500_lines():
    lengths = {str(path): len(path.read_text(encoding="utf-8").splitlines()) for path in TESTS.rglob("*.py")}
    assert {path: length for path, length in lengths.items() if length > 500} == {}
