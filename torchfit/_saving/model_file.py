"""Reads and writes the file of a whole model: its architecture, weights, `compile` arguments and optimizer state."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchfit._saving.module_deserializer import (
    AllocationLimit,
    Initialize,
    ModuleDeserializer,
    Problems,
    check_metric_configs,
    check_patterns,
)
from torchfit._saving.module_serializer import ModuleSerializer
from torchfit._saving.weights import check_can_write, get_module_state, is_safetensors, load_state, warn_of_extension
from torchfit._serialization import archive
from torchfit._serialization.files import PathLike
from torchfit._types import Config
from torchfit._utils.collector import AddedTerm
from torchfit._utils.errors import printable, reason_of, warn
from torchfit._utils.modules import has_lazy_weights, names_in_evaluation, unwrap_key, unwrap_module
from torchfit._version import __version__
from torchfit.optimizers import TorchOptimizer

Content = dict[str, Any]

FORMAT = "torchfit model"
VERSION = 1
_PARTS = ("version", "written_by", "model", "architecture", "state", "frozen", "evaluating", "compiled", "optimizer")
_TYPES = {"version": int, "model": dict, "architecture": dict, "state": dict, "frozen": list, "evaluating": list}
_MODEL_ARGUMENTS = ("name", "input_names", "output_names", "label_names", "dtype_policy")
_LOAD_INTO_MODULE = "build the module and pass it as `module`"
_LOAD_UNCOMPILED = "pass compile=False and compile the model yourself, or pass the compiled model as `module`"
_WITHOUT_COMPILE = (
    "Pass your own classes and functions in custom_objects; or pass compile=False and compile the model yourself; "
    "or pass the compiled model as `module`."
)


@dataclass(frozen=True)
class ModelSettings:
    """The settings of a `Model`, stored in its file besides the module."""

    name: str
    input_names: Sequence[str] | None
    output_names: Sequence[str] | None
    label_names: Sequence[str] | Mapping[str, str] | None
    dtype_policy: str | None
    """The name of the dtype policy, or `None` if the module keeps its dtype."""

    hidden_attributes: frozenset[str] = frozenset()
    """Names of instance attributes that `Model` sets and that are not part of a subclass's architecture."""

    is_subclass: bool = False
    """Whether the model is of a subclass of `Model`."""

    added_terms: Sequence[AddedTerm] = ()
    """The losses and metrics added with `add_loss` and `add_metric`, in order."""


def save(
    model: object, settings: ModelSettings, path: PathLike, overwrite: bool = True, include_optimizer: bool = True
) -> None:
    """Write a model to one file, atomically.

    Args:
        model: A `Model`.
        settings: The settings of the model.
        path: Where to write.
        overwrite: Whether an existing file may be replaced.
        include_optimizer: Whether to store the arguments of `compile` and the optimizer's state.

    Raises:
        FileExistsError: If the file exists and `overwrite` is `False`.
        OSError: If the file cannot be written; the message names it.
    """
    _check_model_path(path)
    check_can_write(path, overwrite)
    content = model_config(model, settings, include_optimizer)
    archive.write(path, content)
    _warn_of_gaps(content)


def prepare_save(model: object, settings: ModelSettings, path: PathLike) -> Callable[[], None]:
    """Snapshot the model and return a function that writes the file, e.g. from another thread."""
    _check_model_path(path)
    content = model_config(model, settings)
    write = archive.prepare_write(path, content)
    _warn_of_gaps(content)
    return write


