"""The parameters that an optimizer is bound to: their order, names and identity."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from torchfit._utils.errors import describe

_WANTED = "parameters (such as module.parameters()) or (name, parameter) pairs (such as module.named_parameters())"


class Parameters:
    """Trainable parameters in order, each once, with their names ("0", "1", … if they came without)."""

    def __init__(self, parameters: Iterable[Any]):
        entries = [_entry(entry) for entry in _iterate(parameters)]
        self.named = bool(entries) and all(name is not None for name, _ in entries)
        unique = {id(tensor): (name, tensor) for name, tensor in reversed(entries) if tensor.requires_grad}
        kept = list(reversed(unique.values()))
        self.tensors = [_leaf(tensor) for _, tensor in kept]
        self.names = [name or str(position) for position, (name, _) in enumerate(kept)]
        self._warned = False
        self._positions = {id(tensor): position for position, tensor in enumerate(self.tensors)}

    def check_known(self, tensors: Iterable[Tensor]) -> None:
        """Raise if one of the tensors does not belong here."""
        for tensor in tensors:
            if id(tensor) not in self._positions:
                raise ValueError(
                    f"Unknown parameter: {describe(tensor)}. An optimizer works for the parameters that it was "
                    "built with only. Create a new one for a new set of parameters."
                )

    def cast_gradients(self, gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Return gradients in the dtype and on the device of their parameters, one for each."""
        gradients = list(gradients)
        if len(gradients) != len(self.tensors):
            raise ValueError(
                f"`grads` must hold one entry for each of the {len(self.tensors)} parameters that the optimizer "
                f"was built with, in their order. Received: {len(gradients)} gradients."
            )
        return [_fit(gradient, tensor) for gradient, tensor in zip(gradients, self.tensors)]

    def reorder(self, gradients: Sequence[Tensor | None], parameters: Iterable[Any]) -> list[Tensor | None]:
        """Bring the gradients of some parameters into the order kept here; the others get `None`."""
        given = {id(_entry(entry)[1]): gradient for entry, gradient in zip(parameters, gradients)}
        return [given.get(id(tensor)) for tensor in self.tensors]

    def require_names(self, argument: str) -> list[str]:
        """Return the names, or raise if the parameters came without."""
        if not self.named:
            raise ValueError(
                f"`{argument}` needs the parameters' names. Build the optimizer with (name, parameter) pairs: "
                "optimizer.build(module.named_parameters())."
            )
        return self.names

    def select(self, listed: Iterable[Tensor], patterns: list[str]) -> list[bool]:
        """Return for each parameter whether it is listed or a pattern occurs in its name."""
        names = self.require_names("var_names") if patterns else self.names
        chosen = {id(parameter) for parameter in listed}
        return [
            id(tensor) in chosen or any(re.search(pattern, name) for pattern in patterns)
            for name, tensor in zip(names, self.tensors)
        ]

    def warn_missing_gradients(self, present: list[int]) -> None:
        """Warn once about parameters without a gradient that are not frozen, and raise if no one has any."""
        if not present:
            raise ValueError(
                "No gradients provided for any parameter. Call loss.backward() first, and check that the loss "
                "depends on the parameters."
            )
        absent = set(range(len(self.tensors))) - set(present)
        missing = [self.names[position] for position in sorted(absent) if self.tensors[position].requires_grad]
        if missing and not self._warned:
            self._warned = True
            warnings.warn(
                f"There is no gradient for the parameters {missing}: they stay as they are. Does the loss depend "
                "on them? Freeze them with requires_grad_(False) if they are meant to stay.",
                stacklevel=2,
            )


def _iterate(parameters: Any) -> list[Any]:
    if isinstance(parameters, Tensor) or not isinstance(parameters, Iterable):
        raise TypeError(f"`parameters` must be an iterable of {_WANTED}. Received: {describe(parameters)}.")
    return list(parameters)


def _entry(entry: Any) -> tuple[str | None, Tensor]:
    """Return (name, parameter) for a parameter with or without a name."""
    if isinstance(entry, Tensor):
        return None, entry
    if isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[1], Tensor):
        return str(entry[0]), entry[1]
    raise TypeError(f"`parameters` must hold {_WANTED}. Received among them: {describe(entry)}.")


def _leaf(tensor: Tensor) -> Tensor:
    if not tensor.is_leaf:
        raise ValueError(
            f"`parameters` must be leaf tensors, not results of calculations. Received: {describe(tensor)}. "
            "Wrap the value: torch.nn.Parameter(value.detach())."
        )
    return tensor


def _fit(gradient: Tensor | None, tensor: Tensor) -> Tensor | None:
    if gradient is None:
        return None
    if gradient.shape != tensor.shape:
        raise ValueError(
            f"A gradient must have the shape of its parameter, {tuple(tensor.shape)}. Received: {describe(gradient)}."
        )
    return gradient.to(device=tensor.device, dtype=tensor.dtype)
