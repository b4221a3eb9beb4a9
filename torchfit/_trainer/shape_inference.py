"""Which names will occur in the logs: found out before training, without running it.

The module is called with tensors that have shapes and no values (torch's "meta" device), which costs no memory and
draws no random numbers. What modules note in their attributes meanwhile is put back. Where a module cannot be called
so, nothing is known beforehand.
"""

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from torchfit._trainer.logs import flatten
from torchfit._utils import tree
from torchfit._utils.batch import Batch
from torchfit._utils.rng import random_state, restore_random_state


def logged_names(
    objective: Any, others: list[Any], call: Callable[[Any], Any] | None, module: nn.Module, batch: Batch | None
) -> list[str] | None:
    """Return the names of the results after a batch, `None` where that cannot be known.

    Args:
        objective: The objective of the model, which stays as it is.
        others: The metrics of the model that are none of the objective.
        call: Calls the module with inputs; `None` where there is no batch.
        module: The module that `call` runs.
        batch: A batch like the first one, `None` where none can be had.
    """
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            objective, others = copy.deepcopy((objective, others))
            if not objective.terms and call is not None and batch is not None:
                _see(objective, call, module, batch)
            if not objective.terms:
                return None
            return list(flatten({metric.name: metric.result() for metric in (*objective.metrics, *others)}))
    except Exception:  # Whatever it is, training will say it better.
        return None


def _see(objective: Any, call: Callable[[Any], Any], module: nn.Module, batch: Batch) -> None:
    """Let an objective see targets and outputs of the right shapes."""
    shapes = shapes_of_outputs(call, module, batch.inputs)
    device = tree.leaves(batch.inputs)[0].device
    outputs = tree.map(lambda leaf: torch.zeros(leaf.shape, dtype=leaf.dtype, device=device), shapes)
    objective.update_metrics(batch.targets, outputs, batch.sample_weight)
    for metric in objective.metrics:
        metric.reset_state()


def shapes_of_outputs(call: Callable[[Any], Any], module: nn.Module, inputs: Any) -> Any:
    """Return what `call(inputs)` would return, as tensors without values.

    Raises:
        Exception: Whatever the module raises when it is called without values.
    """
    with _unchanged(module), torch.compiler.set_stance("force_eager"):
        _empty(module)
        return call(tree.map(lambda leaf: leaf.to("meta"), inputs))


def _empty(module: nn.Module) -> None:
    """Put tensors without values in the place of parameters and buffers, also in lists of them, as those of RNNs."""
    tensors = [*module.parameters(), *module.buffers()]
    if any(map(is_lazy, tensors)):
        raise ValueError("A lazy layer saw no data yet.")
    empty = {id(tensor): torch.empty_like(tensor, device="meta") for tensor in tensors}
    for part in module.modules():
        attributes = vars(part)
        for name in ("_parameters", "_buffers"):
            attributes[name] = {key: empty.get(id(tensor)) for key, tensor in attributes[name].items()}
        for name, value in list(attributes.items()):
            if isinstance(value, list) and any(id(entry) in empty for entry in value):
                attributes[name] = [empty.get(id(entry), entry) for entry in value]


@contextmanager
def _unchanged(module: nn.Module) -> Iterator[None]:
    """Put the attributes of all submodules, and the random generators, back as they were."""
    before = [(part, dict(vars(part))) for part in module.modules()]
    generators = random_state(devices=False)
    try:
        yield
    finally:
        restore_random_state(generators)
        for part, attributes in before:
            vars(part).clear()
            vars(part).update(attributes)
