"""Losses of sequences."""

import torch

from torchfit._types import DTypeLike
from torchfit.functional import sequence
from torchfit.losses.functional_loss import FunctionalLoss


class CTC(FunctionalLoss):
    """Connectionist temporal classification: label sequences without their times (Graves et al., 2006).

    `y_true` holds class indices `(batch, labels)` from 1, padded with 0, the blank; `y_pred` holds logits
    `(batch, steps, classes)`. One loss per `(batch,)`; a sequence too long for the steps gives infinity, and no
    gradient.

    >>> round(CTC()([[1]], [[[0.0, 0.0]]]).item(), 4)
    0.6931
    """

    def __init__(
        self,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "ctc",
        dtype: DTypeLike = None,
    ):
        super().__init__(sequence.ctc, name, reduction, dtype)
        self._target_dtype = torch.int64
