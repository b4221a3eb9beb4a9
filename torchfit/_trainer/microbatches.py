"""Microbatches: gradients of parts of a batch that add up to those of the whole batch."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor

from torchfit._trainer.loss_tracking import LossTerm
from torchfit._trainer.output_matching import find_own_loss
from torchfit._trainer.steps import ForwardResult
from torchfit._utils import tree
from torchfit._utils.console import logger
from torchfit._utils.errors import describe, warn
from torchfit._utils.tree import Batch
from torchfit._utils.validation import is_integer
from torchfit.losses.base import Denominator
from torchfit.optimizers.base import Optimizer
from torchfit.optimizers.identifiers import AnyOptimizer

# Messages of torch's CPU allocator (Linux, Windows), and of cuBLAS, which has its own allocator.
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")


class MicrobatchSplitter:
    """Splits batches into parts that go through the module one after the other.

    Args:
        size: The number of rows of a part, or "auto": whole batches until memory runs out, then half as many rows, and
            so on.

    Raises:
        ValueError: If `size` is neither a positive integer nor "auto".
    """

    def __init__(self, size: int | str) -> None:
        self._adapts = isinstance(size, str) and size == "auto"
        if not self._adapts and not (is_integer(size) and size > 0):
            raise ValueError(f"`microbatch` must be a positive integer or 'auto', but it is {describe(size)}.")
        self._size = math.inf if self._adapts else float(size)

    def split(self, batch: Batch) -> Iterator[Batch]:
        """Yield the parts of a batch."""
        if _count_rows(batch) <= self._size:
            yield batch
            return
        size = int(self._size)
        unflatten = tree.unflattener(tuple(batch))
        for leaves in zip(*(torch.split(leaf, size) for leaf in tree.leaves(batch))):
            yield Batch(*unflatten(leaves))

    def halve_after_oom(self, batch: Batch, error: BaseException) -> None:
        """Halve the size and log it if `error` says that memory ran out; else raise `error`."""
        rows = _count_rows(batch)
        if not (self._adapts and is_out_of_memory(error)) or min(rows, self._size) <= 1:
            raise error
        self._size = math.ceil(min(rows, self._size) / 2)
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


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out, on an accelerator or on the host."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY)


def release_cached_memory() -> None:
    """Return cached memory of torch's allocator to the device; call it after the tensors are freed."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


Gradients = list[Tensor | None]

GradientsByGroup = Mapping[int, tuple[Gradients, Denominator | None]]
"""The gradients of each group of losses, and what they were divided by."""


class LossPart(NamedTuple):
    """A part of a loss; its total is `value * denominator`.

    Attributes:
        value: A scalar.
        denominator: The divisor of its total; `None` for a sum, whose totals are summed without division.
        group: Parts of different batches with the same group are summed.
    """

    value: Tensor
    denominator: Denominator | None
    group: int


class LossSplitter:
    """Splits the loss of a batch into parts with different denominators.

    Group 0 is the loss of a single output, or everything that is averaged over samples: outputs with one value per
    sample, and added losses. Every other output is a group of its own.
    """

    def __init__(self) -> None:
        self._groups: dict[str, int] = {}

    def split(self, result: ForwardResult) -> list[LossPart]:
        """Return the parts of the loss."""
        terms, total = result.losses
        if len(terms) == 1 and result.loss is total:
            return [LossPart(result.loss, None if terms[0].is_sum else terms[0].denominator, 0)]
        rows = result.rows
        own = [term for term in terms if term.output in self._groups or _has_own_denominator(term, rows)]
        parts = [
            LossPart(term.value, None if term.is_sum else term.denominator, self._group_of(term.output)) for term in own
        ]
        if result.loss is total and len(own) == len(terms):
            return parts
        rest = result.loss
        for term in own:
            rest = rest - term.value
        return [LossPart(rest, float(rows), 0), *parts]

    def _group_of(self, output: str) -> int:
        return self._groups.setdefault(output, len(self._groups) + 1)


def _has_own_denominator(term: LossTerm, rows: int) -> bool:
    return term.is_sum or isinstance(term.denominator, Tensor) or term.denominator != rows


class PartialGradients:
    """Sums the gradients of the parts of one batch.

    Args:
        optimizer: The optimizer, which holds the parameters and scales the loss.
    """

    def __init__(self, optimizer: AnyOptimizer) -> None:
        self._optimizer = optimizer
        self._sums: dict[int, tuple[Gradients, Denominator | None]] = {}
        self._losses: dict[int, tuple[Gradients, Denominator | None]] = {}

    def add(self, parts: list[LossPart]) -> None:
        """Add the gradients of the loss of a part of the batch."""
        for number, part in enumerate(parts):
            keep_graph = number + 1 < len(parts)
            gradients = compute_gradients(self._optimizer, part.value, keep_graph)
            self._sums[part.group] = _add(self._sums.get(part.group), gradients, part.denominator)
            if self._optimizer.accepts_closure:
                losses: Gradients = [part.value.detach()]
                self._losses[part.group] = _add(self._losses.get(part.group), losses, part.denominator)

    def finish(self) -> None:
        """Make the update with the gradients of the whole batch, or accumulate them for a later one."""
        if self._sums:
            update(self._optimizer, self._sums, *(sum_groups(self._losses) if self._losses else ()))


