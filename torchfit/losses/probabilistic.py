"""Losses between distributions, and between counts and rates. One loss per `(batch, …)`."""

from torchfit._types import DTypeLike
from torchfit.functional import probabilistic
from torchfit.losses.functional_loss import FunctionalLoss


class KLDivergence(FunctionalLoss):
    """The sum of `y_true · log(y_true / y_pred)`, of probabilities `(batch, …, values)` limited to `[1e-7, 1]`.

    >>> KLDivergence()([[0.5, 0.5]], [[0.5, 0.5]]).item()
    0.0
    """

    expects_probabilities = "distribution"

    def __init__(
        self,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "kl_divergence",
        dtype: DTypeLike = None,
    ):
        super().__init__(probabilistic.kl_divergence, name, reduction, dtype)


class Poisson(FunctionalLoss):
    """The mean of `y_pred - y_true · log(y_pred + 1e-7)`, of counts and the rates predicted for them.

    >>> Poisson()([[0.0, 0.0]], [[1.0, 3.0]]).item()
    2.0
    """

    def __init__(
        self,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "poisson",
        dtype: DTypeLike = None,
    ):
        super().__init__(probabilistic.poisson, name, reduction, dtype)
