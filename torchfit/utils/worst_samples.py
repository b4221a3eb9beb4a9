"""`worst_samples`, which finds the samples with the highest losses, for example to find wrong labels."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from torchfit._types import Array, Nested, UserData
from torchfit._utils import tree, validation
from torchfit._utils.errors import describe
from torchfit._utils.names import suggest_keywords
from torchfit.losses.identifiers import resolve_loss


class WorstSamples(NamedTuple):
    """The samples with the highest losses, the worst first.

    Attributes:
        indices: Their positions in the data, `(k,)`.
        losses: Their losses, `(k,)`.
        predictions: What the model predicts for them, in the structure of its outputs.
    """

    indices: Array
    losses: Array
    predictions: Nested


@suggest_keywords
def worst_samples(model: Any, x: UserData, y: UserData = None, k: int = 10, batch_size: int = 256) -> WorstSamples:
    """Return the samples whose losses are the highest.

    Args:
        model: A compiled `Model`.
        x: Inputs, as in `predict`; or a torch Dataset whose samples are `(input, target)`, which is read twice.
        y: Targets, as in `fit`; omitted for a Dataset.
        k: The number of samples.
        batch_size: Samples per batch of the prediction.

    Returns:
        Positions, losses and predictions. The loss of a sample is the mean of its values; those of several outputs are
        added up, multiplied by the `loss_weights` of `compile`.

    Raises:
        ValueError: If the model has no loss, or the targets are missing.

    >>> import torchfit
    >>> model = torchfit.Model(torch.nn.Identity(), device="cpu")
    >>> model.compile(loss="mae")
    >>> worst_samples(model, np.array([[1.0], [2.0], [9.0]]), np.array([[1.0], [4.0], [3.0]]), k=2)[:2]
    (array([2, 1]), array([6., 2.], dtype=float32))
    """
    k = validation.integer("k", k, min_value=1)
    if getattr(model, "loss", None) is None:
        raise ValueError("`worst_samples` needs a loss: pass one to `compile`.")
    if y is None:
        y = _targets_of(x)
    outputs = model.predict(x, batch_size=batch_size)
    losses = _losses(model, y, outputs)
    best = np.argsort(-losses, kind="stable")[:k]
    return WorstSamples(best, losses[best], tree.map(lambda leaf: leaf[best], outputs))


def _targets_of(dataset: UserData) -> UserData:
    if not isinstance(dataset, Dataset) or not hasattr(dataset, "__len__"):
        raise ValueError(
            f"`y` is missing: pass the targets, or as `x` a torch Dataset of (input, target). Received: "
            f"{describe(dataset)}."
        )
    return default_collate([dataset[index][1] for index in range(len(dataset))])


def _losses(model: Any, targets: Nested, outputs: Nested) -> Array:
    """Return the loss of each sample, summed over the outputs that have one."""
    losses, weights = model.loss, model.get_compile_config().get("loss_weights")
    total = torch.zeros(len(tree.leaves(outputs)[0]))
    for loss, target, output, weight in _parts(losses, targets, outputs, weights):
        resolved = resolve_loss(loss)
        if resolved is not None:
            values = resolved.call(_tensor(target), _tensor(output)).detach().float()
            total += (1.0 if weight is None else weight) * values.reshape(len(values), -1).mean(1)
    return total.numpy()


def _parts(losses: Nested, targets: Nested, outputs: Nested, weights: Nested) -> list[tuple[Nested, ...]]:
    """Return loss, target, prediction and weight of each output."""
    if not isinstance(outputs, (Mapping, Sequence)):
        return [(_only(losses), _only(targets), outputs, _only(weights))]
    names = list(outputs) if isinstance(outputs, Mapping) else range(len(outputs))

    def part(value: Nested, name: Nested) -> Nested:
        is_nested = isinstance(value, (Mapping, list, tuple))
        return (value.get(name) if isinstance(value, Mapping) else value[name]) if is_nested else value

    return [(part(losses, name), part(targets, name), outputs[name], part(weights, name)) for name in names]


def _only(value: Nested) -> Nested:
    """Return the single entry of a list or dictionary."""
    if isinstance(value, Mapping):
        value = list(value.values())
    return value[0] if isinstance(value, (list, tuple)) and len(value) == 1 else value


def _tensor(value: Nested) -> Tensor:
    return value if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))