def model_config(model: Any, settings: ModelSettings, include_optimizer: bool = True) -> Content:
    """Return the content of the model's file; its tensors are the model's own, not copies."""
    module = unwrap_module(model)
    serializer = ModuleSerializer()
    root = serializer.module(module, settings.hidden_attributes if module is model else frozenset())
    is_wrapper = settings.is_subclass and module is not model
    wrapper = serializer.module(model, settings.hidden_attributes) if is_wrapper else None
    if include_optimizer and model.compiled:
        _bind_torch_optimizer(model)
    compiled = _serialize_compiled(model) if include_optimizer and model.compiled else None
    added = _serialize_added(settings.added_terms) if include_optimizer else None
    return {
        "format": FORMAT,
        "version": VERSION,
        "written_by": {"torchfit": __version__, "torch": str(torch.__version__)},
        "model": {
            "name": settings.name,
            "input_names": _optional_list(settings.input_names),
            "output_names": _optional_list(settings.output_names),
            "label_names": _plain_names(settings.label_names),
            "dtype_policy": settings.dtype_policy,
        },
        "architecture": {"root": root, "wrapper": wrapper, "nodes": serializer.nodes, "tensors": serializer.tensors},
        "state": get_module_state(model),
        "frozen": [unwrap_key(name) for name, tensor in module.named_parameters() if not tensor.requires_grad],
        "evaluating": list(map(unwrap_key, names_in_evaluation(module))),
        "compiled": compiled,
        "optimizer": model.optimizer.state_dict() if compiled and model.optimizer.built else None,
        "added": added,
        "losses": _loss_state(model.loss_modules, module) if compiled else None,
    }


