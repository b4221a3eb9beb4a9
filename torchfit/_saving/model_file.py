"""The file of a whole model: its architecture, weights, `compile` arguments and optimizer state."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from torchfit._saving.module_deserializer import ModuleDeserializer
from torchfit._saving.module_serializer import ModuleSerializer
from torchfit._saving.weights import check_can_write, get_module_state, is_safetensors, load_state
from torchfit._serialization import archive
from torchfit._serialization.files import PathLike
from torchfit._utils.wrapping import unwrap_key, unwrap_module
from torchfit._version import __version__

Content = dict[str, Any]

FORMAT = "torchfit model"
VERSION = 1
_PARTS = ("version", "written_by", "model", "architecture", "state", "frozen", "evaluating", "compiled", "optimizer")
_WITHOUT_COMPILE = (
    "Pass your own classes and functions in custom_objects; or pass compile=False and compile the model yourself; "
    "or pass the compiled model as `module`."
)


@dataclass(frozen=True)
class ModelSettings:
    """What a model file holds of the `Model` itself, beside the module."""

    name: str
    input_names: Sequence[str] | None
    output_names: Sequence[str] | None
    dtype_policy: str | None
    """The name of the policy, `None` if the module keeps its dtype."""

    hidden_attributes: frozenset[str] = frozenset()
    """Attributes of the instance that `Model` sets, which are not part of a subclass's architecture."""


def save(
    model: Any, settings: ModelSettings, path: PathLike, overwrite: bool = True, include_optimizer: bool = True
) -> None:
    """Write a model to one file, whole or not at all.

    Args:
        model: A `Model`.
        settings: What the model says of itself.
        path: Where to write.
        overwrite: Whether an existing file may be replaced.
        include_optimizer: Whether to store the arguments of `compile` and the optimizer's state.

    Raises:
        FileExistsError: The file exists, and `overwrite` is `False`.
        OSError: The file cannot be written; it is named.
    """
    _check_model_path(path)
    check_can_write(path, overwrite)
    archive.write(path, model_config(model, settings, include_optimizer))


def prepare_save(model: Any, settings: ModelSettings, path: PathLike) -> Callable[[], None]:
    """Snapshot the model and return a function that writes the file, e.g. from another thread."""
    _check_model_path(path)
    return archive.prepare_write(path, model_config(model, settings))


def model_config(model: Any, settings: ModelSettings, include_optimizer: bool = True) -> Content:
    """Return the content of the model's file; its tensors are those in use."""
    module = unwrap_module(model)
    serializer = ModuleSerializer(settings.hidden_attributes)
    root = serializer.module(module)
    compiled = _serialize_compiled(model) if include_optimizer and model.compiled else None
    return {
        "format": FORMAT,
        "version": VERSION,
        "written_by": {"torchfit": __version__, "torch": str(torch.__version__)},
        "model": {
            "name": settings.name,
            "input_names": _optional_list(settings.input_names),
            "output_names": _optional_list(settings.output_names),
            "dtype_policy": settings.dtype_policy,
        },
        "architecture": {"root": root, "nodes": serializer.nodes, "tensors": serializer.tensors},
        "state": get_module_state(model),
        "frozen": [unwrap_key(name) for name, tensor in module.named_parameters() if not tensor.requires_grad],
        "evaluating": [unwrap_key(name) for name, submodule in module.named_modules() if not submodule.training],
        "compiled": compiled,
        "optimizer": model.optimizer.state_dict() if compiled and model.optimizer.built else None,
    }


