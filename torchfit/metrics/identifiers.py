"""Metrics by name, as data, and from whatever `compile(metrics=)` takes."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.nn.modules import loss as torch_losses

from torchfit._utils.errors import describe
from torchfit._utils.names import snake_case
from torchfit._utils.registry import Registry
from torchfit.metrics import (
    accuracy,
    auc,
    confusion,
    correlation,
    curves,
    f_score,
    iou,
    margins,
    probabilistic,
    r2,
    reductions,
    regression,
)
from torchfit.metrics.base import Metric
from torchfit.metrics.functions import METRIC_FUNCTIONS
from torchfit.metrics.reductions import MeanMetricWrapper
from torchfit.metrics.torchmetrics_adapter import TorchMetric, is_torchmetrics

_CLASSES: tuple[type[Metric], ...] = (
    accuracy.Accuracy,
    accuracy.BinaryAccuracy,
    accuracy.CategoricalAccuracy,
    accuracy.SparseCategoricalAccuracy,
    accuracy.SparseTopKCategoricalAccuracy,
    accuracy.TopKCategoricalAccuracy,
    auc.AUC,
    confusion.FalseNegatives,
    confusion.FalsePositives,
    confusion.Precision,
    confusion.Recall,
    confusion.TrueNegatives,
    confusion.TruePositives,
    correlation.ConcordanceCorrelation,
    correlation.PearsonCorrelation,
    curves.PrecisionAtRecall,
    curves.RecallAtPrecision,
    curves.SensitivityAtSpecificity,
    curves.SpecificityAtSensitivity,
    f_score.F1Score,
    f_score.FBetaScore,
    margins.CategoricalHinge,
    margins.Hinge,
    margins.SquaredHinge,
    iou.BinaryIoU,
    iou.IoU,
    iou.MeanIoU,
    iou.OneHotIoU,
    iou.OneHotMeanIoU,
    probabilistic.BinaryCrossentropy,
    probabilistic.CategoricalCrossentropy,
    probabilistic.KLDivergence,
    probabilistic.Poisson,
    probabilistic.SparseCategoricalCrossentropy,
    r2.R2Score,
    reductions.Mean,
    reductions.MeanMetricWrapper,
    reductions.Sum,
    regression.CosineSimilarity,
    regression.LogCoshError,
    regression.MeanAbsoluteError,
    regression.MeanAbsolutePercentageError,
    regression.MeanSquaredError,
    regression.MeanSquaredLogarithmicError,
    regression.RootMeanSquaredError,
)
_ALIASES: dict[str, type[Metric]] = {
    "acc": accuracy.Accuracy,
    "bce": probabilistic.BinaryCrossentropy,
    "cosine": regression.CosineSimilarity,
    "fbeta_score": f_score.FBetaScore,
    "iou": iou.IoU,
    "kld": probabilistic.KLDivergence,
    "logcosh": regression.LogCoshError,
    "mae": regression.MeanAbsoluteError,
    "mape": regression.MeanAbsolutePercentageError,
    "mean_iou": iou.MeanIoU,
    "mse": regression.MeanSquaredError,
    "msle": regression.MeanSquaredLogarithmicError,
    "rmse": regression.RootMeanSquaredError,
}
_REGISTRY = Registry(
    "metric",
    "torchfit.metrics",
    {
        **METRIC_FUNCTIONS.entries,
        **{snake_case(kind.__name__): kind for kind in _CLASSES},
        **{kind.__name__: kind for kind in _CLASSES},
        **_ALIASES,
    },
)
_BY_OUTPUT = {"accuracy": "accuracy", "acc": "accuracy", "crossentropy": "crossentropy", "ce": "crossentropy"}


def get(identifier: Any) -> Any:
    """Return the metric that a name, a config, a class or an object stands for; functions as they are.

    Raises:
        ValueError: for an unknown name, with the nearest known ones.

    >>> get("mse").name
    'mean_squared_error'
    """
    if isinstance(identifier, str):
        identifier = _REGISTRY.lookup(identifier)
    return _instance(identifier) if isinstance(identifier, type) else _REGISTRY.get(identifier)


def serialize(metric: Any) -> dict[str, Any]:
    """Return a metric or metric function as plain data, for `deserialize`.

    >>> serialize(regression.MeanSquaredError())["class_name"]
    'MeanSquaredError'
    """
    return _REGISTRY.serialize(metric)


def deserialize(config: Any, custom_objects: Mapping[str, Any] | None = None) -> Any:
    """Return what `serialize` was given; `custom_objects` maps names to user-defined classes.

    >>> deserialize(serialize(reductions.Sum(name="rows"))).name
    'rows'
    """
    return _REGISTRY.deserialize(config, custom_objects)


def as_metric(identifier: Any) -> Metric:
    """Return a `Metric` for whatever `compile(metrics=...)` takes.

    That is a name (which becomes the metric's name, as it is spelled), a `Metric` or its class, a config, a
    torchmetrics metric or its class, a torch loss (called with the predictions first), or any function
    `(y_true, y_pred)`.

    Raises:
        ValueError: for anything else, and for unknown names, with the nearest known ones.

    >>> as_metric("mse").name, as_metric("MSE").name
    ('mse', 'MSE')
    """
    if isinstance(identifier, str):
        metric = _as_metric_object(get(identifier))
        metric.name = identifier
        return metric
    return _as_metric_object(identifier)


def resolve_metric(
    name: str,
    loss_name: str | None,
    target_shape: Sequence[int],
    output_shape: Sequence[int],
    from_logits: bool = False,
) -> Metric:
    """Choose what `"accuracy"`, `"acc"`, `"crossentropy"` or `"ce"` means for one output.

    Binary where the last dimension of the output is 1, or the output is a plain `(batch,)`; sparse where the
    targets lack the last dimension, or have 1 there; categorical otherwise. So far Keras' rule; beyond it,
    `"crossentropy"` next to a binary crossentropy as the loss is binary.

    Args:
        name: what the user wrote; it becomes the metric's name.
        loss_name: name of the output's loss, if there is one.
        target_shape: of `y_true`, with the batch.
        output_shape: of `y_pred`, with the batch.
        from_logits: whether a crossentropy gets logits. The accuracies do not look at it, as in Keras.

    >>> resolve_metric("acc", None, (8,), (8, 10))
    SparseCategoricalAccuracy(name=acc)
    """
    what, kind = _BY_OUTPUT[name.lower()], _output_kind(target_shape, output_shape)
    if what == "accuracy":
        return _as_metric_object(_ACCURACIES[kind](name=name))
    if loss_name and loss_name.startswith("binary"):
        kind = "binary"
    return _as_metric_object(_REGISTRY.lookup(f"{kind}_crossentropy")(name=name, from_logits=from_logits))


_ACCURACIES: dict[str, Any] = {
    "binary": accuracy.BinaryAccuracy,
    "sparse_categorical": accuracy.SparseCategoricalAccuracy,
    "categorical": accuracy.CategoricalAccuracy,
}


def _output_kind(target_shape: Sequence[int], output_shape: Sequence[int]) -> str:
    if len(output_shape) <= 1 or output_shape[-1] == 1:
        return "binary"
    if len(target_shape) < len(output_shape) or target_shape[-1] == 1:
        return "sparse_categorical"
    return "categorical"


def _as_metric_object(identifier: Any) -> Metric:
    if isinstance(identifier, Metric):
        return identifier
    if isinstance(identifier, type):
        return _as_metric_object(_instance(identifier))
    if is_torchmetrics(identifier):
        return TorchMetric(identifier)
    if isinstance(identifier, Mapping):
        return _as_metric_object(deserialize(identifier))
    if _is_torch_loss(identifier):
        return MeanMetricWrapper(_SwapArguments(identifier), _torch_name(identifier))
    if callable(identifier):
        return MeanMetricWrapper(identifier, getattr(identifier, "name", None))
    raise ValueError(
        "A metric must be a name, a Metric, a torchmetrics metric or a callable (y_true, y_pred). "
        f"Received: {describe(identifier)}."
    )


def _instance(kind: type) -> Any:
    """Return an object of a class that needs no arguments."""
    parameters = inspect.signature(kind).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    if needed:
        raise ValueError(
            f"The metric {kind.__name__} needs the argument(s) {', '.join(needed)}: pass an object, "
            f"{kind.__name__}({', '.join(f'{name}=...' for name in needed)})."
        )
    return kind()


def _is_torch_loss(value: Any) -> bool:
    return isinstance(value, torch_losses._Loss) or getattr(value, "__module__", None) == "torch.nn.functional"


def _torch_name(value: Any) -> str:
    return snake_case(type(value).__name__) if isinstance(value, nn.Module) else str(value.__name__)


class _SwapArguments:
    """A torch loss as a function `(y_true, y_pred)`."""

    def __init__(self, loss: Any):
        self.loss = loss

    def __call__(self, y_true: Any, y_pred: Any) -> Any:
        """Call the loss in torch's order."""
        return self.loss(y_pred, y_true)
