"""Microbatches: one batch in several passes, for the same gradients and update with less memory."""

import math
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from torchfit._trainer.loss_tracking import LossTerm, LossTerms
from torchfit._utils import tree
from torchfit._utils.batch import Batch
from torchfit._utils.console import logger
from torchfit._utils.errors import describe
from torchfit.optimizers.identifiers import AnyOptimizer


class MicrobatchSplitter:
    """Splits batches into parts that go through the module one after the other.

    Args:
        size: The number of rows of a part, or "auto": whole batches until memory runs out, then half as many rows,
            and so on.

    Raises:
        ValueError: If `size` is neither a positive integer nor "auto".
    """

    def __init__(self, size: int | str) -> None:
        is_number = isinstance(size, int) and not isinstance(size, bool) and size > 0
        if not is_number and size != "auto":
            raise ValueError(f"`microbatch` must be a positive integer or 'auto', but it is {describe(size)}.")
        self._adapts = size == "auto"
        self._size: float = math.inf if isinstance(size, str) else size

    def split(self, batch: Batch) -> Iterator[tuple[Batch, float]]:
        """Yield the parts of a batch, each with its share of the samples."""
        rows = _count_rows(batch)
        if rows <= self._size:
            yield batch, 1.0
            return
        size = int(self._size)
        unflatten = tree.unflattener(tuple(batch))
        for leaves in zip(*(torch.split(leaf, size) for leaf in tree.leaves(batch))):
            yield Batch(*unflatten(leaves)), len(leaves[0]) / rows

    def halve_after_oom(self, batch: Batch, error: BaseException) -> None:
        """Halve the size and log it if `error` says that memory ran out; else raise `error`."""
        rows = _count_rows(batch)
        if not (self._adapts and is_out_of_memory(error)) or min(rows, self._size) <= 1:
            raise error
        self._size = math.ceil(min(rows, self._size) / 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        logger.warning(
            "microbatch: memory ran out; batches of %d now go through the module %d rows at a time, with the same "
            "gradients and updates.",
            rows,
            self._size,
        )


def _count_rows(batch: Batch) -> int:
    """Return the number of rows that all tensors of a batch have.

    Raises:
        ValueError: If the parts of the batch are not tensors with the same number of rows.
    """
    sizes = {leaf.shape[0] if isinstance(leaf, Tensor) and leaf.ndim else None for leaf in tree.leaves(batch)}
    if None in sizes or len(sizes) != 1:
        raise ValueError(
            f"`microbatch` splits batches whose parts are tensors of the same number of rows. Received: "
            f"{[describe(leaf) for leaf in tree.leaves(batch)]}. Leave `microbatch` out for such batches."
        )
    (rows,) = sizes
    return int(rows or 0)


class WholeBatchGradients:
    """Accumulates the gradients of the parts of a batch, so that the update is that of the whole.

    Where the denominator of a loss follows from shapes, a part counts by its share of the rows. Where it depends on
    the data (ignored labels, masks, weights), the gradients of totals are divided by the denominator of the whole.

    Args:
        optimizer: The optimizer, which holds the parameters and scales the loss.
    """

    def __init__(self, optimizer: AnyOptimizer) -> None:
        self._optimizer = optimizer
        self._parameters = optimizer.parameters
        self._totals: dict[str, tuple[list[Tensor | None], Tensor]] = {}

    def add(self, loss: Tensor, losses: LossTerms, share: float) -> None:
        """Add the gradients of a part: of its loss, which is made of `losses` and perhaps more."""
        deferred = [term for term in losses.terms if isinstance(term.denominator, Tensor) and not term.is_sum]
        for term in deferred:
            self._add_total(term)
        if loss is losses.total and len(deferred) == len(losses.terms):
            return
        known = loss * share
        for term in losses.terms:
            if term.is_sum:
                known = known + term.value * (1.0 - share)
        for term in deferred:
            known = known - term.value * share
        scaled: Any = self._optimizer.scale_loss(known)
        scaled.backward()

    def _add_total(self, term: LossTerm) -> None:
        total = self._optimizer.scale_loss(term.value * term.denominator)
        new = torch.autograd.grad(total, self._parameters, retain_graph=True, allow_unused=True)
        denominator = torch.as_tensor(term.denominator).detach()
        if term.output in self._totals:
            gradients, sum_of_denominators = self._totals[term.output]
            gradients = [a if b is None else b if a is None else a + b for a, b in zip(gradients, new)]
            self._totals[term.output] = gradients, sum_of_denominators + denominator
        else:
            self._totals[term.output] = list(new), denominator

    def finish(self) -> None:
        """Write the gradients of the whole batch into `.grad` of the parameters."""
        for gradients, denominator in self._totals.values():
            factor = torch.where(denominator > 0, 1.0 / denominator, 0.0)
            for parameter, gradient in zip(self._parameters, gradients):
                if gradient is not None:
                    gradient = gradient * factor.to(gradient.dtype)
                    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


def warn_if_not_separable(losses: LossTerms) -> None:
    """Warn if a loss of a batch is not made of the losses of its parts."""
    names = [term.output for term in losses.terms if not term.is_separable]
    if names:
        warnings.warn(
            f"`microbatch`: the loss of {', '.join(map(repr, names))} is one number for a batch, not a sum over "
            "samples, so the update is the mean over the parts instead of that of the whole batch. Let the loss return "
            "one value per sample, or leave `microbatch` out.",
            stacklevel=2,
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out, on an accelerator or on the host."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "not enough memory" in str(error)


def detach(outputs: Any) -> Any:
    """Return outputs detached from the autograd graph."""
    return tree.map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, outputs)
