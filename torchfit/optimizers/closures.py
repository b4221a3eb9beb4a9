"""Closures: functions that compute a loss and its gradients, for optimizers that evaluate the loss themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from torchfit._utils.compat import version_of

Version: TypeAlias = "tuple[int, int, int]"


class ReusableClosure:
    """A closure for a batch whose loss was evaluated already.

    The first call returns that loss if parameters and gradients are still those that it was evaluated with. A training
    step that logs the loss and then calls `optimizer.step(closure)` so evaluates it as often as a loop that does the
    latter alone.

    Args:
        closure: clears the gradients, computes the loss and its gradients, and returns the loss.
        parameters: what the loss depends on.
        loss: the loss that was evaluated, a scalar. Its gradients are in the parameters.

    >>> weight = torch.nn.Parameter(torch.ones(1))
    >>> calls = []
    >>> def closure():
    ...     weight.grad = None
    ...     loss = weight.square().sum()
    ...     loss.backward()
    ...     calls.append(loss.item())
    ...     return loss
    >>> loss = closure()
    >>> reusable = ReusableClosure(closure, [weight], loss)
    >>> reusable() is loss, len(calls)
    (True, 1)
    >>> reusable() is loss, len(calls)
    (False, 2)
    """

    def __init__(self, closure: Callable[[], Tensor], parameters: Sequence[Tensor], loss: Tensor) -> None:
        self._closure = closure
        self._parameters = list(parameters)
        self._loss: Tensor | None = loss
        self._versions = self._current_versions()

    def __call__(self) -> Tensor:
        """Return the loss, and leave its gradients in the parameters."""
        loss, self._loss = self._loss, None
        if loss is not None and self._versions == self._current_versions():
            return loss
        with torch.enable_grad():
            return self._closure()

    def _current_versions(self) -> list[Version]:
        """Return what changes whenever a parameter or its gradient is written to or replaced."""
        return [_version(parameter) for parameter in self._parameters]


def _version(parameter: Tensor) -> Version:
    gradient = parameter.grad
    return (
        (version_of(parameter), 0, 0)
        if gradient is None
        else (version_of(parameter), id(gradient), version_of(gradient))
    )
