"""The loss over an epoch: a sum of totals over a sum of denominators, for every output and for what was added."""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from torchfit.losses.reduction import Denominator
from torchfit.metrics import Mean, Sum


class LossTerm(NamedTuple):
    """The loss of one output for one batch: `value * denominator` is its total.

    Attributes:
        output: The name of the output.
        value: The loss times its loss weight, a scalar.
        denominator: What its total was divided by.
        is_sum: Whether totals add up without division.
        is_separable: Whether the total of a batch is that of its parts.
    """

    output: str
    value: Tensor
    denominator: Denominator
    is_sum: bool
    is_separable: bool


class LossTerms(NamedTuple):
    """The losses of all outputs for one batch, and their sum."""

    terms: tuple[LossTerm, ...] = ()
    total: Tensor | None = None

    def detached(self) -> "LossTerms":
        """Return the same without the autograd graph."""
        if self.total is None:
            return self
        return LossTerms(tuple(term._replace(value=term.value.detach()) for term in self.terms), self.total.detach())


NO_LOSSES = LossTerms()


class BatchLoss(Protocol):
    """The loss of a batch, the losses of the outputs that it is made of, and the number of samples."""

    @property
    def loss(self) -> Tensor:
        """The loss that was minimised, a scalar."""
        ...

    @property
    def losses(self) -> LossTerms:
        """The losses of the outputs."""
        ...

    @property
    def rows(self) -> int:
        """The number of samples."""
        ...


@dataclass
class OutputLoss:
    """The loss of one of several outputs over all batches so far, and its weight in the loss of the model."""

    metric: Any
    weight: float


class TotalLoss(Mean):
    """The loss of the model over all batches so far.

    A single output is accumulated here, by its denominator. Of several outputs, which have denominators of their own,
    the losses are added when they are read. What was added to them (`add_loss`, a custom `compute_loss`) is a mean over
    samples.
    """

    def __init__(self) -> None:
        super().__init__(name="loss")
        self.is_sum = False
        self.added: Mean | None = None
        self._outputs: tuple[OutputLoss, ...] = ()

    def set_outputs(self, outputs: tuple[OutputLoss, ...], is_sum: bool) -> None:
        """Add up the losses of several `outputs`; `is_sum` says whether the loss of a single output is a sum."""
        self._outputs, self.is_sum = outputs, is_sum

    def update(self, batch: "BatchLoss") -> None:
        """Take in one batch. The losses of several outputs are tracked already."""
        loss, (terms, total) = batch.loss, batch.losses
        if len(terms) == 1 and not self._outputs:
            self._add_total(terms[0].value.detach(), terms[0].denominator)
        elif not terms and not self._outputs:
            self.update_state(loss, batch.rows)
            return
        if loss is not total:
            self._add(loss if total is None else loss.detach() - total.detach(), batch.rows)

    def _add_total(self, value: Tensor, denominator: Denominator) -> None:
        """Add a loss with its denominator, which is a scalar on the device or a number."""
        if not isinstance(denominator, Tensor) or value.device != self.total.device:
            self.update_state(value, denominator)
            return
        self.total.addcmul_(value, denominator)
        self.count.add_(denominator)

    def _add(self, loss: Tensor, rows: int) -> None:
        if self.added is None:
            self.added = Mean(name="added").to(self.total.device)
        self.added.update_state(loss, rows)

    def result(self) -> Tensor:
        """Return the loss, a scalar."""
        loss = self.total.clone() if self.is_sum else super().result()
        if self.added is not None:
            loss = loss + self.added.result()
        for output in self._outputs:
            loss = loss + output.metric.result() * output.weight
        return loss


def make_output_loss(is_sum: bool, weight: float) -> OutputLoss:
    """Return what tracks the loss of one of several outputs."""
    return OutputLoss(Sum(name="loss") if is_sum else Mean(name="loss"), weight)
