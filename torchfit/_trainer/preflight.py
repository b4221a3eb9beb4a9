"""Checks before training, so that mistakes show up in the first second and not after an hour.

Each check is made where it is cheapest, and none needs an additional step:

- names of monitored values, and whether files can be written: by the callbacks, in `on_train_begin`;
- frozen layers that keep changing, layers frozen as in Keras, modules that functions use as losses: here, from the
  modules and functions alone;
- shapes: by the losses, at every call;
- a last batch of one sample, which batch normalization cannot be trained on: here, without values;
- class indices, ranges, logits instead of probabilities: with the first batch, when the loss is computed and before
  anything is updated (`losses.checks.check_targets`);
- parameters without a gradient: by the optimizer, at its first update.

The checks therefore consume no data, and do not change random states, buffers or metrics.

The names of the logs are inferred by calling the module with tensors on torch's "meta" device, which have shapes but no
values: this takes no memory and draws no random numbers. Attributes that modules change meanwhile are restored. If a
module cannot be called this way, the names stay unknown.
"""

import copy
import inspect
import warnings
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from torchfit._data.epoch_iterator import EpochIterator
from torchfit._trainer.base_model import BaseModel, iter_attribute_metrics
from torchfit._trainer.logs import flatten
from torchfit._trainer.module_call import Call, make_module_call
from torchfit._trainer.objective import Objective, UncompiledObjective
from torchfit._trainer.step_state import StepState
from torchfit._trainer.steps import count_rows
from torchfit._types import Nested
from torchfit._utils import tree
from torchfit._utils.errors import warn
from torchfit._utils.modules import class_name, has_running_stats
from torchfit._utils.rng import random_state, restore_random_state
from torchfit._utils.tree import Batch
from torchfit.metrics import Metric