def update(optimizer: AnyOptimizer, gradients: GradientsByGroup, loss: Tensor | None = None) -> None:
    """Make an update with the gradients of each group, or accumulate them for a later one.

    Args:
        optimizer: The optimizer.
        gradients: The gradients.
        loss: The loss, for an optimizer that accepts a closure.
    """
    if optimizer.gradient_accumulation_steps is None or optimizer.steps_each_batch:
        set_gradients(optimizer, gradients)
        denominators = [denominator for _, denominator in gradients.values()]
        step_evaluated(optimizer, loss, num_samples=denominators[0] if len(denominators) == 1 else 1.0)
    else:
        accumulate(optimizer, gradients)
        optimizer.end_accumulation_step()


def refuse_to_evaluate() -> NoReturn:
    """Raise an error for an optimizer that evaluates the loss of a batch that is split."""
    raise ValueError(
        "`microbatch` splits the batches, but this optimizer evaluates the loss of whole batches itself, by a closure. "
        "Leave `microbatch` out of `compile`, or choose another optimizer."
    )


def step_evaluated(
    optimizer: AnyOptimizer,
    loss: Tensor | None,
    evaluate_again: Callable[[], Tensor] = refuse_to_evaluate,
    num_samples: Denominator | None = 1.0,
) -> None:
    """Make a step with the gradients in `grad`.

    Args:
        optimizer: The optimizer.
        loss: The loss that they are those of, for an optimizer that accepts a closure.
        evaluate_again: Computes the loss and its gradients for such an optimizer, after it has moved the parameters.
        num_samples: What the gradients were divided by.

    Raises:
        ValueError: If it does that, and there is no `evaluate_again`.
    """
    if optimizer.accepts_closure:
        known = [] if loss is None else [loss]
        optimizer.step(closure=lambda: known.pop() if known else evaluate_again())
    else:
        optimizer.step(num_samples)


def accumulate(optimizer: Optimizer, gradients: GradientsByGroup) -> None:
    """Accumulate the gradients of each group."""
    for group, (of_group, denominator) in gradients.items():
        optimizer.accumulate(of_group, denominator, group)


def set_gradients(optimizer: AnyOptimizer, gradients: GradientsByGroup) -> None:
    """Set `grad` of all parameters to the sum of the gradients of all groups."""
    optimizer.zero_grad()
    for parameter, gradient in zip(optimizer.parameters, sum_groups(gradients)):
        parameter.grad = gradient


def sum_groups(gradients: GradientsByGroup) -> Gradients:
    """Return the sums of the gradients of all groups; `None` for parameters that no group has a gradient of."""
    first, *others = [of_group for of_group, _ in gradients.values()]
    for other in others:
        first = [a if b is None else b if a is None else a + b for a, b in zip(first, other)]
    return first


def compute_gradients(optimizer: AnyOptimizer, loss: Tensor, keep_graph: bool = False) -> Gradients:
    """Return the gradients of a loss with respect to the parameters of the optimizer, `None` for unused parameters.

    Parameters that were frozen since the beginning of the epoch count as unused.
    """
    parameters, scaled = optimizer.parameters, optimizer.scale_loss(loss)
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    found = iter(torch.autograd.grad(scaled, trained, retain_graph=keep_graph, allow_unused=True) if trained else ())
    return [next(found) if parameter.requires_grad else None for parameter in parameters]


def _add(
    known: tuple[Gradients, Denominator | None] | None, gradients: Gradients, denominator: Denominator | None
) -> tuple[Gradients, Denominator | None]:
    """Return the gradients of the sum of two totals over the sum of their denominators, with that sum."""
    if known is None:
        return gradients, denominator
    others, other = known
    if denominator is None or other is None:
        return [_sum(a, b, 1.0, 1.0) for a, b in zip(others, gradients)], None
    total = other + denominator
    first, second = _share(other, total), _share(denominator, total)
    return [_sum(a, b, first, second) for a, b in zip(others, gradients)], total


def _share(denominator: Denominator, total: Denominator) -> Denominator:
    if isinstance(total, Tensor):
        return torch.where(total == 0, 0.0, denominator / total)
    return denominator / total if total else 0.0


def _sum(a: Tensor | None, b: Tensor | None, first: Denominator, second: Denominator) -> Tensor | None:
    if a is None:
        return None if b is None else b.mul(second)
    return a.mul(first) if b is None else a.mul(first).add(b.mul(second)).to(a.dtype)


def warn_if_not_separable(argument: str, result: ForwardResult) -> None:
    """Warn if a loss is not the combination of the losses of its parts, so that updates would differ."""
    names = [term.output for term in result.losses.terms if not term.is_separable]
    if names:
        warn(
            f"`{argument}`: the loss of {', '.join(map(repr, names))} is one number for a batch, not a sum over "
            "samples, so the update is the mean over the parts instead of that of the whole. Let the loss return one "
            f"value per sample, or leave `{argument}` out."
        )
    if not result.losses.terms and find_own_loss(result.outputs) is not None:
        warn(
            f"`{argument}`: the loss that the module returns is one number for a batch, which is taken for a mean over "
            "samples. Where it leaves out labels, such as those of padding, the update is not that of the whole. Pass "
            f"`loss=` to `compile`, or leave `{argument}` out."
        )
