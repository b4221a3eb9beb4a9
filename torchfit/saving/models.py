"""`save_model` and `load_model`, which write and read files of whole models."""

import os
from collections.abc import Mapping

from torch import nn

from torchfit._execution.precision import best_device
from torchfit._saving import model_file
from torchfit._saving.model_file import Content
from torchfit._serialization.files import PathLike
from torchfit._utils.errors import describe, traceback_filter
from torchfit._utils.names import suggest_keywords
from torchfit._utils.registry import custom_object_scope
from torchfit.model import Model


@suggest_keywords
def save_model(model: Model, path: PathLike, overwrite: bool = True, include_optimizer: bool = True) -> None:
    """Write a model to one file, atomically; `load_model` reads it.

    The file contains the architecture, the weights, the arguments of `compile` and the state of the optimizer, as
    tensors and plain data. If part of the architecture is code (a hook, a lambda, a custom class that is not passed
    when loading), the file says so, and `load_model` needs the module; the weights are always saved.

    Args:
        model: A `Model`.
        path: Where to write, with any or no extension; also an address such as `s3://bucket/name`.
        overwrite: Whether an existing file may be replaced.
        include_optimizer: Whether to store the arguments of `compile` and the optimizer's state.

    Raises:
        FileExistsError: If the file exists and `overwrite` is `False`.
        OSError: If the file cannot be written; the message names it.
    """
    Model.save(model, path, overwrite, include_optimizer)


@suggest_keywords
def load_model(
    path: PathLike,
    custom_objects: Mapping[str, object] | None = None,
    module: nn.Module | None = None,
    compile: bool = True,
    safe_mode: bool = True,
) -> Model:
    """Read a model that `save` wrote. It predicts and continues training as the saved one would have.

    Files contain tensors and plain data; code in them is never run. Classes of `torch.nn` are known. Custom classes and
    functions are looked up by name in `custom_objects`, then among those registered with
    `@torchfit.saving.register_serializable()`. A class with `get_config` is built by its constructor (or
    `from_config`). Other classes are built without the constructor, as by `copy.copy`, and their attributes are set.

    Args:
        path: The file, or an address such as `s3://bucket/name`.
        custom_objects: Your classes and functions by name.
        module: The module to load the weights into, if the architecture could not be saved. It may be a `Model`; if it
            is compiled, it stays so, and its optimizer loads the saved state.
        compile: Whether to compile the model as the saved one was.
        safe_mode: Present for compatibility with Keras. Loading is always safe; `False` changes nothing.

    Returns:
        The model, of the same subclass of `Model` as the saved one.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or not a model, or needs a class, function or module that was not passed; the
            message says what to pass.
    """
    if module is not None and not isinstance(module, nn.Module):
        raise TypeError(f"`module` must be a torch.nn.Module (an object, not a class). Received: {describe(module)}.")
    with traceback_filter, custom_object_scope(custom_objects or {}):
        content = model_file.read(path)
        model = _build(path, content) if module is None else _wrap(path, content, module)
        model_file.restore(model, path, content, compile, add_terms=not model.added_terms)
    return model


def _build(path: PathLike, content: Content) -> Model:
    """Build the model of a file."""
    arguments = model_file.model_arguments(content)

    def initialize(root: nn.Module, children: Mapping[str, nn.Module | None]) -> None:
        if isinstance(root, Model):
            Model.__init__(root, children.get("module"), **arguments)

    found = model_file.build(path, content, initialize)
    with model_file.error_context(f"The model in the file {os.fspath(path)!r} cannot be built"):
        # The layers of a model are set after it has chosen its device.
        return found.to(best_device()) if isinstance(found, Model) else Model(found, **arguments)


def _wrap(path: PathLike, content: Content, module: nn.Module) -> Model:
    """Return a `Model` around a given module, with the settings from a file."""
    if isinstance(module, Model):
        return module
    with model_file.error_context(f"The model in the file {os.fspath(path)!r} cannot be built"):
        model_file.warn_of_wrapper(path, content)
        return Model(module, **model_file.model_arguments(content))
