"""Layers that depend on all rows of a batch, while several processes have some of them each: BatchNorm and dropout."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from torchfit._distribution.process_group import ProcessGroup

Function = Callable[..., Tensor]


@dataclass
class OwnRows:
    """The rows of this process in the batch that is trained on.

    Attributes:
        first: The position of the first one in the whole batch.
        rows: How many count; if none, there is one that another process counts.
        total: How many the whole batch has.
        weight: By which the loss of this process is still to be multiplied, to be a part of that of all.
        is_whole: Whether the module is called with all rows of this process at once.
        counts: Whether a number for a batch, such as its loss, counts in metrics by the share of the rows.
        are_scalars_weighted: Whether metrics take that into account.
    """

    first: int = 0
    rows: int = 1
    total: int = 1
    weight: float = 1.0
    is_whole: bool = False
    counts: bool = False
    are_scalars_weighted: bool = False

    @property
    def size(self) -> int:
        """How many rows the module is called with."""
        return max(self.rows, 1)

    def take(self, first: int, rows: int, total: int) -> None:
        """Take these rows of a batch."""
        self.first, self.rows, self.total = first, rows, total


@contextmanager
def whole_batches(own: OwnRows, processes: ProcessGroup) -> Iterator[None]:
    """Let functions that depend on all rows of a batch see those of all processes, where a module calls them.

    They are replaced where modules look them up, in `torch.nn.functional` and `torch`, and do what they always do
    unless a batch is trained on. The modules themselves are not changed.
    """
    options = processes.options
    replaced: list[tuple[ModuleType, str, Callable[..., Tensor]]] = []
    if options.batch_norm == "global":
        normalize = _bound(_batch_norm, functional.batch_norm, own, processes)
        replaced.append((functional, "batch_norm", normalize))
    if options.randomness == "global":
        for owner, names, draw in _DRAWING:
            replaced += [(owner, name, _bound(draw, getattr(owner, name), own)) for name in names]
    originals = [(owner, name, getattr(owner, name)) for owner, name, _ in replaced]
    for owner, name, function in replaced:
        setattr(owner, name, function)
    try:
        yield
    finally:
        for owner, name, function in originals:
            setattr(owner, name, function)


def _bound(replacement: Function, function: Function, *first: object) -> Function:
    """Return a function in place of another one; the compiler of torch asks for its name."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Tensor:
        return replacement(function, *first, *args, **kwargs)

    return call


def _batch_norm(
    function: Callable[..., Tensor],
    own: OwnRows,
    processes: ProcessGroup,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalize by the mean and the variance over the rows of all processes, in training."""
    if not training or not own.is_whole or not _has_own_rows(own, input):
        return function(input, running_mean, running_var, weight, bias, training, momentum, eps)
    per_row = input.numel() // input.shape[1] // own.size
    count = own.total * per_row
    if count <= 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {tuple(input.shape)}")
    scope = Scope(float(count), float(own.rows > 0), own.weight, processes)
    output, mean, variance = _GlobalBatchNorm.apply(  # type: ignore[no-untyped-call]
        input, weight, bias, eps, scope
    )
    with torch.no_grad():
        if running_mean is not None:
            running_mean.mul_(1 - momentum).add_(mean.to(running_mean.dtype), alpha=momentum)
        if running_var is not None:
            unbiased = variance * (count / (count - 1))
            running_var.mul_(1 - momentum).add_(unbiased.to(running_var.dtype), alpha=momentum)
    return output  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Scope:
    """What a normalization takes into account.

    Attributes:
        count: How many values each channel has in all processes.
        counts: 1.0, or 0.0 if the rows of this process do not count.
        loss_weight: By which the gradients of this process are still to be multiplied.
        processes: The processes.
    """

    count: float
    counts: float
    loss_weight: float
    processes: ProcessGroup


class _GlobalBatchNorm(torch.autograd.Function):
    """Normalization by the mean and variance over the rows of all processes."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        scope: Scope,
    ) -> tuple[Tensor, Tensor, Tensor]:
        dtype = torch.promote_types(input.dtype, torch.float32)
        values = input.to(dtype)
        axes = [0, *range(2, input.ndim)]
        mean = scope.processes.sum(values.sum(axes) * scope.counts) / scope.count
        centered = values - _by_channel(mean, values)
        variance = scope.processes.sum(centered.square().sum(axes) * scope.counts) / scope.count
        scale = torch.rsqrt(variance + eps)
        normalized = centered * _by_channel(scale, values)
        ctx.save_for_backward(normalized, weight, scale)
        ctx.scope, ctx.axes, ctx.dtype, ctx.has_bias = scope, axes, input.dtype, bias is not None
        ctx.mark_non_differentiable(mean, variance)
        output = normalized if weight is None else normalized * _by_channel(weight.to(dtype), values)
        output = output if bias is None else output + _by_channel(bias.to(dtype), values)
        return output.to(input.dtype), mean, variance

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Any, ...]:
        normalized, weight, scale = ctx.saved_tensors
        gradient = gradient.to(normalized.dtype)
        own = torch.stack([gradient.sum(ctx.axes), (gradient * normalized).sum(ctx.axes)])
        # The losses of the processes may still have to be weighted: what they exchange is, what they return is not.
        scope = ctx.scope
        share = scope.counts * scope.loss_weight
        sums = scope.processes.sum(own * share) / (share or 1.0)
        towards_input = gradient if weight is None else gradient * _by_channel(weight.to(gradient.dtype), gradient)
        factor = 1.0 if weight is None else weight.to(gradient.dtype)
        mean_gradient, mean_product = sums[0] * factor / scope.count, sums[1] * factor / scope.count
        input_gradient = towards_input - _by_channel(mean_gradient, gradient)
        input_gradient = input_gradient - normalized * _by_channel(mean_product, gradient)
        input_gradient = (input_gradient * _by_channel(scale, gradient)).to(ctx.dtype)
        to_weight = None if weight is None else own[1].to(weight.dtype)
        to_bias = own[0].to(gradient.dtype if weight is None else weight.dtype) if ctx.has_bias else None
        return input_gradient, to_weight, to_bias, None, None


