"""Checks and copies of an optimizer's state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from torchfit._utils.errors import describe


def restore_shared(shared: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Copy the saved tensors that belong to no single parameter, in place."""
    if set(shared) != set(saved):
        raise ValueError(
            f"The optimizer's state for all parameters holds {sorted(saved)}, and this optimizer needs "
            f"{sorted(shared)}. Load it into an optimizer of the same class and arguments."
        )
    with torch.no_grad():
        for name, target in shared.items():
            target.copy_(saved[name])


def require(state: object, keys: tuple[str, ...]) -> None:
    """Raise unless `state` is a dictionary with the keys of an optimizer's state."""
    if not isinstance(state, Mapping) or any(key not in state for key in keys):
        raise ValueError(
            f"`state` must be what `state_dict()` returned: a dictionary with the keys {list(keys)}. "
            f"Received: {describe(state)}."
        )


def to_numpy(variable: Tensor) -> np.ndarray:
    """Return a copy of a tensor as an array; bfloat16, which NumPy does not know, becomes float32."""
    host = variable.detach().cpu()
    copied: np.ndarray = np.array((host.float() if host.dtype == torch.bfloat16 else host).numpy())
    return copied


def check_weights(variables: Sequence[Tensor], weights: Sequence[object]) -> list[Tensor]:
    """Return weights as tensors, if there is one of the right shape for each variable.

    Raises:
        ValueError: there is not.
    """
    values = [torch.as_tensor(np.asarray(value) if not isinstance(value, Tensor) else value) for value in weights]
    if len(values) != len(variables):
        raise ValueError(
            f"`weights` must hold one array for each of the {len(variables)} `variables` of the optimizer (which has "
            f"its slots once it is built). Received: {len(values)} arrays."
        )
    for position, (variable, value) in enumerate(zip(variables, values)):
        if variable.shape != value.shape:
            raise ValueError(
                f"`weights[{position}]` must have the shape {tuple(variable.shape)} of `variables[{position}]`. "
                f"Received: {describe(value)}."
            )
    return values


def copy_weights(variables: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Copy values into variables, in place."""
    with torch.no_grad():
        for variable, value in zip(variables, values):
            variable.copy_(value)
