"""Closures: functions that compute a loss and its gradients, for optimizers that evaluate the loss themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from torchfit._utils.compat import version_of


class ReusableClosure:
    """A closure whose result is used once more where evaluating it again would only repeat it.

    A training step evaluates the loss to log it, then hands the closure to the optimizer, whose first call returns that
    result if parameters and gradients are still the ones it was evaluated with: as in a loop that calls
    `optimizer.step(closure)` alone, each evaluation happens once.

    Args:
        closure: clears the gradients, computes the loss and its gradients, and returns the loss.
        parameters: what the loss depends on.

    >>> weight = torch.nn.Parameter(torch.ones(1))
    >>> calls = []
    >>> def closure():
    ...     weight.grad = None
    ...     loss = weight.square().sum()
    ...     loss.backward()
    ...     calls.append(loss.item())
    ...     return loss
    >>> reusable = ReusableClosure(closure, [weight])
    >>> loss = reusable()
    >>> reusable() is loss, len(calls)
    (True, 1)
    >>> optimizer = torch.optim.LBFGS([weight], max_iter=2)
    >>> first = reusable(), optimizer.step(ReusableClosure(closure, [weight]))
    >>> len(calls) > 1
    True
    """

    def __init__(self, closure: Callable[[], Any], parameters: Sequence[Tensor]) -> None:
        self._closure = closure
        self._parameters = list(parameters)
        self._result: Any = None
        self._versions: list[Any] | None = None

    def __call__(self) -> Any:
        """Return the loss, and leave its gradients in the parameters."""
        if self._versions is not None and self._versions == self._current_versions():
            self._versions = None
            return self._result
        is_first = self._versions is None and self._result is None
        with torch.enable_grad():
            self._result = self._closure()
        self._versions = self._current_versions() if is_first else None
        return self._result

    def _current_versions(self) -> list[Any]:
        """Return what changes whenever a parameter or its gradient is written to or replaced."""
        return [
            (version_of(each), None if each.grad is None else (id(each.grad), version_of(each.grad)))
            for each in self._parameters
        ]
