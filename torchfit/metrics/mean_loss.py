"""A loss as a metric."""

import torch

from torchfit import losses
from torchfit._types import Config, DTypeLike, TensorLike
from torchfit.losses.identifiers import resolve_loss
from torchfit.losses.reduction import zero_if_empty
from torchfit.metrics.base import Self
from torchfit.metrics.reductions import Mean


class MeanLoss(Mean):
    """The loss over all samples, as `compile(loss=)` computes it: what each batch counts is what it was divided by.

    Args:
        loss: anything that `compile(loss=)` takes.
        name: default: the name of the loss.
        dtype: see `Metric`.

    Raises:
        ValueError: if `loss` is none.

    >>> metric = MeanLoss(torch.nn.MSELoss())
    >>> metric.update_state([[0.0], [0.0], [0.0]], [[1.0], [1.0], [1.0]])
    >>> metric.update_state([[0.0]], [[3.0]])
    >>> metric.result().item()
    3.0
    """

    mode = "min"

    def __init__(self, loss: object, name: str | None = None, dtype: DTypeLike = None):
        self.loss = resolve_loss(loss)
        super().__init__(name=name or self.loss.name, dtype=dtype)

    def update_state(  # type: ignore[override]
        self, y_true: TensorLike, y_pred: TensorLike, sample_weight: TensorLike = None
    ) -> None:
        """Add one batch, as the loss takes it."""
        with torch.no_grad():
            value, denominator = self.loss.with_denominator(y_true, y_pred, sample_weight)
        if value.device != self.total.device:
            self.to(value.device)
        if self.loss.is_sum:
            self.total.add_(value)
            self.count.fill_(1)
        else:
            super().update_state(zero_if_empty(value, denominator), denominator)

    def get_config(self) -> Config:
        """Return the constructor's arguments."""
        return {**super().get_config(), "loss": losses.serialize(self.loss)}

    @classmethod
    def from_config(cls: type[Self], config: Config) -> Self:
        """Build a metric from what `get_config` returned."""
        return cls(**{**config, "loss": losses.deserialize(config["loss"])})
