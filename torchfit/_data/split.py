"""Setting apart the last samples for validation, before any shuffling."""

import math
from typing import Any

from torchfit._support import tree


def split_last(parts: tuple[Any, ...], fraction: float) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Split nests of tensors into the first `1 - fraction` of the rows and the rest, as views.

    Raises:
        ValueError: If `fraction` is not between 0 and 1, or one side would be empty.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"`validation_split` must lie between 0 and 1, but it is {fraction!r}.")
    samples = len(tree.leaves(parts)[0])
    boundary = math.floor(samples * (1 - fraction))
    if boundary in (0, samples):
        raise ValueError(
            f"`validation_split={fraction}` of {samples} samples leaves one side empty. Choose another fraction, "
            "or pass `validation_data`."
        )
    first = tuple(tree.map_leaves(lambda leaf: leaf[:boundary], part) for part in parts)
    last = tuple(tree.map_leaves(lambda leaf: leaf[boundary:], part) for part in parts)
    return first, last
