"""The loss over an epoch, for every output and for added losses: the sum of totals over the sum of denominators."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from torchfit._types import TensorLike
from torchfit._utils.tensors import sum_dtype
from torchfit.losses.base import Denominator, zero_if_empty
from torchfit.metrics.base import SUM_DTYPE, Metric, Variable
from torchfit.metrics.reductions import Mean

_WINDOW = 64


class LossTerm(NamedTuple):
    """The loss of one output for one batch: `value * denominator` is its total.

    Attributes:
        output: The name of the output.
        value: The loss times its loss weight, a scalar.
        denominator: What its total was divided by.
        is_sum: Whether totals are summed without division.
        is_separable: Whether the total of a batch is the sum of the totals of its parts.
    """

    output: str
    value: Tensor
    denominator: Denominator
    is_sum: bool
    is_separable: bool


class LossTerms(NamedTuple):
    """The losses of all outputs for one batch, and their sum."""

    terms: Sequence[LossTerm] = ()
    total: Tensor | None = None

    def detached(self) -> "LossTerms":
        """Return the same without the autograd graph."""
        if self.total is None:
            return self
        return LossTerms([term._replace(value=term.value.detach()) for term in self.terms], self.total.detach())


NO_LOSSES = LossTerms()


class BatchLoss(Protocol):
    """The loss of a batch, the losses of the outputs that make it up, and the number of samples."""

    @property
    def loss(self) -> Tensor:
        """The loss that was minimized, a scalar."""
        ...

    @property
    def losses(self) -> LossTerms:
        """The losses of the outputs."""
        ...

    @property
    def rows(self) -> int:
        """The number of samples."""
        ...


class _Window:
    """A buffer for the losses of the last batches and their denominators, until they are summed.

    Storing a loss is a single operation and does not keep the batch in memory.

    Attributes:
        places: Scalars, one for each loss.
        denominators: What the totals of the losses so far were divided by.
        dtype: The dtype of the last loss.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self._losses = torch.zeros(_WINDOW, dtype=sum_dtype(device), device=device)
        self.places = self._losses.unbind()
        self.denominators: list[Denominator] = []
        self.dtype = torch.float32

    def store(self, losses: Sequence[Tensor], denominators: Sequence[Denominator]) -> None:
        """Store the losses of several batches, for which there must be places."""
        first = len(self.denominators)
        self._losses[first : first + len(losses)].copy_(torch.stack(list(losses)))
        self.denominators += denominators
        self.dtype = losses[0].dtype

    def take_sums(self) -> tuple[Tensor, Denominator] | None:
        """Return the sums of the totals and of the denominators, and start over; `None` if there are none."""
        if not self.denominators:
            return None
        losses, numbers = self._losses[: len(self.denominators)], self.denominators
        if len(numbers) == 1:
            number = numbers.pop()
            number = number.to(losses) if isinstance(number, Tensor) else number
            return zero_if_empty(losses[0], number) * number, number
        tensors = [number for number in numbers if isinstance(number, Tensor)]
        if not tensors:
            denominators = torch.tensor(numbers, dtype=losses.dtype).to(losses.device, non_blocking=True)
        elif len(tensors) == len(numbers) and len({tensor.dtype for tensor in tensors}) == 1:
            denominators = torch.stack(tensors).to(losses)
        else:
            denominators = torch.stack([_scalar_like(losses, number) for number in numbers])
        numbers.clear()
        return zero_if_empty(losses, denominators).dot(denominators), denominators.sum()


def _scalar_like(tensor: Tensor, number: Denominator) -> Tensor:
    """Return a scalar created on the device of a tensor: a copy from the host would synchronize."""
    return number.to(tensor) if isinstance(number, Tensor) else tensor.new_full((), number)


