"""How far distributions are from distributions and counts from rates, sample by sample.

Every function takes `y_true` and `y_pred` of one shape `(batch, …, values)` and returns `(batch, …)`; `poisson` takes
`(batch,)` as well.
"""

from torch import Tensor

from torchfit._types import TensorLike
from torchfit.functional.alignment import align_pair, check_has_vectors, mean_per_sample

EPSILON = 1e-7


def kl_divergence(y_true: TensorLike, y_pred: TensorLike) -> Tensor:
    """Return the sum of `y_true · log(y_true / y_pred)` over the last dimension (Kullback and Leibler, 1951).

    Both are taken to be probabilities and are limited to `[1e-7, 1]`.

    >>> kl_divergence([[0.5, 0.5]], [[0.5, 0.5]]).tolist()
    [0.0]
    """
    y_true, y_pred = align_pair(y_true, y_pred)
    check_has_vectors("kl_divergence", y_pred, "(batch, …, values)", "Single values are no distribution.")
    y_true, y_pred = y_true.clamp(EPSILON, 1.0), y_pred.clamp(EPSILON, 1.0)
    values: Tensor = (y_true * (y_true / y_pred).log()).sum(-1)
    return values


def poisson(y_true: TensorLike, y_pred: TensorLike) -> Tensor:
    """Return the mean of `y_pred - y_true · log(y_pred + 1e-7)` over the last dimension.

    It is the negative log-likelihood of counts `y_true` under Poisson rates `y_pred`, less a constant.

    >>> poisson([[0.0, 0.0]], [[1.0, 3.0]]).tolist()
    [2.0]
    """
    y_true, y_pred = align_pair(y_true, y_pred)
    return mean_per_sample(y_pred - y_true * (y_pred + EPSILON).log())
