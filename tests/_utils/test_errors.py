import warnings

from torchfit._utils import errors


def test_control_characters_are_escaped():
    assert errors.printable("a\x1b[31m\n\u202eb\udcff") == r"a\x1b[31m\n\u202eb\udcff"
    assert errors.printable_lines("one\ntwo\x07") == "one\ntwo\\x07"


def test_long_texts_are_cut():
    assert errors.printable("x" * 300) == "x" * 200 + "…"


def test_warnings_point_at_the_line_outside_of_the_package():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        errors.warn("something")
    assert (caught[0].filename, str(caught[0].message)) == (__file__, "something")
