"""A whole model in one file: how it is built, its weights, how it was compiled, and where its optimizer stands."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Any, TypeVar

import torch
from torch import nn

from torchfit._serialization import archive
from torchfit._serialization.files import PathLike
from torchfit._trainer.module_wrapper import ModuleWrapper
from torchfit._utils.errors import describe
from torchfit._utils.registry import custom_object_scope
from torchfit._version import __version__
from torchfit.saving.description import Describer
from torchfit.saving.rebuilding import Builder
from torchfit.saving.weights import is_safetensors, load_state, require_free, state_of
from torchfit.saving.wrappers import bare, bare_key

Content = dict[str, Any]
AnyModel = TypeVar("AnyModel", bound=type[ModuleWrapper])

FORMAT = "torchfit model"
VERSION = 1
_PARTS = ("version", "written_by", "model", "architecture", "state", "frozen", "evaluating", "compiled", "optimizer")
_loaded_as: list[Any] = []


def loads_as(model_class: AnyModel) -> AnyModel:
    """Make files load as this class; `Model` says so of itself, since it stands above this package."""
    _loaded_as[:] = [model_class]
    return model_class


def _model_class() -> Any:
    """Return the class that files load as; a program that only loads models has not asked for it yet."""
    if not _loaded_as:
        import_module("torchfit.model")
    return _loaded_as[0]


def save_model(model: Any, path: PathLike, overwrite: bool = True, include_optimizer: bool = True) -> None:
    """Write a model to one file, whole or not at all; `load_model` reads it.

    The file holds the architecture, the weights, the arguments of `compile` and the state of the optimizer, as tensors
    and plain data. Wherever a part of the architecture is code (a class of your own that is not handed over when
    loading, a hook, a lambda), the file says so, and `load_model` needs the module; the weights are always there.

    Args:
        model: A `Model`.
        path: Where to write, with any ending or none; also an address such as `s3://bucket/name`.
        overwrite: Whether a file that is there may be replaced.
        include_optimizer: Whether to store how the model was compiled and the optimizer's state.

    Raises:
        FileExistsError: There is a file already, and `overwrite` is `False`.
        OSError: The file cannot be written; it is named.
    """
    _require_model_path(path)
    require_free(path, overwrite)
    archive.write(path, content_of(model, include_optimizer))


def prepare_save(model: Any, path: PathLike) -> Callable[[], None]:
    """Return what writes the present model, later or in another thread."""
    _require_model_path(path)
    return archive.prepare_write(path, content_of(model))


def content_of(model: Any, include_optimizer: bool = True) -> Content:
    """Return what a file of the model holds; its tensors are those in use."""
    describer = Describer(_hidden_attributes(model))
    root = describer.module(bare(model))
    compiled = _describe_compiled(model) if include_optimizer and model.compiled else None
    input_names, output_names = model._torchfit.input_names, model._torchfit.output_names
    policy = model.dtype_policy and model.dtype_policy.name
    names = {"input_names": _listed(input_names), "output_names": _listed(output_names)}
    return {
        "format": FORMAT,
        "version": VERSION,
        "written_by": {"torchfit": __version__, "torch": str(torch.__version__)},
        "model": {"name": model.name, **names, "dtype_policy": policy},
        "architecture": {"root": root, "nodes": describer.nodes, "tensors": describer.tensors},
        "state": state_of(model),
        "frozen": [bare_key(name) for name, tensor in bare(model).named_parameters() if not tensor.requires_grad],
        "evaluating": [bare_key(name) for name, module in bare(model).named_modules() if not module.training],
        "compiled": compiled,
        "optimizer": model.optimizer.state_dict() if compiled and model.optimizer.built else None,
    }


def load_model(
    path: PathLike,
    custom_objects: Mapping[str, Any] | None = None,
    module: nn.Module | None = None,
    compile: bool = True,
    safe_mode: bool = True,
) -> Any:
    """Read a model that `save` wrote: it predicts and goes on training as the saved one would have.

    Files hold tensors and plain data; no code in them is ever run. Classes of `torch.nn` are known. Classes and
    functions of your own are found by name in `custom_objects` or among those registered with
    `@torchfit.saving.register_serializable()`. A class with `get_config` is made by its constructor (or
    `from_config`); others as copies are made, without the constructor, their attributes put in place.

    Args:
        path: The file, or an address such as `s3://bucket/name`.
        custom_objects: Your classes and functions by name.
        module: The module to load the weights into, where the file cannot say how to build it. It may be a `Model`;
            if that is compiled, it stays so, and its optimizer takes over the saved state.
        compile: Whether to compile the model as it was.
        safe_mode: Kept for Keras' signature: loading is always safe, `False` changes nothing.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, holds something else, or needs a class, function or module that was not given:
            it is named, with what to pass.
    """
    name = os.fspath(path)
    if module is not None and not isinstance(module, nn.Module):
        raise TypeError(f"`module` must be a torch.nn.Module (an object, not a class). Received: {describe(module)}.")
    content = _checked(name, archive.read(path))
    with custom_object_scope(custom_objects or {}):
        model = _around(module if module is not None else _built(name, content), content["model"])
        load_state(model, content["state"], f"the file {name!r}")
        _restore_flags(bare(model), content)
        if compile and content["compiled"] is not None:
            _restore_compiled(name, model, content)
    return model


def _require_model_path(path: PathLike) -> None:
    if is_safetensors(path):
        raise ValueError(
            f"A .safetensors file holds weights only: call save_weights({os.fspath(path)!r}), or choose another ending."
        )


def _hidden_attributes(model: Any) -> frozenset[str]:
    """Name the attributes of a subclass of `Model` that are `Model`'s own."""
    return frozenset(vars(_model_class()(nn.Identity()))) if bare(model) is model else frozenset()


