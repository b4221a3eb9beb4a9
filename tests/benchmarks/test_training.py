"""Every contender of the benchmark does its work, on a handful of samples."""

import pytest

from benchmarks.cases import CASES
from benchmarks.contenders import contenders
from benchmarks.measure import markdown_table, ratio
from benchmarks.training import REFERENCE, compared

pytestmark = pytest.mark.filterwarnings("default")  # the peers' own


@pytest.mark.parametrize("task", ["train", "evaluate", "predict"])
def test_everybody_is_in_the_table(task):
    table = compared(CASES["tiny"].of(64), task, contenders(), rounds=1)
    assert f"| {REFERENCE} " in table
    assert "| torchfit " in table


def test_ratio_is_the_median_of_the_rounds():
    assert ratio([2.0, 9.0, 3.0], [1.0, 3.0, 2.0]) == 2.0


def test_table():
    assert markdown_table(["", "µs"], [["a", "1.5"], ["long", "10"]]) == (
        "|      |  µs |\n|------|----:|\n| a    | 1.5 |\n| long |  10 |"
    )