def read(path: PathLike) -> Content:
    """Read the content of a model's file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, is not a model, or was written by a later version.
    """
    name, content = os.fspath(path), archive.read(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(
            f"The file {name!r} holds no torchfit model. If it holds weights, build the module and call "
            f"Model(module).load_weights({name!r})."
        )
    absent = [part for part in _PARTS if part not in content]
    if absent:
        raise ValueError(f"The file {name!r} holds no complete torchfit model: it lacks {absent}.")
    wrong = [part for part, kind in _TYPES.items() if not isinstance(content[part], kind)]
    if wrong:
        raise ValueError(f"The file {name!r} holds no torchfit model: its parts {wrong} have unexpected types.")
    if content["version"] > VERSION:
        writer = content["written_by"].get("torchfit") if isinstance(content["written_by"], dict) else None
        raise ValueError(
            f"The file {name!r} was written by torchfit {printable(writer)} in version {content['version']} of the "
            f"format; this torchfit {__version__} reads versions up to {VERSION}. Upgrade."
        )
    return content


def model_arguments(content: Content) -> Config:
    """Return the arguments of `Model` except the module."""
    return {name: content["model"].get(name) for name in _MODEL_ARGUMENTS}


def build(path: PathLike, content: Content, initialize: Initialize) -> nn.Module:
    """Build the module of a file, in its wrapper if that is of a subclass of `Model`.

    A wrapper whose class is unknown is omitted, with a warning.

    Args:
        path: The path of the file.
        content: The content of the file.
        initialize: Called with the outermost module and its children, before its parts are set.

    Raises:
        ValueError: If a class or function is unknown, or something was not saved; the message says what to pass.
    """
    name = os.fspath(path)
    with error_context(f"The model in the file {name!r} cannot be built"):
        architecture = content["architecture"]
        deserializer = ModuleDeserializer(architecture["nodes"], architecture["tensors"])
        number = _wrapper_of(content)
        if number is None or not deserializer.knows_class_of(number):
            warn_of_wrapper(path, content)
            number = architecture["root"]
        problems = deserializer.problems(number)
    if problems.reasons:
        raise ValueError(_cannot_build(name, problems))
    with error_context(f"The model in the file {name!r} cannot be built"):
        return deserializer.module(number, initialize)


def warn_of_wrapper(path: PathLike, content: Content) -> None:
    """Warn if the model was of a subclass of `Model` around a module, because that class is not restored."""
    number = _wrapper_of(content)
    if number is not None:
        kind = printable(content["architecture"]["nodes"][number]["class"]["name"])
        name = os.fspath(path)
        warn(
            f"The model in the file {name!r} is a {kind} around its module, but it is loaded as a Model, without the "
            f"methods of its class. Pass the class, load_model({name!r}, custom_objects={{{kind!r}: {kind}}}), or an "
            f"object of it: load_model({name!r}, module={kind}(...))."
        )


def restore(model: Any, path: PathLike, content: Content, compile: bool, add_terms: bool) -> None:
    """Restore the weights, the flags and the `compile` arguments of a model from a file.

    Args:
        model: The `Model` to restore.
        path: The path of the file.
        content: The content of the file.
        compile: Whether to compile the model as it was, unless it is compiled already, and to restore its optimizer.
        add_terms: Whether to restore losses and metrics from `add_loss` and `add_metric`.

    Raises:
        ValueError: If something does not fit the model; the message says what to pass.
    """
    name = os.fspath(path)
    with error_context(f"The weights of the file {name!r} cannot be restored", is_complete=True):
        load_state(model, content["state"], f"the file {name!r}")
        _restore_flags(unwrap_module(model), content)
    if not compile:
        return
    with AllocationLimit(_size(content)):
        if content["compiled"] is not None:
            _restore_compiled(name, model, content)
        if add_terms and content.get("added") is not None:
            with error_context(f"The file {name!r}: what was added to the loss cannot be restored", _WITHOUT_COMPILE):
                _restore_added(model, content["added"])
        if model.compiled:
            _restore_training(name, model, content)


def _wrapper_of(content: Content) -> int | None:
    """Return the number of the node of a subclass of `Model` around a module, if there is one."""
    number: int | None = content["architecture"].get("wrapper")
    return number


def _size(content: Content) -> int:
    """Return the size of the tensors of a file in bytes."""
    return sum(value.nbytes for value in content["state"].values() if isinstance(value, Tensor))


def _check_model_path(path: PathLike) -> None:
    if is_safetensors(path):
        raise ValueError(
            f"A .safetensors file holds weights only: call save_weights({os.fspath(path)!r}), or choose another ending."
        )
    warn_of_extension(path)


def _bind_torch_optimizer(model: Any) -> None:
    """Bind an optimizer of torch to the names of its parameters, which its configuration refers to."""
    is_bound = model.optimizer.built or not isinstance(model.optimizer, TorchOptimizer)
    if not is_bound and not has_lazy_weights(model.module):
        model.build_optimizer()


def _serialize_compiled(model: Any) -> Content:
    serializer = ModuleSerializer()
    arguments = {
        argument: serializer.value(value, f"`{argument}`") for argument, value in model.get_compile_config().items()
    }
    return {"arguments": arguments, "nodes": serializer.nodes, "tensors": serializer.tensors}


def _serialize_added(terms: Sequence[AddedTerm]) -> Content:
    serializer = ModuleSerializer()
    plain = [
        {"method": term.method, "arguments": serializer.value(term.arguments, f"`{term.method}`")} for term in terms
    ]
    return {"terms": plain, "nodes": serializer.nodes, "tensors": serializer.tensors}


def _warn_of_gaps(content: Content) -> None:
    """Warn of parts of the model that the file cannot contain, and say how to load it without them."""
    compiled, added = content["compiled"], content["added"]
    nodes = [node for node in content["architecture"]["nodes"] if "problem" in node]
    options = [*(compiled["arguments"].values() if compiled else ()), *(term["arguments"] for term in _terms(added))]
    problems = [value for value in options if isinstance(value, dict) and value["#"] == "problem"]
    lines = [f"  {node['class']['name']}: {node['problem']}" for node in nodes]
    lines += [f"  {problem['problem']}" for problem in problems]
    shared = content["losses"]["shared"] if compiled else []
    lines += [f"  `loss` shares the parameter {name} with the module, and would get one of its own" for name in shared]
    ways = [_LOAD_INTO_MODULE] * bool(nodes) + [_LOAD_UNCOMPILED] * bool(problems or shared)
    if lines:
        text = "\n".join(lines)
        warn(f"The file cannot hold everything of the model:\n{text}\nWhen loading it, {', and '.join(ways)}.")


def _loss_state(losses: nn.Module, module: nn.Module) -> Content:
    """Return the state of the losses, and which of their parameters are frozen or shared with the module."""
    named, shared = list(losses.named_parameters()), set(map(id, module.parameters()))
    return {
        "state": get_module_state(losses),
        "frozen": [name for name, parameter in named if not parameter.requires_grad],
        "shared": [name for name, parameter in named if id(parameter) in shared],
    }


def _terms(added: Content | None) -> list[Content]:
    return added["terms"] if added else []


def _cannot_build(name: str, problems: Problems) -> str:
    reasons = "\n".join(f"  {kind}: {reason}" for kind, reason in problems.reasons.items())
    return f"The model in the file {name!r} cannot be built from the file alone:\n{reasons}\n{problems.ways_out(name)}"


def _restore_flags(module: nn.Module, content: Content) -> None:
    """Restore which parameters are frozen and which submodules are in evaluation mode."""
    frozen, eval_modules = set(content["frozen"]), set(content["evaluating"])
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(unwrap_key(name) not in frozen)
    for name, submodule in module.named_modules():
        submodule.training = unwrap_key(name) not in eval_modules


def _restore_compiled(name: str, model: Any, content: Content) -> None:
    if not model.compiled:
        with error_context(f"The file {name!r}: compile() cannot be repeated", _WITHOUT_COMPILE):
            model.compile_from_config(_deserialize_compiled(content["compiled"]))


def _restore_training(name: str, model: Any, content: Content) -> None:
    """Restore the parameters of the losses, then the state of the optimizer, which trains them as well."""
    if content.get("losses"):
        with error_context(f"The file {name!r}: its losses cannot be restored", _WITHOUT_COMPILE):
            load_state(model.loss_modules, content["losses"]["state"], "the losses in the file")
            for parameter_name, parameter in model.loss_modules.named_parameters():
                parameter.requires_grad_(parameter_name not in content["losses"]["frozen"])
    if content["optimizer"] is not None:
        with error_context(f"The file {name!r}: the optimizer's state cannot be restored", _WITHOUT_COMPILE):
            model.optimizer.load_state_dict(content["optimizer"])
            model.build_optimizer()


def _deserialize_compiled(compiled: Content) -> Config:
    deserializer = ModuleDeserializer(compiled["nodes"], compiled["tensors"])
    config = {}
    for argument, plain in compiled["arguments"].items():
        with error_context(f"`{printable(argument)}`"):
            config[argument] = deserializer.value(plain)
            if argument in ("metrics", "weighted_metrics"):
                check_metric_configs(config[argument])
            elif argument == "optimizer":
                check_patterns(config[argument])
    return config


def _restore_added(model: object, added: Content) -> None:
    deserializer = ModuleDeserializer(added["nodes"], added["tensors"])
    for term in added["terms"]:
        method, arguments = term["method"], deserializer.value(term["arguments"])
        if method not in ("add_loss", "add_metric"):
            raise ValueError(f"there is no method {printable(method)!r} to add something with")
        getattr(model, method)(**arguments)


@contextmanager
def error_context(what: str, way_out: str = "", is_complete: bool = False) -> Iterator[None]:
    """Convert every exception to a `ValueError` that says what failed and what to do.

    Args:
        what: What failed.
        way_out: What to do instead.
        is_complete: Whether a `ValueError` raised inside is complete and passes unchanged.

    Raises:
        ValueError: Instead of any other exception.
    """
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:
        if is_complete and isinstance(error, ValueError):
            raise
        raise ValueError(f"{what}: {reason_of(error)}. {way_out}".rstrip()) from error


def _plain_names(names: Sequence[str] | Mapping[str, str] | None) -> list[str] | dict[str, str] | str | None:
    if isinstance(names, Mapping):
        return dict(names)
    return names if isinstance(names, str) else _optional_list(names)


def _optional_list(names: Sequence[str] | None) -> list[str] | None:
    return None if names is None else list(names)
