"""Numbers that may only go down. Lower them here whenever the package gets better."""

import io
import tokenize

MAX_ANY = 447
MAX_FILES = 170


def test_any_is_used_less_and_less(sources):
    used = sum(
        token.type == tokenize.NAME and token.string == "Any"
        for source in sources
        for token in tokenize.generate_tokens(io.StringIO(source.text).readline)
    )
    assert used <= MAX_ANY, "use a real type; shared aliases are in torchfit/_types.py"


def test_the_package_does_not_spread_over_more_files(sources):
    assert len(sources) <= MAX_FILES
