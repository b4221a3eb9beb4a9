"""Utilities for modules: their device, dtype, weights and mode, wrappers around them, and frozen parameters."""

import copy
import fnmatch
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from torchfit._utils.compat import ModuleTables, child_table, is_extra_state, parameter_table
from torchfit._utils.errors import describe
from torchfit._utils.names import did_you_mean, suggest_keywords

Value = TypeVar("Value")

_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)
_COMPILED = "_orig_mod"


class ModuleWrapper(nn.Module):
    """A module that wraps another one, or is itself the module if a subclass defines `forward`."""

    @property
    def module(self) -> nn.Module:
        """The wrapped module; `self` in a subclass that defines its own `forward`."""
        module = self._modules.get("module")
        return self if module is None else module


def unwrap_module(module: nn.Module) -> nn.Module:
    """Return the module itself, without a `Model`, `torch.compile` or data-parallel wrapper around it.

    >>> net = nn.Linear(1, 1)
    >>> unwrap_module(nn.DataParallel(net)) is net
    True
    """
    while True:
        inner = _inner(module)
        if inner is module:
            return module
        module = inner


def _inner(module: nn.Module) -> nn.Module:
    if isinstance(module, ModuleWrapper):
        return module.module
    inner = ModuleTables(module).children.get("module" if isinstance(module, _PARALLEL) else _COMPILED)
    return module if inner is None else inner


def unwrap_key(key: str) -> str:
    """Return a key of a `state_dict` without the names that `torch.compile` puts into it.

    >>> unwrap_key("encoder._orig_mod.weight")
    'encoder.weight'
    """
    return ".".join(part for part in key.split(".") if part != _COMPILED) if _COMPILED in key else key


def unwrap_keys(state: dict[str, Value], wanted: Iterable[str]) -> dict[str, Value]:
    """Return a state under unwrapped keys; the `module.` of data-parallel wrappers is removed unless it is wanted.

    >>> unwrap_keys({"module._orig_mod.weight": 1}, ["weight"])
    {'weight': 1}
    """
    state = {unwrap_key(key): value for key, value in state.items()}
    if all(key.startswith("module.") for key in state) and not any(key.startswith("module.") for key in wanted):
        return {key.removeprefix("module."): value for key, value in state.items()}
    return state


def class_name(module: nn.Module) -> str:
    """Return the name of a module's class; TorchScript keeps that of the class that it compiled."""
    name = type(module).__name__
    return getattr(module, "original_name", name) if isinstance(module, torch.jit.ScriptModule) else name


def takes_hooks(module: nn.Module) -> bool:
    """Return whether hooks on a module are called: TorchScript runs without them."""
    return not isinstance(module, torch.jit.ScriptModule)


_CALLS_PER_LEVEL = 12  # of copy.deepcopy, with a margin
_MAX_LEVELS = 1000
_EVAL_FLAG = "_torchfit_keeps_evaluation_mode"
_modes_lock = threading.RLock()  # held while `train` of the user's modules runs
_modes_before: list[dict[nn.Module, bool]] = []  # one for each call of `training_mode` in progress, in order


def device_of(module: nn.Module) -> torch.device:
    """Return the device of the first parameter or buffer, or the CPU if there are none."""
    return next((tensor.device for tensor in chain(module.parameters(), module.buffers())), torch.device("cpu"))


def floating_dtype_of(module: nn.Module) -> torch.dtype:
    """Return the floating dtype of the first parameter or buffer that has one, else torch's default."""
    for submodule in module.modules():
        for tensor in parameter_table(submodule).values():
            if tensor is not None and tensor.is_floating_point() and not is_lazy(tensor):
                return tensor.dtype
    buffers = (buffer.dtype for buffer in module.buffers() if not is_lazy(buffer) and buffer.is_floating_point())
    return next(buffers, torch.get_default_dtype())


