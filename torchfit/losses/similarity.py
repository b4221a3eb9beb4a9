"""Losses of embeddings."""

import torch

from torchfit._types import DTypeLike
from torchfit._utils import validation
from torchfit.functional import similarity
from torchfit.losses.functional_loss import FunctionalLoss


class Circle(FunctionalLoss):
    """The circle loss: same labels near, other labels far, the worst pairs most (Sun et al., 2020).

    `y_true` holds class indices `(batch,)`, `y_pred` embeddings of length 1, `(batch, features)`; every row is
    compared with every other. Means are taken over the rows that have both a like and an unlike one.

    Arguments:
        gamma: the scale, greater than 0.
        margin: the slack, from 0 to 1; small is strict.
        remove_diagonal: do not compare rows with themselves.

    >>> loss = Circle(gamma=1.0)
    >>> round(loss([0, 0, 1], [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]).item(), 4)
    0.5459
    """

    is_separable = False

    def __init__(
        self,
        gamma: float = 80.0,
        margin: float = 0.4,
        remove_diagonal: bool = True,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "circle",
        dtype: DTypeLike = None,
    ):
        super().__init__(
            similarity.circle,
            name,
            reduction,
            dtype,
            gamma=validation.number_between("gamma", gamma, 0),
            margin=validation.number("margin", margin, 0, 1),
            remove_diagonal=validation.boolean("remove_diagonal", remove_diagonal),
        )
        self._target_dtype = torch.int64
