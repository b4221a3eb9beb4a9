"""Metric states set aside, so that an evaluation inside a training disturbs nothing."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


@contextmanager
def preserved(metrics: Sequence[Any]) -> Iterator[None]:
    """Copy the states of `metrics` out, and back in place afterwards."""
    states = [metric._snapshot() for metric in metrics]
    try:
        yield
    finally:
        for metric, state in zip(metrics, states):
            metric._restore(state)
