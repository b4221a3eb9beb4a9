"""Looks up metrics by name, chooses those that depend on the loss, and wraps metrics of torchmetrics."""

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from torchfit._distribution.processes import current
from torchfit._types import Config, Nested, StateDict, TensorLike
from torchfit._utils.errors import describe
from torchfit._utils.names import snake_case
from torchfit._utils.registry import Registry
from torchfit._utils.tensors import as_tensor
from torchfit._utils.validation import takes_targets_and_predictions
from torchfit.functional.alignment import as_mask, get_mask
from torchfit.losses.base import Loss
from torchfit.losses.checks import Kind, LossTraits, loss_traits
from torchfit.losses.torch_losses import is_torch_loss
from torchfit.metrics import auc, classification, confusion, iou, probabilistic, reductions, regression
from torchfit.metrics.base import Metric
from torchfit.metrics.reductions import METRIC_FUNCTIONS, MeanLoss, MeanMetricWrapper

_MODES = {True: "max", False: "min", None: None}


def is_torchmetrics(value: object) -> bool:
    """Return whether a class or object is a torchmetrics metric or collection."""
    kind = value if isinstance(value, type) else type(value)
    return any(base.__module__.partition(".")[0] == "torchmetrics" for base in kind.__mro__) and all(
        hasattr(kind, method) for method in ("update", "compute", "reset")
    )


class TorchMetric(Metric):
    """Wraps a torchmetrics metric, which is updated with `update(y_pred, y_true)` and read with `compute()`.

    Args:
        metric: The torchmetrics metric or collection; it is not copied, and keeps its own state.
        name: Default: the class name in snake case.

    Raises:
        ValueError: If `metric` is not from torchmetrics, or on an update with sample weights, which are not supported.
    """

    def __init__(self, metric: object, name: str | None = None):
        if isinstance(metric, type) or not is_torchmetrics(metric):
            raise ValueError(f"`metric` must be a torchmetrics object. Received: {describe(metric)}.")
        super().__init__(name=name or snake_case(type(metric).__name__))
        self.metric: Any = metric
        self.mode = _MODES[getattr(metric, "higher_is_better", None)]
        if current().size > 1:  # Processes exchange states at fixed points, not when one of them reads the result.
            self._let_exchange(_never)

    def update_state(self, y_true: TensorLike, y_pred: TensorLike, sample_weight: TensorLike = None) -> None:
        """Update the wrapped metric with one batch, predictions first."""
        if sample_weight is not None:
            raise ValueError(
                f"`sample_weight` cannot be used with the torchmetrics metric {type(self.metric).__name__}: "
                "torchmetrics has no sample weights. Pass it in `metrics=`, not in `weighted_metrics=`."
            )
        mask = get_mask(y_pred)
        y_pred = as_tensor(y_pred).detach()
        y_true = as_tensor(y_true, device=y_pred.device)
        if mask is not None:
            y_true, y_pred = _masked(y_true, y_pred, as_mask(mask, y_pred.device))
        if getattr(self.metric, "device", None) != y_pred.device:
            self.metric.to(y_pred.device)
        self.metric.update(y_pred, y_true)

    def result(self) -> Any:
        """Return the result of the wrapped metric."""
        return self.metric.compute()

    def synchronize(self) -> None:
        """Exchange the state, and keep the result of all processes until the next update."""
        if current().size > 1:
            for part in self.metric.modules():
                _fill_empty_lists(part, current().gather)
            self._let_exchange(_always)
            try:
                self.metric.compute()
            finally:
                self._let_exchange(_never)

    def _let_exchange(self, may_exchange: Callable[[], bool]) -> None:
        for part in self.metric.modules():
            known = vars(part)
            known.update({name: None for name in ("_computed",) if name in known and may_exchange is _always})
            known.update({name: may_exchange for name in ("distributed_available_fn",) if name in known})

    def reset_state(self) -> None:
        """Reset the metric."""
        self.metric.reset()

    def get_extra_state(self) -> list[StateDict]:
        """Return the state, which torchmetrics omits from its `state_dict`."""
        return [_state_of(part) for part in self.metric.modules()]

    def set_extra_state(self, state: list[StateDict]) -> None:
        """Load a state, onto the device of the metric."""
        for part, values in zip(self.metric.modules(), state):
            device = getattr(part, "device", None)
            vars(part).update({name: _moved(value, device) for name, value in values.items()})

    def snapshot_state(self) -> Any:
        """Return a copy of the state of all parts."""
        return [(part, copy.deepcopy(_state_of(part))) for part in self.metric.modules()]

    def restore_state(self, snapshot: Any) -> None:
        """Restore the result of `snapshot_state`."""
        for part, state in snapshot:
            vars(part).update(copy.deepcopy(state))


