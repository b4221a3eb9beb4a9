"""The quick look in one process."""

from benchmarks.cases import CASES
from benchmarks.frameworks import REFERENCE
from benchmarks.measure import markdown_table, ratio
from benchmarks.training import chosen, compared


def test_every_chosen_framework_is_in_the_table():
    frameworks = {name: framework for name, framework in chosen(["torchfit"]).items() if "jit" not in name}
    table = compared(CASES["tiny"].of(64), "train", frameworks, rounds=1)
    assert f"| {REFERENCE} " in table
    assert "| torchfit " in table


def test_ratio_is_the_median_of_the_rounds():
    assert ratio([2.0, 9.0, 3.0], [1.0, 3.0, 2.0]) == 2.0


def test_table():
    assert markdown_table(["", "µs"], [["a", "1.5"], ["long", "10"]]) == (
        "|      |  µs |\n|------|----:|\n| a    | 1.5 |\n| long |  10 |"
    )