def _by_channel(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(1, -1, *[1] * (like.ndim - 2))


def _drop(
    function: Callable[..., Tensor],
    own: OwnRows,
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
) -> Tensor:
    """Drop elements with a mask for the whole batch, of which the own rows are applied."""
    if not training or not p or not own.is_whole or not _has_own_rows(own, input):
        return function(input, p, training, inplace)
    mask = _own_part(own, function(_whole(own, input).fill_(1), p, True))
    return input.mul_(mask) if inplace else input * mask


def _drop_channels(
    function: Callable[..., Tensor],
    own: OwnRows,
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
) -> Tensor:
    """Drop whole channels with a mask for the whole batch."""
    if not training or not p or not own.is_whole or input.ndim < 3 or not _has_own_rows(own, input):
        return function(input, p, training, inplace)
    ones = torch.ones((len(input) // own.size * own.total, *input.shape[1:]), dtype=input.dtype, device=input.device)
    mask = _own_part(own, function(ones, p, True))
    return input.mul_(mask) if inplace else input * mask


def _draw_like(function: Callable[..., Tensor], own: OwnRows, input: Tensor, *args: object, **kwargs: object) -> Tensor:
    """Draw numbers like a tensor with entries for each row."""
    if not own.is_whole or not _has_own_rows(own, input):
        return function(input, *args, **kwargs)
    return _own_part(own, function(_whole(own, input), *args, **kwargs))


def _draw_bernoulli(
    function: Callable[..., Tensor], own: OwnRows, input: Tensor, *args: object, **kwargs: object
) -> Tensor:
    """Draw zeros and ones, with a probability for each of the own rows."""
    if args or kwargs or not own.is_whole or not _has_own_rows(own, input):
        return function(input, *args, **kwargs)
    probabilities = _whole(own, input).zero_()
    _own_part(own, probabilities).copy_(input)
    return _own_part(own, function(probabilities))


def _draw_shape(function: Callable[..., Tensor], own: OwnRows, *size: Any, **kwargs: object) -> Tensor:
    """Draw numbers of a shape whose first axis is that of the rows."""
    if not own.is_whole or "size" in kwargs or not size:
        return function(*size, **kwargs)
    first, *others = size[0] if len(size) == 1 and not isinstance(size[0], int) else size
    if not first or first % own.size:
        return function(first, *others, **kwargs)
    return _own_part(own, function(first // own.size * own.total, *others, **kwargs))


def _has_own_rows(own: OwnRows, input: Tensor) -> bool:
    """Return whether the first axis of a tensor is that of the rows, or of steps of each row."""
    return input.ndim > 0 and len(input) > 0 and len(input) % own.size == 0


def _whole(own: OwnRows, input: Tensor) -> Tensor:
    """Return memory for all rows, laid out like a tensor: generators fill it in that order."""
    shape = (len(input) // own.size * own.total, *input.shape[1:])
    order = sorted(range(input.ndim), key=input.stride, reverse=True)
    laid_out = torch.empty([shape[axis] for axis in order], dtype=input.dtype, device=input.device)
    return laid_out.permute([order.index(axis) for axis in range(input.ndim)])


def _own_part(own: OwnRows, whole: Tensor) -> Tensor:
    per_row = len(whole) // own.total
    return whole[own.first * per_row : (own.first + own.size) * per_row]


_DRAWING: list[tuple[ModuleType, tuple[str, ...], Callable[..., Tensor]]] = [
    (functional, ("dropout",), _drop),
    (functional, ("dropout1d", "dropout2d", "dropout3d"), _drop_channels),
    (torch, ("rand_like", "randn_like"), _draw_like),
    (torch, ("bernoulli",), _draw_bernoulli),
    (torch, ("rand", "randn"), _draw_shape),
]
"""Functions that draw a random number for each row, and what they are replaced with."""