def read(path: PathLike) -> Content:
    """Read the content of a model's file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, holds something else, or was written by a later version.
    """
    name, content = os.fspath(path), archive.read(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(
            f"The file {name!r} holds no torchfit model. If it holds weights, build the module and call "
            f"Model(module).load_weights({name!r})."
        )
    absent = [part for part in _PARTS if part not in content]
    if absent or not isinstance(content["version"], int):
        raise ValueError(f"The file {name!r} holds no complete torchfit model: it lacks {absent or 'its version'}.")
    if content["version"] > VERSION:
        raise ValueError(
            f"The file {name!r} was written by torchfit {content['written_by']['torchfit']} in version "
            f"{content['version']} of the format; this torchfit {__version__} reads versions up to {VERSION}. Upgrade."
        )
    return content


def model_arguments(content: Content) -> dict[str, Any]:
    """Return the arguments of `Model`, other than the module."""
    return dict(content["model"])


def build_module(path: PathLike, content: Content, initialize: Callable[[nn.Module], None]) -> nn.Module:
    """Build the module from its description; `initialize` replaces `nn.Module.__init__` for the outermost one.

    Raises:
        ValueError: A class or function is unknown, or something was not saved; it is named, with what to pass.
    """
    name = os.fspath(path)
    architecture = content["architecture"]
    deserializer = ModuleDeserializer(architecture["nodes"], architecture["tensors"], initialize)
    problems = deserializer.problems()
    if problems:
        raise ValueError(_cannot_build(name, problems))
    with _error_context(f"The model in the file {name!r} cannot be built"):
        return deserializer.module(architecture["root"])


def restore(model: Any, path: PathLike, content: Content, compile: bool = True) -> None:
    """Load the weights and flags of a file, and compile the model as it was unless it is compiled already.

    Raises:
        ValueError: Something does not fit; it is named, with what to pass.
    """
    name = os.fspath(path)
    load_state(model, content["state"], f"the file {name!r}")
    _restore_flags(unwrap_module(model), content)
    if compile and content["compiled"] is not None:
        _restore_compiled(name, model, content)


def _check_model_path(path: PathLike) -> None:
    if is_safetensors(path):
        raise ValueError(
            f"A .safetensors file holds weights only: call save_weights({os.fspath(path)!r}), or choose another ending."
        )


def _serialize_compiled(model: Any) -> Content:
    serializer = ModuleSerializer()
    arguments = {
        argument: serializer.or_problem(partial(serializer.value, value, f"`{argument}`"))
        for argument, value in model.get_compile_config().items()
    }
    return {"arguments": arguments, "nodes": serializer.nodes, "tensors": serializer.tensors}


def _cannot_build(name: str, problems: dict[str, str]) -> str:
    reasons = "\n".join(f"  {kind}: {reason}" for kind, reason in problems.items())
    classes = ", ".join(f"{kind!r}: {kind}" for kind in problems)
    return (
        f"The model in the file {name!r} cannot be built from the file alone:\n{reasons}\n"
        f"Pass the classes, load_model({name!r}, custom_objects={{{classes}}}), or register them with "
        "@torchfit.saving.register_serializable() (and define get_config() where attributes are no plain data), or "
        f"build the module yourself and pass it: load_model({name!r}, module=...)."
    )


def _restore_flags(module: nn.Module, content: Content) -> None:
    """Restore which parameters are frozen and which submodules are in evaluation mode."""
    frozen, eval_modules = set(content["frozen"]), set(content["evaluating"])
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(unwrap_key(name) not in frozen)
    for name, submodule in module.named_modules():
        submodule.training = unwrap_key(name) not in eval_modules


def _restore_compiled(name: str, model: Any, content: Content) -> None:
    if not model.compiled:
        with _error_context(f"The file {name!r}: compile() cannot be repeated", _WITHOUT_COMPILE):
            model.compile_from_config(_deserialize_compiled(content["compiled"]))
    if content["optimizer"] is not None and model.compiled:
        with _error_context(f"The file {name!r}: the optimizer's state cannot be restored", _WITHOUT_COMPILE):
            model.optimizer.load_state_dict(content["optimizer"])
            model.build_optimizer()


def _deserialize_compiled(compiled: Content) -> dict[str, Any]:
    deserializer = ModuleDeserializer(compiled["nodes"], compiled["tensors"])
    config = {}
    for argument, plain in compiled["arguments"].items():
        with _error_context(f"`{argument}`"):
            config[argument] = deserializer.value(plain)
    return config


@contextmanager
def _error_context(what: str, way_out: str = "") -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{what}: {str(error).rstrip('.')}. {way_out}".rstrip()) from error


def _optional_list(names: Sequence[str] | None) -> list[str] | None:
    return None if names is None else list(names)