def named_weights(module: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a module's `state_dict`, not copied and without the results of `get_extra_state`."""
    state = module.state_dict(keep_vars=True)
    return {key: value for key, value in state.items() if isinstance(value, Tensor) and not is_extra_state(key)}


def weight_tensors(module: nn.Module) -> list[Tensor]:
    """Return the weights as Keras counts them: parameters, and floating-point buffers."""
    return [*module.parameters(), *(buffer for buffer in module.buffers() if buffer.is_floating_point())]


def has_lazy_weights(module: nn.Module) -> bool:
    """Return whether the module has lazy weights, which its first batch will create."""
    return any(map(is_lazy, weight_tensors(module)))


def names_in_evaluation(module: nn.Module) -> list[str]:
    """Return the names of the modules in evaluation mode, and of frozen TorchScript, which has no mode."""
    return [name for name, submodule in module.named_modules() if not getattr(submodule, "training", False)]


@contextmanager
def training_mode(
    module: nn.Module,
    training: bool,
    submodules: Iterable[nn.Module] | None = None,
    others: Sequence[nn.Module] = (),
) -> Iterator[None]:
    """Put every submodule into train or evaluation mode, and restore the mode of each on exit.

    Layers that stay in evaluation mode (`set_stays_in_eval`) are not put into train mode. Threads may share evaluation
    mode: one that exits while others use a submodule leaves it to them to restore its mode.

    Args:
        module: The module.
        training: Whether the mode is train mode.
        submodules: The submodules, if they are known already and need not be looked up.
        others: Modules among the submodules that are no parts of the module, such as losses, each before its own parts.
    """
    lock = nullcontext() if torch.compiler.is_compiling() else _modes_lock  # A graph runs in one thread.
    with lock:
        modules = _modules_of(module) if submodules is None else (module, *submodules)
        saved_modes = {each: getattr(each, "training", False) for each in modules}  # Frozen TorchScript has no mode.
        set_attribute = _set_mode((module, *others), training, saved_modes)
        _modes_before.append(saved_modes)
    try:
        yield
    finally:
        with lock:
            later_calls = _remove(saved_modes)
            for submodule, was_training in saved_modes.items():
                other = next((modes for modes in later_calls if submodule in modes), None) if later_calls else None
                if other is None:
                    set_attribute(submodule, "training", was_training)
                else:
                    other[submodule] = was_training


def _modules_of(module: nn.Module) -> list[nn.Module]:
    """Return what `module.modules()` yields, in another order, without its nested generators."""
    found, unseen = {module}, [module]
    for each in unseen:
        new = [child for child in child_table(each).values() if child is not None and child not in found]
        found.update(new)
        unseen += new
    return unseen


def _set_mode(
    roots: Sequence[nn.Module], training: bool, submodules: Iterable[nn.Module]
) -> Callable[[nn.Module, str, bool], None]:
    """Do what `train(training)` of each root does, in a fifth of the time if no submodule overrides `train`.

    Returns:
        What sets attributes of all these modules: TorchScript has them in compiled code.
    """
    kinds: set[type[nn.Module]] = set(map(type, submodules))
    has_scripts = [kind for kind in kinds if issubclass(kind, torch.jit.ScriptModule)]
    set_attribute = setattr if has_scripts else object.__setattr__  # The latter is much faster.
    own = [kind for kind in kinds if kind.train is not nn.Module.train]
    # A module of `torch.export`, whose mode is fixed, has a `train` of its own that only raises.
    own += [type(each) for each in submodules if "train" in vars(each) and not isinstance(each, torch.fx.GraphModule)]
    if own:
        for root in roots:
            root.train(training)
    else:
        for submodule in submodules:
            set_attribute(submodule, "training", training)
    for submodule in _staying_in_eval(submodules, kinds) if training else ():
        submodule.training = False
    return set_attribute


def _staying_in_eval(submodules: Iterable[nn.Module], kinds: set[type[nn.Module]]) -> list[nn.Module]:
    """Return the submodules that stay in evaluation mode during training."""
    if [kind for kind in kinds if kind.__getattr__ is not nn.Module.__getattr__]:
        return list(filter(stays_in_eval, submodules))
    return [each for each in submodules if _EVAL_FLAG in vars(each)]


def _remove(saved_modes: dict[nn.Module, bool]) -> list[dict[nn.Module, bool]]:
    """Remove the modes saved by a call, and return those of later calls in progress."""
    position = next(position for position, modes in enumerate(_modes_before) if modes is saved_modes)
    later_calls = _modes_before[position + 1 :]
    del _modes_before[position]
    return later_calls


def copy_scripts(module: nn.Module, memo: dict[int, object]) -> None:
    """Copy the TorchScript modules in a module for a deep copy of it.

    The parameters of torch's own copies are results of a calculation, which no optimizer takes, and other objects that
    hold the parameters, such as optimizers, get further copies of them.
    """
    inner: set[nn.Module] = set()
    for script in module.modules():
        if isinstance(script, torch.jit.ScriptModule) and script not in inner:
            inner.update(script.modules())
            tensors, copies = _tensors_of(script), _tensors_of(copy.deepcopy(script, memo))
            for tensor, copied in zip(tensors, copies):
                memo[id(tensor)] = copied if copied.is_leaf else copied.detach_().requires_grad_()


def _tensors_of(module: nn.Module) -> list[Tensor]:
    """Return the parameters and buffers, shared ones repeatedly."""
    named = module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False)
    return [tensor for _, tensor in chain(*named)]


@contextmanager
def deep_recursion(module: nn.Module) -> Iterator[None]:
    """Raise the recursion limit as needed to copy a module, however deeply it is nested."""
    stack, seen_ids = [module], {id(module)}
    while stack:
        unseen = [child for child in stack.pop().children() if id(child) not in seen_ids]
        seen_ids.update(map(id, unseen))
        stack += unseen
    saved_modes = sys.getrecursionlimit()
    sys.setrecursionlimit(saved_modes + _CALLS_PER_LEVEL * min(len(seen_ids), _MAX_LEVELS))
    try:
        yield
    finally:
        sys.setrecursionlimit(saved_modes)


