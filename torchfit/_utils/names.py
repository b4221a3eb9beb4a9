"""Names: spelling, suggestions and uniqueness."""

import difflib
import re
from collections.abc import Iterable


def snake_case(name: str) -> str:
    """Turn a class name into a variable name.

    >>> snake_case("MeanSquaredError"), snake_case("AUC"), snake_case("R2Score")
    ('mean_squared_error', 'auc', 'r2_score')
    """
    name = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a sentence with the nearest known names, or with all of them if none is near.

    >>> did_you_mean("adm", ["adam", "sgd"])
    "Did you mean 'adam'?"
    """
    known = list(known)
    lowered = {candidate.lower(): candidate for candidate in known}
    near = [lowered[match] for match in difflib.get_close_matches(str(name).lower(), lowered, n=3)]
    if near:
        return f"Did you mean {' or '.join(repr(candidate) for candidate in near)}?"
    return f"Known names: {', '.join(sorted(known))}."


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