class LossMean(Metric):
    """The mean of the losses of batches: the sum of their totals over the sum of their denominators.

    The sums are kept in float64, in which totals of float32 losses are summed without rounding, so that the result does
    not depend on when they are summed. That happens after 64 batches, or when the state is read.

    Args:
        weight: The weight of the loss in that of the model.
        is_sum: Whether totals are summed without division.
    """

    def __init__(self, weight: float = 1.0, is_sum: bool = False) -> None:
        super().__init__(name="loss")
        self.weight, self.is_sum = weight, is_sum
        self._window = _Window()
        self._total = self.add_weight(name="total", dtype=SUM_DTYPE)
        self._count = self.add_weight(name="count", dtype=SUM_DTYPE)

    def add(self, loss: Tensor, denominator: Denominator) -> None:
        """Add the loss of a batch, a scalar without gradient, and what its total was divided by."""
        if torch.compiler.is_compiling():
            self._total.add_(zero_if_empty(loss, denominator).to(self._total.dtype) * denominator)
            self._count.add_(denominator)
            return
        window = self._window
        window.places[len(window.denominators)].copy_(loss)
        window.denominators.append(denominator)
        window.dtype = loss.dtype
        if len(window.denominators) == _WINDOW:
            self._add_up()

    def add_all(self, losses: Sequence[Tensor], denominators: Sequence[Denominator]) -> None:
        """Add the losses of several batches: the same as `add` for each, with fewer operations."""
        while losses:
            free = _WINDOW - len(self._window.denominators)
            self._window.store(losses[:free], denominators[:free])
            if len(self._window.denominators) == _WINDOW:
                self._add_up()
            losses, denominators = losses[free:], denominators[free:]

    def update_state(self, values: TensorLike, sample_weight: TensorLike = None) -> None:
        """Add a loss from a custom `train_step`: values and weights as those of `torchfit.metrics.Mean`."""
        if sample_weight is None and isinstance(values, Tensor) and not values.ndim:
            self.add(values.detach(), 1.0)
            return
        mean = Mean().to(self._total.device)
        mean.update_state(values, sample_weight)
        self.add(mean.result(), mean.count.clone())

    def reset_state(self) -> None:
        """Set the sums back to 0."""
        self._window.denominators.clear()
        self._total.zero_()
        self._count.zero_()

    def result(self) -> Tensor:
        """Return the mean, or the sum, a scalar; 0 before the first batch."""
        if self._has_one_batch:
            return self._window.places[0].to(self._result_dtype, copy=True)
        self._add_up()
        total, count = self._total, self._count
        return (total.clone() if self.is_sum else total / torch.where(count == 0, 1.0, count)).to(self._result_dtype)

    @property
    def _result_dtype(self) -> torch.dtype:
        return torch.float64 if self._window.dtype is torch.float64 else self._dtype

    @property
    def _has_one_batch(self) -> bool:
        """Whether the mean is the loss of a single batch, as far as this is known without waiting for a device."""
        denominators, count = self._window.denominators, self._count
        is_single = len(denominators) == 1 and not self.is_sum and count.device.type == "cpu"
        return is_single and not count and bool(denominators[0])

    def _add_up(self) -> None:
        sums = self._window.take_sums()
        if sums is not None:
            self._total.add_(sums[0])
            self._count.add_(sums[1])

    def _own_variables(self) -> list[Variable]:
        self._add_up()
        return super()._own_variables()

    def _apply(self: "LossMean", fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "LossMean":
        self._add_up()
        super()._apply(fn, recurse)
        self._window = _Window(self._total.device)
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the sums."""
        self._add_up()
        return super().state_dict(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any) -> None:
        self._add_up()
        super()._load_from_state_dict(*args)


class TotalLoss(LossMean):
    """The loss of the model over all batches so far.

    The loss of a single output is accumulated here, with its denominator. The losses of several outputs, which have
    different denominators, are added on read. Additional losses (`add_loss`, a custom `compute_loss`) are averaged over
    samples.
    """

    def __init__(self) -> None:
        super().__init__()
        self.added: LossMean | None = None
        self._outputs: Sequence[LossMean] = ()

    def set_outputs(self, outputs: Sequence[LossMean], is_sum: bool) -> None:
        """Set the outputs whose losses are added; `is_sum` says whether the loss of a single output is a sum."""
        self._outputs, self.is_sum = outputs, is_sum

    def update(self, batch: "BatchLoss") -> None:
        """Add one batch. The losses of several outputs are tracked already."""
        loss, (terms, total) = batch.loss, batch.losses
        if not self._outputs and len(terms) == 1:
            self.add(terms[0].value.detach(), terms[0].denominator)
        elif not self._outputs and not terms:
            self.add(loss.detach(), batch.rows)
            return
        if loss is not total:
            self._add(loss.detach(), batch.rows, None if total is None else total.detach())

    def update_all(self, batches: Sequence["BatchLoss"]) -> None:
        """Add several batches without gradients."""
        if self._outputs or any(len(each.losses.terms) != 1 or each.loss is not each.losses.total for each in batches):
            for batch in batches:
                self.update(batch)
            return
        terms = [batch.losses.terms[0] for batch in batches]
        self.add_all([term.value for term in terms], [term.denominator for term in terms])

    def _add(self, loss: Tensor, rows: int, of_outputs: Tensor | None) -> None:
        """Track the loss beyond those of the outputs; it is unknown, and omitted, if these are NaN."""
        if self.added is None:
            self.added = self._create_added()
        if of_outputs is None:
            self.added.add(loss, rows)
        else:
            self.added.add(loss - of_outputs, rows * ~of_outputs.isnan())

    def _create_added(self) -> LossMean:
        return LossMean().to(self._total.device)

    def reset_state(self) -> None:
        """Set the sums back to 0, those of additional losses too."""
        super().reset_state()
        if self.added is not None:
            self.added.reset_state()

    def load_state_dict(self, state_dict: Mapping[str, object], strict: bool = True, assign: bool = False) -> Any:
        """Restore a state, with or without additional losses."""
        self.added = self._create_added() if "added.total" in state_dict else None
        return super().load_state_dict(state_dict, strict, assign)

    def result(self) -> Tensor:
        """Return the loss, a scalar."""
        loss = super().result()
        if self.added is not None:
            loss = loss + self.added.result()
        for output in self._outputs:
            loss = loss + output.result() * output.weight
        return loss
