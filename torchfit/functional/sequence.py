"""Sequences of labels without their times."""

import torch
import torch.nn.functional as F
from torch import Tensor

from torchfit._types import TensorLike
from torchfit._utils.errors import describe
from torchfit._utils.tensors import as_tensor
from torchfit.functional.alignment import as_floating

BLANK = 0


def ctc(y_true: TensorLike, y_pred: TensorLike) -> Tensor:
    """Return `(batch,)`: minus the log-probability of each label sequence, over all its alignments.

    Connectionist temporal classification (Graves et al., 2006).

    Arguments:
        y_true: label sequences `(batch, labels)` of class indices from 1, padded with 0, which is the blank.
        y_pred: logits `(batch, steps, classes)`; all steps count.

    A sequence too long for the steps gives infinity, and no gradient. Raises `ValueError` for other shapes.

    >>> import math
    >>> round(ctc([[1]], [[[0.0, 0.0]]]).item() / math.log(2.0), 4)
    1.0
    """
    y_pred = as_floating(y_pred)
    labels: Tensor = as_tensor(y_true, device=y_pred.device).long()
    if y_pred.dim() != 3 or labels.dim() != 2 or labels.shape[0] != y_pred.shape[0]:
        raise ValueError(
            "ctc: y_pred must be logits (batch, steps, classes) and y_true class indices (batch, labels). "
            f"Received: y_pred, {describe(y_pred)}, and y_true, {describe(labels)}."
        )
    rows, steps, _ = y_pred.shape
    is_label = labels != BLANK
    times = torch.full((rows,), steps, dtype=torch.long, device=y_pred.device)
    logarithm = y_pred.log_softmax(-1).transpose(0, 1)
    lengths = is_label.sum(-1)
    values = F.ctc_loss(logarithm, labels, times, lengths, blank=BLANK, reduction="none", zero_infinity=True)
    repeats = ((labels[:, 1:] == labels[:, :-1]) & is_label[:, 1:]).sum(-1)  # a blank must stand between them
    return values.masked_fill(lengths + repeats > steps, torch.inf)
