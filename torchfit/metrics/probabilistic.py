"""Crossentropies and other distances between distributions."""

from typing import Any

from torchfit._utils.tensors import as_tensor
from torchfit.functional import crossentropy, probabilistic
from torchfit.functional.confusion import broadcast_weights
from torchfit.metrics._validation import unit_interval
from torchfit.metrics.reductions import MeanMetricWrapper


class KLDivergence(MeanMetricWrapper):
    """Mean of `Σ y_true·log(y_true / y_pred)` over the last dimension of `(batch, …, values)`.

    >>> round(KLDivergence()([[0, 1], [0, 0]], [[0.6, 0.4], [0.4, 0.6]]).item(), 4)
    0.4581
    """

    mode = "min"

    def __init__(self, name: str | None = "kl_divergence", dtype: Any = None):
        super().__init__(probabilistic.kl_divergence, name, dtype)


class Poisson(MeanMetricWrapper):
    """Mean of `y_pred - y_true·log(y_pred)`, both `(batch, …)`: how unlikely counts are under rates.

    >>> round(Poisson()([[0, 1], [0, 0]], [[1, 1], [0, 0]]).item(), 4)
    0.5
    """

    mode = "min"

    def __init__(self, name: str | None = "poisson", dtype: Any = None):
        super().__init__(probabilistic.poisson, name, dtype)


class BinaryCrossentropy(MeanMetricWrapper):
    """Mean crossentropy of labels from 0 to 1 and probabilities, or logits, both `(batch, …)`.

    `label_smoothing`, from 0 to 1, moves the labels towards ½.

    >>> round(BinaryCrossentropy()([[0, 1], [0, 0]], [[0.6, 0.4], [0.4, 0.6]]).item(), 4)
    0.8149
    """

    mode = "min"

    def __init__(
        self,
        name: str | None = "binary_crossentropy",
        dtype: Any = None,
        from_logits: bool = False,
        label_smoothing: float = 0,
    ):
        smoothing = unit_interval("label_smoothing", label_smoothing)
        super().__init__(
            crossentropy.binary_crossentropy, name, dtype, from_logits=from_logits, label_smoothing=smoothing
        )


class CategoricalCrossentropy(MeanMetricWrapper):
    """Mean crossentropy of one-hot or soft labels and probabilities, or logits, both `(batch, …, classes)`.

    `label_smoothing`, from 0 to 1, gives this share of the labels to all classes alike; `axis` is the dimension of
    the classes.

    >>> y_true, y_pred = [[0, 1, 0], [0, 0, 1]], [[0.05, 0.95, 0], [0.1, 0.8, 0.1]]
    >>> round(CategoricalCrossentropy()(y_true, y_pred).item(), 4)
    1.1769
    """

    mode = "min"

    def __init__(
        self,
        name: str | None = "categorical_crossentropy",
        dtype: Any = None,
        from_logits: bool = False,
        label_smoothing: float = 0,
        axis: int = -1,
    ):
        super().__init__(
            crossentropy.categorical_crossentropy,
            name,
            dtype,
            from_logits=from_logits,
            label_smoothing=unit_interval("label_smoothing", label_smoothing),
            axis=axis,
        )


class SparseCategoricalCrossentropy(MeanMetricWrapper):
    """Mean crossentropy of class indices `(batch, …)` and probabilities, or logits, `(batch, …, classes)`.

    Samples labelled `ignore_class` are 0, and count all the same unless there are weights, as in Keras; `axis`
    is the dimension of the classes.

    >>> round(SparseCategoricalCrossentropy()([1, 2], [[0.05, 0.95, 0], [0.1, 0.8, 0.1]]).item(), 4)
    1.1769
    """

    mode = "min"

    def __init__(
        self,
        name: str | None = "sparse_categorical_crossentropy",
        dtype: Any = None,
        from_logits: bool = False,
        ignore_class: int | None = None,
        axis: int = -1,
    ):
        super().__init__(
            crossentropy.sparse_categorical_crossentropy,
            name,
            dtype,
            from_logits=from_logits,
            ignore_class=ignore_class,
            axis=axis,
        )

    def update_state(  # type: ignore[override]
        self, y_true: Any, y_pred: Any, sample_weight: Any = None
    ) -> None:
        """Add one batch; with weights, samples of the ignored class do not count at all."""
        ignored = self._fn_kwargs["ignore_class"]
        if sample_weight is not None and ignored is not None:
            kept = (as_tensor(y_true) != ignored).to(self._dtype)
            sample_weight = broadcast_weights(sample_weight, kept) * kept
        super().update_state(y_true, y_pred, sample_weight)
