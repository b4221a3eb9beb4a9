"""Metrics by name, as data, and from whatever `compile(metrics=)` takes."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from torchfit._types import Config
from torchfit._utils.errors import describe
from torchfit._utils.names import snake_case
from torchfit._utils.registry import Registry
from torchfit._utils.validation import takes_targets_and_predictions
from torchfit.losses.base import Loss
from torchfit.losses.checks import Kind, LossTraits, loss_traits
from torchfit.losses.torch_losses import is_torch_loss
from torchfit.metrics import (
    accuracy,
    auc,
    confusion,
    f_score,
    iou,
    probabilistic,
    reductions,
    regression,
)
from torchfit.metrics.base import Metric
from torchfit.metrics.reductions import METRIC_FUNCTIONS, MeanLoss, MeanMetricWrapper
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
    regression.ConcordanceCorrelation,
    regression.PearsonCorrelation,
    auc.PrecisionAtRecall,
    auc.RecallAtPrecision,
    auc.SensitivityAtSpecificity,
    auc.SpecificityAtSensitivity,
    f_score.F1Score,
    f_score.FBetaScore,
    probabilistic.CategoricalHinge,
    probabilistic.Hinge,
    probabilistic.SquaredHinge,
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
    regression.R2Score,
    MeanLoss,
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
    "f1": f_score.F1Score,
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
_CHOSEN_BY_LOSS = {"accuracy": "accuracy", "acc": "accuracy", "crossentropy": "crossentropy", "ce": "crossentropy"}
_CHOICES: dict[str, dict[str, type[Metric]]] = {
    "accuracy": {
        "binary": accuracy.BinaryAccuracy,
        "sparse": accuracy.SparseCategoricalAccuracy,
        "categorical": accuracy.CategoricalAccuracy,
    },
    "crossentropy": {
        "binary": probabilistic.BinaryCrossentropy,
        "sparse": probabilistic.SparseCategoricalCrossentropy,
        "categorical": probabilistic.CategoricalCrossentropy,
    },
}


def get(identifier: object) -> Any:
    """Return the metric that a name, a config, a class or an object stands for; functions as they are.

    Raises:
        ValueError: for an unknown name, with the nearest known ones.

    >>> get("mse").name
    'mean_squared_error'
    """
    if isinstance(identifier, str):
        identifier = _REGISTRY.lookup(identifier)
    return _instance(identifier) if isinstance(identifier, type) else _REGISTRY.get(identifier)


def serialize(metric: object) -> Config:
    """Return a metric or metric function as plain data, for `deserialize`.

    >>> serialize(regression.MeanSquaredError())["class_name"]
    'MeanSquaredError'
    """
    if isinstance(metric, Loss) or is_torch_loss(metric):
        metric = MeanLoss(metric)
    return _REGISTRY.serialize(metric)


def deserialize(config: object, custom_objects: Mapping[str, object] | None = None) -> Any:
    """Return what `serialize` was given; `custom_objects` maps names to user-defined classes.

    >>> deserialize(serialize(reductions.Sum(name="rows"))).name
    'rows'
    """
    return _REGISTRY.deserialize(config, custom_objects)


def as_metric(identifier: object) -> Metric:
    """Return a `Metric` for whatever `compile(metrics=...)` takes.

    That is a name (which becomes the metric's name, as it is spelled), a `Metric` or its class, a config, a
    torchmetrics metric or its class, a loss of torch or torchfit, or any function `(y_true, y_pred)`.

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


def follows_loss(identifier: object) -> bool:
    """Return whether a metric is given by a name that `resolve_metric` interprets by the loss beside it.

    >>> follows_loss("accuracy"), follows_loss("AUC"), follows_loss("mse"), follows_loss(auc.AUC())
    (True, True, False, False)
    """
    if not isinstance(identifier, str):
        return False
    if identifier.lower() in _CHOSEN_BY_LOSS:
        return True
    found = _REGISTRY.lookup(identifier)
    if not isinstance(found, type) or not issubclass(found, Metric) or _required_arguments(found):
        return False
    return found.follow_loss is not Metric.follow_loss


def resolve_metric(
    name: str,
    loss: object,
    target_shape: Sequence[int],
    output_shape: Sequence[int],
) -> Metric:
    """Return the metric that a name stands for beside a loss, which reads labels and predictions as the loss does.

    `"accuracy"` and `"acc"`, `"crossentropy"` and `"ce"` are binary where the loss is, else categorical, and sparse if
    the labels are class indices. Beside a loss that is neither, or none, Keras' rule holds: binary where the last
    dimension of the output is 1, or the output is `(batch,)`, and here also for images of one channel
    `(batch, 1, height, width)` with labels of the same shape. The classes lie where the loss has them: on dimension 1
    for torch's losses, on `axis` for those of torchfit, and beside other losses where the shape of the labels lacks
    them.

    All names that `follows_loss` knows take from the loss whether outputs are logits, where the classes are, and which
    labels are ignored. What was chosen shows when the metric is printed.

    Args:
        name: what the user wrote; it becomes the metric's name.
        loss: anything that `compile(loss=)` takes, or `None`.
        target_shape: of `y_true`, with the batch.
        output_shape: of `y_pred`, with the batch.

    >>> resolve_metric("acc", None, (8,), (8, 10))
    SparseCategoricalAccuracy(name=acc)
    >>> resolve_metric("acc", nn.CrossEntropyLoss(), (8, 32, 32), (8, 10, 32, 32))
    SparseCategoricalAccuracy(name=acc, axis=1, ignore_class=-100)
    >>> resolve_metric("recall", nn.BCEWithLogitsLoss(), (8, 1), (8, 1))
    Recall(name=recall, from_logits=True)
    """
    traits = loss_traits(loss)
    if name.lower() not in _CHOSEN_BY_LOSS:
        metric = as_metric(name)
    else:
        traits = _with_kind(traits, target_shape, output_shape)
        metric = _CHOICES[_CHOSEN_BY_LOSS[name.lower()]][str(traits.kind)](name=name)
    metric.follow_loss(traits)
    return metric


def _with_kind(traits: LossTraits, target_shape: Sequence[int], output_shape: Sequence[int]) -> LossTraits:
    """Complete what a loss says with what the shapes of labels and outputs say."""
    if traits.kind == "binary":
        return traits
    is_sparse = len(target_shape) < len(output_shape) or tuple(target_shape) != tuple(output_shape)
    kind: Kind = "sparse" if is_sparse else "categorical"
    if traits.is_multiclass:
        return replace(traits, kind=kind)
    if _is_binary(target_shape, output_shape):
        return replace(traits, kind="binary")
    return replace(traits, kind=kind, axis=_class_axis(target_shape, output_shape))


def _is_binary(target_shape: Sequence[int], output_shape: Sequence[int]) -> bool:
    if len(output_shape) <= 1 or output_shape[-1] == 1:
        return True
    return len(output_shape) > 3 and output_shape[1] == 1 and tuple(target_shape) == tuple(output_shape)


def _class_axis(target_shape: Sequence[int], output_shape: Sequence[int]) -> int:
    """Return the last dimension, unless class indices lack dimension 1 of the outputs instead."""
    lacks_last = tuple(target_shape) == tuple(output_shape[:-1])
    lacks_second = tuple(target_shape) == (*output_shape[:1], *output_shape[2:])
    return 1 if lacks_second and not lacks_last else -1


def _as_metric_object(identifier: object) -> Metric:
    if isinstance(identifier, Metric):
        return identifier
    if isinstance(identifier, type):
        return _as_metric_object(_instance(identifier))
    if is_torchmetrics(identifier):
        return TorchMetric(identifier)
    if isinstance(identifier, Mapping):
        return _as_metric_object(deserialize(identifier))
    if isinstance(identifier, (Loss, nn.Module)) or is_torch_loss(identifier):
        return MeanLoss(identifier)
    if callable(identifier):
        takes_targets_and_predictions("metrics", identifier)
        return MeanMetricWrapper(identifier, getattr(identifier, "name", None))
    raise ValueError(
        "A metric must be a name, a Metric, a torchmetrics metric or a callable (y_true, y_pred). "
        f"Received: {describe(identifier)}."
    )


def _instance(kind: type) -> Any:
    """Return an object of a class that needs no arguments."""
    needed = _required_arguments(kind)
    if needed:
        raise ValueError(
            f"The metric {kind.__name__} needs the argument(s) {', '.join(needed)}: pass an object, "
            f"{kind.__name__}({', '.join(f'{name}=...' for name in needed)})."
        )
    return kind()


def _required_arguments(kind: type) -> list[str]:
    parameters = inspect.signature(kind).parameters.values()
    return [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
