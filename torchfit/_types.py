"""Shared type aliases and protocols."""

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch

Array: TypeAlias = np.ndarray[Any, Any]

Nested: TypeAlias = Any
"""A tensor `(batch, …)`, or nested lists, tuples, dictionaries, named tuples or dataclasses of tensors."""

UserData: TypeAlias = Any
"""Data of any kind, as the user passed them or as the user's iterable yielded them."""

TensorLike: TypeAlias = Any
"""A tensor, a NumPy array, a number or a nested list of numbers."""

Config: TypeAlias = dict[str, Any]
"""The arguments of a constructor, as plain data."""

StateDict: TypeAlias = dict[str, Any]
Logs: TypeAlias = MutableMapping[str, Any]
"""What a callback may read and write: Python floats by name."""

Params: TypeAlias = Mapping[str, Any]
"""How a loop runs: `epochs`, `steps`, `verbose`, `metrics`."""

Results: TypeAlias = Mapping[str, Any]
"""What a step logs: tensors, numbers, or dictionaries of them, by name."""

StepFn: TypeAlias = Callable[[Any], Any]
"""Runs one step with a batch, or a group of steps with a list of batches, and returns logs or outputs."""

StepIterator: TypeAlias = Iterator[tuple[int, int, Any]]
"""What a loop iterates over: (index of the first batch, index of the last, one batch or a list of batches)."""


class HasComputeDtype(Protocol):
    """A precision policy."""

    @property
    def compute_dtype(self) -> "str | torch.dtype":
        """The dtype in which a module computes."""
        ...


DTypeLike: TypeAlias = "str | torch.dtype | HasComputeDtype | None"
"""A dtype, its name, or a policy that has one; `None` is float32."""


class RunState(Protocol):
    """The state of a run of `fit`, from which it can be resumed."""

    @property
    def is_resumable(self) -> bool:
        """Whether an epoch can be entered midway."""
        ...

    @property
    def is_mid_epoch(self) -> bool:
        """Whether the run starts in the middle of an epoch."""
        ...

    def state_dict(self, epoch: int, step: int, logs: Results) -> StateDict:
        """Return everything that the run depends on before step `step` of epoch `epoch`."""
        ...

    def state_of(self, component: str) -> object:
        """Return the state of one component, such as "callbacks"."""
        ...

    def load_state_dict(self, state: StateDict) -> None:
        """Resume from what `state_dict` returned."""
        ...


class Stateful(Protocol):
    """A component of a training run whose state is saved and restored."""

    def state_dict(self) -> Any:
        """Return the state, as tensors and plain data."""
        ...

    def load_state_dict(self, state: Any) -> None:
        """Restore what `state_dict` returned."""
        ...
