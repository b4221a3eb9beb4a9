"""Names: spelling, suggestions and uniqueness."""

import difflib
import re
from collections.abc import Iterable

_MAX_LISTED = 5
_MAX_NEAR = 3
_MIN_CONTAINED = 3


def snake_case(name: str) -> str:
    """Turn a class name into a variable name.

    >>> snake_case("MeanSquaredError"), snake_case("AUC"), snake_case("R2Score")
    ('mean_squared_error', 'auc', 'r2_score')
    """
    name = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a sentence with the nearest known names, or with the first five if none is near.

    >>> did_you_mean("adm", ["adam", "sgd"]), did_you_mean("top_k", ["top_k_accuracy", "auc"])
    ("Did you mean 'adam'?", "Did you mean 'top_k_accuracy'?")
    >>> did_you_mean("x", "abcdefg")
    'Known names: a, b, c, d, e and 2 more.'
    """
    known = sorted(known)
    near = near_names(name, known)
    if near:
        return f"Did you mean {' or '.join(map(repr, near))}?"
    more = f" and {len(known) - _MAX_LISTED} more" if len(known) > _MAX_LISTED else ""
    return f"Known names: {', '.join(known[:_MAX_LISTED])}{more}."


def near_names(name: str, known: Iterable[str]) -> list[str]:
    """Return up to three known names that are spelt alike or, if none is, that contain it."""
    lowered = {candidate.lower(): candidate for candidate in known}
    name = str(name).lower()
    near = difflib.get_close_matches(name, lowered, n=_MAX_NEAR)
    if not near and len(name) >= _MIN_CONTAINED:
        near = [candidate for candidate in lowered if name in candidate][:_MAX_NEAR]
    return [lowered[candidate] for candidate in near]


def unique_names(names: Iterable[str]) -> list[str]:
    """Append numbers to repeated names, leaving the first as it is.

    >>> unique_names(["auc", "loss", "auc"])
    ['auc', 'loss', 'auc_1']
    """
    taken: set[str] = set()
    result = []
    for name in names:
        candidate, number = name, 0
        while candidate in taken:
            number += 1
            candidate = f"{name}_{number}"
        taken.add(candidate)
        result.append(candidate)
    return result