def _describe_compiled(model: Any) -> Content:
    describer = Describer()
    arguments = {
        argument: describer.attempt(partial(describer.value, value, f"`{argument}`"))
        for argument, value in model.get_compile_config().items()
    }
    return {"arguments": arguments, "nodes": describer.nodes, "tensors": describer.tensors}


def _checked(name: str, content: Any) -> Content:
    """Return the content of a file of a model, or say what the file is instead."""
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


def _initializer(settings: Content) -> Callable[[nn.Module], None]:
    """Return what prepares the outermost module: `Model`'s constructor for a subclass of it, else `nn.Module`'s."""

    def initialize(module: nn.Module) -> None:
        if isinstance(module, _model_class()):
            _model_class().__init__(module, **settings)
        else:
            nn.Module.__init__(module)

    return initialize


def _built(name: str, content: Content) -> nn.Module:
    root, nodes, tensors = (content["architecture"][part] for part in ("root", "nodes", "tensors"))
    builder = Builder(nodes, tensors, _initializer(content["model"]))
    problems = builder.problems()
    if problems:
        raise ValueError(_cannot_build(name, problems))
    with _explained(f"The model in the file {name!r} cannot be built"):
        return builder.module(root)


def _cannot_build(name: str, problems: dict[str, str]) -> str:
    reasons = "\n".join(f"  {kind}: {reason}" for kind, reason in problems.items())
    classes = ", ".join(f"{kind!r}: {kind}" for kind in problems)
    return (
        f"The model in the file {name!r} cannot be built from the file alone:\n{reasons}\n"
        f"Pass the classes, load_model({name!r}, custom_objects={{{classes}}}), or register them with "
        "@torchfit.saving.register_serializable() (and define get_config() where attributes are no plain data), or "
        f"build the module yourself and pass it: load_model({name!r}, module=...)."
    )


def _around(module: nn.Module, settings: Content) -> Any:
    return module if isinstance(module, _model_class()) else _model_class()(module, **settings)


def _restore_flags(module: nn.Module, content: Content) -> None:
    """Freeze and set modes as they were."""
    frozen, evaluating = set(content["frozen"]), set(content["evaluating"])
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(bare_key(name) not in frozen)
    for name, submodule in module.named_modules():
        submodule.training = bare_key(name) not in evaluating


def _restore_compiled(name: str, model: Any, content: Content) -> None:
    if not model.compiled:
        with _explained(f"The file {name!r}: compile() cannot be repeated", _UNCOMPILED):
            model.compile_from_config(_compile_config(content["compiled"]))
    if content["optimizer"] is not None and model.compiled:
        with _explained(f"The file {name!r}: the optimizer's state cannot be restored", _UNCOMPILED):
            model.optimizer.load_state_dict(content["optimizer"])
            model.build_optimizer()


_UNCOMPILED = (
    "Pass classes and functions of your own in custom_objects; or pass compile=False and compile the model yourself; "
    "or pass the compiled model as `module`."
)


def _compile_config(compiled: Content) -> dict[str, Any]:
    builder = Builder(compiled["nodes"], compiled["tensors"])
    config = {}
    for argument, plain in compiled["arguments"].items():
        with _explained(f"`{argument}`"):
            config[argument] = builder.value(plain)
    return config


@contextmanager
def _explained(what: str, way_out: str = "") -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{what}: {str(error).rstrip('.')}. {way_out}".rstrip()) from error


def _listed(names: Any) -> list[str] | None:
    return None if names is None else list(names)