def infer_log_names_of_model(model: BaseModel, state: StepState, batch: Batch | None) -> list[str] | None:
    """Return the names that the logs of a model will have, or `None` if they cannot be inferred from a first batch."""
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
    objective: Objective | UncompiledObjective,
    others: list[Metric],
    call: Call | None,
    module: nn.Module,
    batch: Batch | None,
) -> list[str] | None:
    """Return the names of the results after a batch, or `None` if they cannot be inferred.

    Args:
        objective: The objective of the model, which is not changed.
        others: The metrics of the model that do not belong to the objective.
        call: A function that calls the module with inputs, or `None` if there is no batch.
        module: The module that `call` runs.
        batch: A batch like the first one, or `None`.
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


def _dry_run(objective: Objective | UncompiledObjective, call: Call, module: nn.Module, batch: Batch) -> None:
    """Update an objective with targets and outputs of the right shapes."""
    shapes = infer_output_shapes(call, module, batch.inputs)
    device = tree.leaves(batch.inputs)[0].device
    outputs = tree.map(lambda leaf: torch.zeros(leaf.shape, dtype=leaf.dtype, device=device), shapes)
    objective.update_metrics(batch.targets, outputs, batch.sample_weight)
    for metric in objective.metrics:
        metric.reset_state()


def infer_output_shapes(call: Call, module: nn.Module, inputs: Nested) -> Nested:
    """Return what `call(module, inputs)` would return, as tensors without values.

    Raises:
        Exception: Whatever the module raises when it is called without values.
    """
    with _restore_module(module), torch.compiler.set_stance("force_eager"):
        _to_meta(module)
        return call(module, tree.map(lambda leaf: leaf.to("meta"), inputs))


def _to_meta(module: nn.Module) -> None:
    """Replace parameters and buffers, including those in lists, as RNNs have them, by meta tensors."""
    tensors = [*module.parameters(), *module.buffers()]
    if any(map(is_lazy, tensors)):
        raise ValueError("A lazy layer has not seen data yet.")
    if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
        raise ValueError("The tensors of TorchScript modules cannot be replaced.")
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


_MAX_NAMES = 3
_ONE_VALUE = "more than 1 value per channel"


def preflight(module: nn.Module, state: StepState, batches: EpochIterator, parameters: Sequence[nn.Parameter]) -> None:
    """Check the module, which is in train mode, and the last batch, and make the objective check the first batch.

    Args:
        module: The module to train.
        state: The step state of the model.
        batches: The training data.
        parameters: The parameters of the module and of losses.
    """
    state.objective.checks_first_batch = True
    _warn_of_hidden_modules(state.objective, set(map(id, parameters)))
    if not any(parameter.requires_grad for parameter in parameters):
        _check_not_constant(module)
        warn(
            f"{type(module).__name__} has no trainable parameters, so `fit` updates only buffers, such as running "
            "statistics. If its parameters are frozen by mistake, call torchfit.utils.unfreeze(model)."
        )
        return
    _warn_of_keras_flags(module, parameters)
    normalising = [(name, each) for name, each in module.named_modules() if has_running_stats(each) and each.training]
    if not normalising:
        return
    _check_last_batch(module, state, batches)
    moving = [name for name, layer in normalising if _is_frozen(layer)]
    if moving:
        more = f" and {len(moving) - _MAX_NAMES} more" if len(moving) > _MAX_NAMES else ""
        warn(
            f"The weights of {', '.join(map(repr, moving[:_MAX_NAMES]))}{more} are frozen, but these normalisation "
            "layers are in train mode: they normalise by batch and their running statistics keep changing. Freeze "
            "them with torchfit.utils.freeze(model, name), which keeps them in evaluation mode."
        )


def _check_not_constant(module: nn.Module) -> None:
    """Check that the weights of a TorchScript module have not become constants.

    Raises:
        ValueError: If they have, or if there never were any.
    """
    if isinstance(module, torch.jit.ScriptModule) and not [*module.parameters(), *module.buffers()]:
        raise ValueError(
            f"{class_name(module)} has no parameters to train: torch.jit.freeze makes them constants. Train the module "
            "first, and freeze it then."
        )


def _warn_of_hidden_modules(objective: Objective | UncompiledObjective, known: Container[int]) -> None:
    """Warn of modules that a custom loss function uses, and whose parameters are not trained."""
    for name, used in objective.hidden_modules():
        if any(parameter.requires_grad and id(parameter) not in known for parameter in used.parameters()):
            warn(
                f"The loss uses {name!r}, a {type(used).__name__} whose parameters are not trained with the model. "
                f"Pass it where it is seen, compile(loss=functools.partial(function, {name}={name})), or the module "
                "itself; or freeze it with requires_grad_(False) if it is meant to stay."
            )


def _check_last_batch(module: nn.Module, state: StepState, batches: EpochIterator) -> None:
    """Check that a module that normalises can be trained on a last batch of one sample, by calling it without values.

    Raises:
        ValueError: If a layer needs several values, as batch normalization does.
    """
    batch = None if batches.samples is None else batches.peek()
    if batch is None or (batches.samples or 0) % count_rows(batch.targets, batch.inputs) != 1:
        return
    one = tree.map(lambda leaf: leaf[:1], batch.inputs)
    previous = state.auxiliary.enter()
    try:
        infer_output_shapes(make_module_call(state.call.signature(module), one), module, one)
    except Exception as error:  # Other errors will be raised by the step itself.
        if _ONE_VALUE in str(error):
            raise
    finally:
        state.auxiliary.leave(previous)


def _warn_of_keras_flags(module: nn.Module, parameters: Sequence[nn.Parameter]) -> None:
    """Warn of layers and parameters with Keras' attribute `trainable = False`, which PyTorch ignores."""
    if not any(vars(owner).get("trainable") is False for owner in chain(module.modules(), parameters)):
        return
    owners = [*module.named_modules(), *module.named_parameters()]
    ignored = [name for name, owner in owners if _has_keras_flag(owner)]
    if ignored:
        name = ignored[0]
        subject, way_out = (f"'{name}'", f"model, {name!r}") if name else ("the module", "model")
        more = f" (and {len(ignored) - 1} more)" if len(ignored) > 1 else ""
        warn(
            f"`trainable = False` of {subject}{more} has no effect: PyTorch trains what has `requires_grad`. Freeze it "
            f"with torchfit.utils.freeze({way_out})."
        )


def _has_keras_flag(owner: nn.Module | nn.Parameter) -> bool:
    """Return whether a trained module or parameter has `trainable = False`, unless its class defines `trainable`."""
    if vars(owner).get("trainable") is not False:
        return False
    if isinstance(owner, nn.Parameter):
        return owner.requires_grad
    is_own_argument = "trainable" in inspect.signature(type(owner)).parameters
    return not is_own_argument and any(parameter.requires_grad for parameter in owner.parameters())


def _is_frozen(layer: nn.Module) -> bool:
    """Return whether a layer has weights, and none of them is trained."""
    weights = list(layer.parameters(recurse=False))
    return bool(weights) and not any(weight.requires_grad for weight in weights)
