"""Closures: functions that compute a loss and its gradients, for optimizers that evaluate the loss themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor


class ClosureProbe:
    """The closure of a first step, which finds out what the optimizer does before it calls it.

    SAM and its kin move the parameters along gradients that are there already, and then call the closure. Others
    evaluate the loss first: they get the loss that was evaluated for the gradients, as if it had not been.

    Args:
        closure: clears the gradients, computes the loss and its gradients, and returns the loss.
        parameters: what the loss depends on.

    >>> weight = torch.nn.Parameter(torch.ones(1))
    >>> def closure():
    ...     weight.grad = None
    ...     loss = weight.square().sum()
    ...     loss.backward()
    ...     return loss
    >>> probe = ClosureProbe(closure, [weight])
    >>> with torch.no_grad():
    ...     _ = weight.add_(weight.grad)
    >>> probe().item(), probe.evaluates_itself
    (9.0, False)
    """

    def __init__(self, closure: Callable[[], Tensor], parameters: Sequence[Tensor]) -> None:
        self._closure, self._parameters = closure, parameters
        self._loss = closure()
        self._values = _copies(parameters)
        self._gradients = _copies(parameter.grad for parameter in parameters)
        self._moves_parameters: bool | None = None

    def __call__(self) -> Tensor:
        """Return the loss with its gradients, which are computed again unless they are those of these parameters."""
        if self._moves_parameters is None:
            self._moves_parameters = not _are_equal(self._values, self._parameters)
            gradients = _copies(parameter.grad for parameter in self._parameters)
            if not self._moves_parameters and _are_equal(self._gradients, gradients):
                return self._loss
        return self._closure()

    @property
    def evaluates_itself(self) -> bool | None:
        """Whether `step` needs no gradients before it calls its closure; `None` if there were none to move along."""
        has_gradient = any(gradient is not None and gradient.any() for gradient in self._gradients)
        return self._moves_parameters is False if has_gradient else None


def _copies(tensors: Iterable[Tensor | None]) -> list[Tensor | None]:
    """Return copies of tensors, dense ones of sparse gradients; there may be none in a place."""
    return [None if tensor is None else tensor.detach().clone().to_dense() for tensor in tensors]


def _are_equal(tensors: Iterable[Tensor | None], others: Iterable[Tensor | None]) -> bool:
    return all(
        one is other or (one is not None and other is not None and torch.equal(one, other))
        for one, other in zip(tensors, others)
    )
