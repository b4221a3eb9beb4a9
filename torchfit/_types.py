"""Shared type aliases and protocols."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, TypeAlias

import numpy as np

Array: TypeAlias = "np.ndarray[Any, Any]"

Nested: TypeAlias = Any
"""A tensor `(batch, …)`, or lists, tuples, dictionaries, named tuples or dataclasses of such."""

StateDict: TypeAlias = dict[str, Any]
Results: TypeAlias = Mapping[str, Any]
"""What a step logs: tensors, numbers, or dictionaries of them, by name."""

StepFn: TypeAlias = Callable[[Any], Any]
"""Runs one step with a batch, or a group of steps with a list of batches, and returns logs or outputs."""

StepIterator: TypeAlias = Iterator[tuple[int, int, Any]]
"""What a loop iterates over: (index of the first batch, index of the last, one batch or a list of batches)."""


class Stateful(Protocol):
    """A component of a training run whose state is saved and restored."""

    def state_dict(self) -> Any:
        """Return the state, as tensors and plain data."""
        ...

    def load_state_dict(self, state: Any) -> None:
        """Restore what `state_dict` returned."""
        ...
