"""Infer the log names before training, without running a step.

The module is called with tensors on torch's "meta" device, which have shapes and no values: this takes no memory and
draws no random numbers. Attributes that modules change meanwhile are restored. If a module cannot be called that way,
the names stay unknown.
"""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from torchfit._trainer.base_model import BaseModel, iter_attribute_metrics
from torchfit._trainer.logs import flatten
from torchfit._trainer.module_call import Call, make_module_call
from torchfit._trainer.step_state import StepState
from torchfit._utils import tree
from torchfit._utils.batch import Batch
from torchfit._utils.rng import random_state, restore_random_state


def infer_log_names_of_model(model: BaseModel, state: StepState, batch: Batch | None) -> list[str] | None:
    """Return the names that the logs of a model will have, `None` if they cannot be inferred from a first batch."""
    auxiliary, module = state.auxiliary, model.module
    others = [*iter_attribute_metrics(model), *auxiliary.metrics.values()]
    previous = auxiliary.enter()
    try:
        with auxiliary.hooks_installed(module):
            call = None if batch is None else make_module_call(state.call.signature(module), batch.inputs)
            names = infer_log_names(state.objective, others, call, module, batch)
        added = auxiliary.logged_names()
    finally:
        auxiliary.leave(previous)
    return None if names is None else list(dict.fromkeys([*names, *added]))


def infer_log_names(
    objective: Any, others: list[Any], call: Call | None, module: nn.Module, batch: Batch | None
) -> list[str] | None:
    """Return the names of the results after a batch, `None` if they cannot be inferred.

    Args:
        objective: The objective of the model, which is not changed.
        others: The metrics of the model that are not the objective's.
        call: Calls the module with inputs; `None` if there is no batch.
        module: The module that `call` runs.
        batch: A batch like the first one, `None` if there is none.
    """
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            objective, others = copy.deepcopy((objective, others))
            if not objective.outputs and call is not None and batch is not None:
                _dry_run(objective, call, module, batch)
            if not objective.outputs:
                return None
            return list(flatten({metric.name: metric.result() for metric in (*objective.metrics, *others)}))
    except Exception:  # The first training step will raise it with a better message.
        return None


def _dry_run(objective: Any, call: Call, module: nn.Module, batch: Batch) -> None:
    """Update an objective with targets and outputs of the right shapes."""
    shapes = infer_output_shapes(call, module, batch.inputs)
    device = tree.leaves(batch.inputs)[0].device
    outputs = tree.map(lambda leaf: torch.zeros(leaf.shape, dtype=leaf.dtype, device=device), shapes)
    objective.update_metrics(batch.targets, outputs, batch.sample_weight)
    for metric in objective.metrics:
        metric.reset_state()


def infer_output_shapes(call: Call, module: nn.Module, inputs: Any) -> Any:
    """Return what `call(module, inputs)` would return, as tensors without values.

    Raises:
        Exception: Whatever the module raises when it is called without values.
    """
    with _restore_module(module), torch.compiler.set_stance("force_eager"):
        _to_meta(module)
        return call(module, tree.map(lambda leaf: leaf.to("meta"), inputs))


def _to_meta(module: nn.Module) -> None:
    """Replace parameters and buffers, also those in lists as RNNs have them, by meta tensors."""
    tensors = [*module.parameters(), *module.buffers()]
    if any(map(is_lazy, tensors)):
        raise ValueError("A lazy layer has not seen data yet.")
    empty = {id(tensor): torch.empty_like(tensor, device="meta") for tensor in tensors}
    for part in module.modules():
        attributes = vars(part)
        for name in ("_parameters", "_buffers"):
            attributes[name] = {key: empty.get(id(tensor)) for key, tensor in attributes[name].items()}
        for name, value in list(attributes.items()):
            if isinstance(value, list) and any(id(entry) in empty for entry in value):
                attributes[name] = [empty.get(id(entry), entry) for entry in value]


@contextmanager
def _restore_module(module: nn.Module) -> Iterator[None]:
    """Restore the attributes of all submodules, and the random generators, on exit."""
    before = [(part, dict(vars(part))) for part in module.modules()]
    generators = random_state(devices=False)
    try:
        yield
    finally:
        restore_random_state(generators)
        for part, attributes in before:
            vars(part).clear()
            vars(part).update(attributes)
