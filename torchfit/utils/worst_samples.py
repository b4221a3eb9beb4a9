"""`worst_samples`, which finds the samples with the highest losses, for example to find wrong labels."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from torchfit._data.adapters.dispatch import as_batch
from torchfit._data.convert import BatchSpec, check_lengths
from torchfit._trainer.loss_tracking import LossTerm
from torchfit._trainer.objective import Objective
from torchfit._trainer.output_objective import Shape
from torchfit._types import Array, Nested, UserData
from torchfit._utils import tree, validation
from torchfit._utils.errors import describe
from torchfit._utils.modules import device_of, floating_dtype_of, training_mode
from torchfit._utils.names import suggest_keywords
from torchfit._utils.tree import Batch
from torchfit.losses.base import zero_if_empty


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
        Positions, losses and predictions. The loss of a sample is the mean of its values, computed from targets and
        outputs as in `evaluate`; those of several outputs are added up, multiplied by the `loss_weights` of `compile`.
        Samples whose loss is NaN come first.

    Raises:
        ValueError: If the model has no loss, its loss is one number for a batch, or the targets are missing.

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
    best = np.argsort(-np.nan_to_num(losses, nan=np.inf, posinf=np.inf, neginf=-np.inf), kind="stable")[:k]
    return WorstSamples(best, losses[best], tree.map(lambda leaf: leaf[best], outputs))


def _targets_of(dataset: UserData) -> UserData:
    if not isinstance(dataset, Dataset) or not hasattr(dataset, "__len__"):
        raise ValueError(
            f"`y` is missing: pass the targets, or as `x` a torch Dataset of (input, target). Received: "
            f"{describe(dataset)}."
        )
    return default_collate([dataset[index][1] for index in range(len(dataset))])


def _losses(model: Any, targets: UserData, outputs: Nested) -> Array:
    """Return the loss of each sample, computed from targets and outputs as in `evaluate`."""
    batch_spec = BatchSpec(device_of(model.module), floating_dtype_of(model.module))
    batch = as_batch(outputs, targets, None, batch_spec)
    check_lengths({"x": batch.inputs, "y": batch.targets})
    weights = model.get_compile_config().get("loss_weights")
    objective = Objective(model.loss, weights, output_names=model.output_names or None)
    with torch.no_grad(), training_mode(model, False):
        _check_is_separable(objective, batch)
        losses = [_loss_of(objective, sample) for sample in _samples_of(batch)]
    return torch.stack(losses).cpu().numpy()


def _check_is_separable(objective: Objective, batch: Batch) -> None:
    """Check that the loss of a batch is made of losses of its samples, by computing it."""
    objective.loss(batch.targets, batch.inputs, None)
    names = [term.output for term in objective.losses.terms if not term.is_separable]
    if names:
        raise ValueError(
            f"`worst_samples` needs a loss of each sample, but the loss of {', '.join(map(repr, names))} is one number "
            "for a batch, or compares samples. Compile one that returns one value per sample, (batch,)."
        )


def _samples_of(batch: Batch) -> Iterator[Batch]:
    """Yield batches of one sample each."""
    unflatten = tree.unflattener(tuple(batch))
    for leaves in zip(*(leaf.split(1) for leaf in tree.leaves(tuple(batch)))):
        yield Batch(*unflatten(leaves))


def _loss_of(objective: Objective, sample: Batch) -> Tensor:
    """Return the sum of the weighted losses of all outputs, each the mean of the values of a sample."""
    objective.loss(sample.targets, sample.inputs, None)
    shapes = {output.name: output.shapes for output in objective.outputs}
    return torch.stack([_mean_of(term, shapes.get(term.output)) for term in objective.losses.terms]).sum()


def _mean_of(term: LossTerm, shapes: tuple[Shape, Shape] | None) -> Tensor:
    """Return the mean of all values; those of ignored labels are 0, and those of class weights are weighted."""
    value, denominator = zero_if_empty(term.value, term.denominator), term.denominator
    if not isinstance(denominator, Tensor):
        return value
    return value * denominator / math.prod(shapes[0][1:] if shapes else ())
