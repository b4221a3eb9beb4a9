import math
import re

import pytest

from torchfit._utils.progress_format import (
    Finished,
    fit_line,
    format_bar,
    format_count,
    format_finished,
    running_items,
    value_items,
)


def test_the_guides_finished_line():
    logs = {
        "loss": 0.3484766,
        "sparse_categorical_accuracy": 0.90112,
        "val_loss": 0.19564822,
        "val_sparse_categorical_accuracy": 0.9437999,
    }
    assert "".join(format_finished(Finished(782, 782, 1.2, 0.0012, logs))) == (
        "782/782 [==============================] - 1s 1ms/step - loss: 0.3485 - sparse_categorical_accuracy: 0.9011"
        " - val_loss: 0.1956 - val_sparse_categorical_accuracy: 0.9438"
    )


def test_the_line_without_a_bar():
    assert "".join(format_finished(Finished(782, 782, 1.2, 0.0012, {"loss": 0.5}), bar_width=0)) == (
        "782/782 - 1s - 1ms/step - loss: 0.5000"
    )


def test_a_moving_bar():
    assert format_count(32, 782) + format_bar(32, 782) == " 32/782 [>.............................]"
    assert format_bar(0, 10) == " [..............................]"
    assert format_bar(9, 10) == " [==========================>...]"


def test_an_unknown_length():
    items = running_items(12, None, 3.9, 0.3, {"loss": 1.0})
    text = "".join([format_count(12, None), format_bar(12, None), *items])
    assert text == "12/Unknown - 3s 300ms/step - loss: 1.0000"


def test_values_that_are_no_numbers_stay_on_the_line():
    assert value_items({"loss": math.nan, "matrix": "[[1\n 2]]"}) == [" - loss: nan", " - matrix: [[1 2]]"]


def test_small_values_have_an_exponent():
    assert value_items({"a": 0.001, "b": 0.0011, "c": -2}) == [" - a: 1.0000e-03", " - b: 0.0011", " - c: -2.0000"]


@pytest.mark.parametrize("columns", range(1, 120))
def test_a_fitted_line_holds_whole_items_only(columns):
    items = [" - ETA: 9s", " - loss: 28644.4551", " - mae: 169.2243"]
    line = fit_line(5, 10, items, columns)
    assert len(line) <= columns
    shown = [item for item in items if item in line]
    assert shown == items[: len(shown)]
    if columns >= 5:
        assert re.fullmatch(r" 5/10( \[=*>?\.*\])?", line.removesuffix(" …").removesuffix("".join(shown)))


def test_the_bar_shrinks_before_items_go():
    items = [" - ETA: 9s", " - loss: 0.5000"]
    assert fit_line(5, 10, items, 40) == " 5/10 [==>....] - ETA: 9s - loss: 0.5000"
    assert fit_line(5, 10, items, 34) == " 5/10 [.] - ETA: 9s - loss: 0.5000"
    assert fit_line(5, 10, items, 30) == " 5/10 - ETA: 9s - loss: 0.5000"
    assert fit_line(5, 10, items, 29) == " 5/10 [===>.....] - ETA: 9s …"