def _masked(y_true: Tensor, y_pred: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values selected by the mask `(batch, …)`, `(values, …)`; this synchronizes with the device."""
    while mask.ndim > 1 and mask.shape[-1] == 1:
        mask = mask.squeeze(-1)
    return y_true[mask], y_pred[mask]


def _moved(value: Nested, device: torch.device | None) -> Nested:
    if isinstance(value, list):
        return [_moved(part, device) for part in value]
    return value.to(device) if isinstance(value, Tensor) else value


def _state_of(part: object) -> StateDict:
    """Return the attributes of a torchmetrics metric, or a part of one, that hold its state."""
    names = [*getattr(part, "_defaults", ()), "_update_count", "_computed"]
    return {name: vars(part)[name] for name in names if name in vars(part)}


def _fill_empty_lists(part: Any, gather: Callable[[object], list[Any]]) -> None:
    """Add an empty tensor, like those of other processes, to the state lists of a process without rows."""
    for name in getattr(part, "_defaults", ()):
        value = vars(part).get(name)
        if isinstance(value, list):
            examples = gather([(tensor.dtype, tensor.shape[1:]) for tensor in value[:1]])
            for dtype, shape in next(filter(None, examples), []) if not value else ():
                value.append(torch.empty((0, *shape), dtype=dtype, device=part.device))


def _always() -> bool:
    return True


def _never() -> bool:
    return False


_CLASSES: tuple[type[Metric], ...] = (
    classification.Accuracy,
    classification.BinaryAccuracy,
    classification.CategoricalAccuracy,
    classification.SparseCategoricalAccuracy,
    classification.SparseTopKCategoricalAccuracy,
    classification.TopKCategoricalAccuracy,
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
    classification.F1Score,
    classification.FBetaScore,
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
    "acc": classification.Accuracy,
    "bce": probabilistic.BinaryCrossentropy,
    "cosine": regression.CosineSimilarity,
    "f1": classification.F1Score,
    "fbeta_score": classification.FBetaScore,
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
        "binary": classification.BinaryAccuracy,
        "sparse": classification.SparseCategoricalAccuracy,
        "categorical": classification.CategoricalAccuracy,
    },
    "crossentropy": {
        "binary": probabilistic.BinaryCrossentropy,
        "sparse": probabilistic.SparseCategoricalCrossentropy,
        "categorical": probabilistic.CategoricalCrossentropy,
    },
}


def get(identifier: object) -> Any:
    """Return the metric for a name, a config, a class or an object; functions are returned as they are.

    Raises:
        ValueError: For an unknown name, with the nearest known ones.

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
    """Return the metric that was passed to `serialize`; `custom_objects` maps names to user-defined classes.

    >>> deserialize(serialize(reductions.Sum(name="rows"))).name
    'rows'
    """
    return _REGISTRY.deserialize(config, custom_objects)


def as_metric(identifier: object) -> Metric:
    """Return a `Metric` for anything that `compile(metrics=...)` accepts.

    This may be a name (which becomes the metric's name, as it is spelled), a `Metric` or its class, a config, a
    torchmetrics metric or its class, a loss of torch or torchfit, or any function `(y_true, y_pred)`.

    Raises:
        ValueError: For anything else, and for unknown names, with the nearest known ones.

    >>> as_metric("mse").name, as_metric("MSE").name
    ('mse', 'MSE')
    """
    if isinstance(identifier, str):
        metric = _as_metric_object(get(identifier))
        metric.name = identifier
        return metric
    return _as_metric_object(identifier)


def follows_loss(identifier: object) -> TypeGuard[str]:
    """Return whether a metric is given by a name whose meaning depends on the loss.

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
    """Return the metric for a name that depends on the loss, with the form of labels and predictions of the loss.

    `"accuracy"` and `"acc"`, `"crossentropy"` and `"ce"` are binary where the loss is, else categorical, and sparse if
    the labels are class indices. With any other loss, or without one, Keras' rule applies: binary if the last
    dimension of the output is 1, or the output is `(batch,)`, and here also for images of one channel
    `(batch, 1, height, width)` with labels of the same shape. The class dimension is that of the loss: 1 for torch's
    losses, `axis` for those of torchfit, and for other losses the dimension that the labels lack.

    All names that `follows_loss` knows take from the loss whether outputs are logits, where the classes are, and which
    labels are ignored. What was chosen shows when the metric is printed.

    Args:
        name: What the user wrote; it becomes the metric's name.
        loss: Anything that `compile(loss=)` takes, or `None`.
        target_shape: Of `y_true`, with the batch.
        output_shape: Of `y_pred`, with the batch.

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
    """Complete the traits of a loss using the shapes of labels and outputs."""
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
    """Return an instance of a class that needs no arguments."""
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
