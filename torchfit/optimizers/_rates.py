"""Several learning rates that are set as one."""

from __future__ import annotations

from collections.abc import Sequence


def reference_rate(rates: Sequence[float]) -> float:
    """Return the rate that stands for all: the first one that is not 0.

    >>> reference_rate([0.0, 0.1, 0.2])
    0.1
    """
    return next((rate for rate in rates if rate), 0.0)


def scaled_rates(rates: Sequence[float], wanted: float, ratios: Sequence[float] | None = None) -> list[float]:
    """Return all rates times one factor, so that the reference becomes `wanted`. A rate of 0 stays 0.

    Where all rates are 0, `ratios` tell how they were related before.

    >>> scaled_rates([0.0, 0.1, 0.2], 0.05)
    [0.0, 0.05, 0.1]
    >>> scaled_rates([0.0, 0.0], 0.1, [1.0, 0.5])
    [0.1, 0.05]
    """
    reference = reference_rate(rates)
    if not reference:
        return [ratio * wanted for ratio in ratios or [1.0] * len(rates)]
    return [wanted if rate == reference else rate / reference * wanted for rate in rates]