def has_running_stats(module: nn.Module) -> bool:
    """Return whether a layer keeps running statistics of its inputs in train mode, as `nn.BatchNorm1d` does."""
    return getattr(module, "running_mean", None) is not None


def stays_in_eval(module: nn.Module) -> bool:
    """Return whether a layer stays in evaluation mode during training."""
    has_own_lookup = type(module).__getattr__ is not nn.Module.__getattr__
    return _EVAL_FLAG in vars(module) or (has_own_lookup and getattr(module, _EVAL_FLAG, False))


def set_stays_in_eval(module: nn.Module, kept: bool) -> None:
    """Set whether a layer stays in evaluation mode during training; copies of it do the same."""
    if kept:
        setattr(module, _EVAL_FLAG, True)
    else:
        vars(module).pop(_EVAL_FLAG, None)


@suggest_keywords
def freeze(model: nn.Module, *patterns: str) -> list[str]:
    """Keep parameters from being trained: `requires_grad` becomes `False`.

    Normalisation layers whose parameters are all frozen stay in evaluation mode when torchfit trains: their running
    statistics are frozen as well, as in Keras. During `fit`, a change between two epochs takes effect in the next one.

    Args:
        model: A `Model` or any module.
        *patterns: Names of submodules or parameters, as in `named_modules` and `named_parameters`; `*`, `?` and
            `[…]` are wildcards. The name of a submodule stands for all parameters in it. Without patterns, all
            parameters are frozen.

    Returns:
        The names of the parameters that match the patterns.

    Raises:
        ValueError: If a pattern matches nothing.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    >>> freeze(net, "0", "1")
    ['0.weight', '0.bias', '1.weight', '1.bias']
    >>> [name for name, parameter in net.named_parameters() if parameter.requires_grad]
    ['2.weight', '2.bias']
    """
    return set_trainable(model, patterns, trained=False)


@suggest_keywords
def unfreeze(model: nn.Module, *patterns: str) -> list[str]:
    """Make parameters trainable again; the arguments and the result are those of `freeze`.

    >>> net = nn.Linear(4, 2)
    >>> freeze(net), unfreeze(net, "bias")
    (['weight', 'bias'], ['bias'])
    """
    return set_trainable(model, patterns, trained=True)


def set_trainable(model: nn.Module, patterns: Iterable[str], *, trained: bool) -> list[str]:
    """Set `requires_grad` of the parameters that match the patterns and return their names; no patterns match all.

    Normalisation layers whose parameters are all frozen stay in evaluation mode during training.

    Raises:
        ValueError: If a pattern matches nothing.
    """
    module = _module_of(model)
    matching = matching_parameters(module, patterns)
    for name, parameter in module.named_parameters():
        if name in matching and (parameter.is_floating_point() or parameter.is_complex()):
            parameter.requires_grad_(trained)
    for submodule in module.modules():
        own_parameters = list(submodule.parameters(recurse=False))
        if own_parameters and has_running_stats(submodule):
            set_stays_in_eval(submodule, not any(parameter.requires_grad for parameter in own_parameters))
    return [name for name, _ in module.named_parameters() if name in matching]


def _module_of(model: nn.Module) -> nn.Module:
    module = getattr(model, "module", model)
    if not isinstance(module, nn.Module):
        module = model
    if not isinstance(module, nn.Module):
        raise ValueError(f"`model` must be a Model or a module, but it is {describe(model)}.")
    return module


def matching_parameters(module: nn.Module, patterns: Iterable[str]) -> set[str]:
    """Return the names of the parameters that match one of the patterns; no patterns match all.

    Raises:
        ValueError: If a pattern matches nothing.
    """
    names = [name for name, _ in module.named_parameters()]
    patterns = list(patterns)
    if not patterns:
        return set(names)
    matching: set[str] = set()
    for pattern in patterns:
        found = {name for name in names if any(fnmatch.fnmatchcase(part, pattern) for part in _with_owners(name))}
        if not found:
            known = dict.fromkeys(part for name in names for part in _with_owners(name))
            raise ValueError(f"{pattern!r} is the name of no parameter or submodule. {did_you_mean(pattern, known)}")
        matching |= found
    return matching


def _with_owners(name: str) -> Iterator[str]:
    """Yield the name of a parameter and those of the modules that contain it.

    >>> list(_with_owners("layer1.0.weight"))
    ['layer1', 'layer1.0', 'layer1.0.weight']
    """
    parts = name.split(".")
    return (".".join(parts[:end]) for end in range(1, len(parts) + 1))
