"""`SavableModel`, which adds saving, loading and export to a model."""

import io
import os
import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from torchfit._execution.precision import DTypePolicy
from torchfit._saving import compile_config, model_file, weights
from torchfit._saving.model_file import ModelSettings
from torchfit._serialization.files import PathLike, write_atomically
from torchfit._trainer.base_model import overridden_method
from torchfit._trainer.module_call import Signature, make_module_call
from torchfit._trainer.summary import zeros_for_shape
from torchfit._trainer.trainable_module import TrainableModule
from torchfit._trainer.trainer import Trainer
from torchfit._types import Config, Nested
from torchfit._utils import tree
from torchfit._utils.errors import describe, traceback_filter, warn
from torchfit._utils.modules import device_of, floating_dtype_of, has_lazy_weights, training_mode
from torchfit._utils.names import suggest_keywords

Arguments: TypeAlias = tuple[tuple[Nested, ...], Config]
"""Positional and named arguments."""

Dimensions: TypeAlias = dict[int, object]

_FORMAT_OF_ENDING = {".onnx": "onnx", ".pt2": "torch", ".ts": "torchscript", ".torchscript": "torchscript"}
_EXAMPLE_ROWS = 2  # torch.export assumes that a size of 1 is always 1.


def export_module(
    module: nn.Module, signature: Signature, example: Nested, path: PathLike, format: str | None, **options: Any
) -> None:
    """Export a module in evaluation mode to a file, for batches of any size.

    Args:
        module: The module.
        signature: The signature of its `forward`.
        example: One sample of its inputs.
        path: Where to write.
        format: "torch", "onnx" or "torchscript"; by default determined by the extension of `path`.
        **options: Further arguments of torch's exporter.

    Raises:
        ValueError: If the format is unknown, or torch cannot export the module.
        ImportError: If the format needs a package that is missing.
    """
    write = _writer_of(path, format)
    if has_lazy_weights(module):
        raise ValueError("The module has lazy layers that saw no data yet: call the model on a batch first.")
    inputs = tree.map(partial(_batch_like, module), example)
    with training_mode(module, training=False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            content = write(module, _arguments(signature, inputs), options)
        except (ImportError, MemoryError):
            raise
        except Exception as error:
            raise ValueError(
                f"torch could not export {type(module).__name__}: {str(error).strip().splitlines()[0]}. A `forward` "
                'that branches on values cannot be exported as it is; format="torchscript" records the operations of '
                "one call."
            ) from error
    write_atomically(path, [content])


def _batch_like(module: nn.Module, leaf: Nested) -> Nested:
    """Return a batch of copies of a sample, on the device and in the floating dtype of a module."""
    if not isinstance(leaf, Tensor):
        return leaf
    batch = leaf.expand(_EXAMPLE_ROWS, *leaf.shape[1:]).contiguous()
    return batch.to(device_of(module), floating_dtype_of(module) if leaf.is_floating_point() else None)


def _arguments(signature: Signature, inputs: Nested) -> Arguments:
    """Return the arguments that the module is called with for these inputs."""
    call: Callable[..., Arguments] = make_module_call(signature, inputs)
    return call(lambda *args, **kwargs: (args, kwargs), inputs)


def _writer_of(path: PathLike, format: str | None) -> Callable[[nn.Module, Arguments, Config], bytes]:
    name = _FORMAT_OF_ENDING.get(os.path.splitext(os.fspath(path))[1].lower()) if format is None else format
    if name not in _WRITERS:
        raise ValueError(
            f"`format` must be 'torch', 'onnx' or 'torchscript', or None with a path that ends in .pt2, .onnx or .ts. "
            f"Received: {describe(format)}, and the path {os.fspath(path)!r}."
        )
    return _WRITERS[name]


def _to_torch(module: nn.Module, arguments: Arguments, options: Config) -> bytes:
    args, kwargs, shapes = _dynamic(arguments)
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(module, args, kwargs, dynamic_shapes=shapes, **options), buffer)
    return buffer.getvalue()


def _to_onnx(module: nn.Module, arguments: Arguments, options: Config) -> bytes:
    try:
        import_module("onnxscript")
    except ImportError as error:
        raise ImportError("The format 'onnx' needs onnx and onnxscript. Type: pip install onnx onnxscript") from error
    args, kwargs, shapes = _dynamic(arguments)
    given = {"dynamo": True, "verbose": False, "dynamic_shapes": shapes, **options}
    program = torch.onnx.export(module, args, kwargs=kwargs, **given)
    assert program is not None
    return bytes(program.model_proto.SerializeToString())


def _to_torchscript(module: nn.Module, arguments: Arguments, options: Config) -> bytes:
    args, kwargs = arguments
    trace: Callable[..., torch.jit.ScriptModule] = torch.jit.trace
    traced = trace(module, example_kwarg_inputs=kwargs, **options) if kwargs else trace(module, args, **options)
    buffer = io.BytesIO()
    torch.jit.save(traced, buffer)
    return buffer.getvalue()


def _dynamic(arguments: Arguments) -> tuple[tuple[Nested, ...], Config, Nested]:
    """Return arguments, and their dynamic axes: the first one of every tensor, the batch axis."""
    batch = torch.export.Dim("batch", min=1)
    args, kwargs = arguments

    def dimensions(leaf: Nested) -> Dimensions | None:
        return {0: batch} if isinstance(leaf, Tensor) else None

    return args, kwargs, tree.map(dimensions, {**kwargs} if kwargs else args)


_WRITERS = {"torch": _to_torch, "onnx": _to_onnx, "torchscript": _to_torchscript}


_STOP_FLAGS = ("stop_training", "stop_evaluating", "stop_predicting")


class SavableModel(TrainableModule):
    """A model that can be saved, loaded and exported, including the arguments of `compile`."""

    dtype_policy: DTypePolicy | None
    compile: Callable[..., None]

    @property
    def compiled(self) -> bool:
        """Whether `compile` was called."""
        return self._torchfit.compile_options is not None

    @suggest_keywords
    def save(self, path: PathLike, overwrite: bool = True, include_optimizer: bool = True) -> None:
        """Write the model to one file: architecture, weights, the arguments of `compile` and the optimizer's state.

        `torchfit.models.load_model` reads it. The file contains tensors and plain data, but no code, and is written
        atomically. A module with custom code can always be saved; pass it again when loading.

        Args:
            path: Where to write, with any or no extension; also an address such as `s3://bucket/name`.
            overwrite: Whether an existing file may be replaced.
            include_optimizer: Whether to store the arguments of `compile` and the optimizer's state.

        Raises:
            FileExistsError: If the file exists and `overwrite` is `False`.
            OSError: If the file cannot be written; the message names it.
        """
        with traceback_filter:
            model_file.save(self, _settings_of(self, self._torchfit), path, overwrite, include_optimizer)

    @suggest_keywords
    def save_weights(self, path: PathLike, overwrite: bool = True) -> None:
        """Write the weights to one file: the module's `state_dict`, which `torch.load` reads.

        If `path` ends in `.safetensors`, the file has that format.

        Args:
            path: Where to write; also an address such as `s3://bucket/name`.
            overwrite: Whether an existing file may be replaced.

        Raises:
            FileExistsError: If the file exists and `overwrite` is `False`.
            OSError: If the file cannot be written; the message names it.
        """
        with traceback_filter:
            weights.save_weights(self, path, overwrite)

    @suggest_keywords
    def prepare_save(self, path: PathLike, weights_only: bool = False) -> Callable[[], None] | None:
        """Snapshot the model and return a function that writes the file, e.g. from another thread.

        Args:
            path: Where to write.
            weights_only: Whether to write the file of `save_weights` instead of that of `save`.

        Returns:
            The function, or `None` if `save` (or `save_weights`) is overridden, because its file is then unknown.
        """
        if overridden_method(self, "save_weights" if weights_only else "save") is not None:
            return None
        if weights_only:
            return weights.prepare_save(self, path)
        return model_file.prepare_save(self, _settings_of(self, self._torchfit), path)

    @suggest_keywords
    def load_weights(self, path: PathLike, by_name: bool = False, skip_mismatch: bool = False) -> None:
        """Copy the weights from a file into the module: all of them or, if something does not fit, none.

        Args:
            path: A file of `save_weights` or `save`, a `.safetensors` file, or a `state_dict` written by `torch.save`.
            by_name: Whether keys that are only in the file or only in the module are ignored.
            skip_mismatch: Whether tensors of another shape are ignored, with a warning.

        Raises:
            ValueError: If keys are missing or unexpected, or shapes differ (the message lists all of them), or if the
                file is damaged or contains no weights.
            FileNotFoundError: If there is no such file.
        """
        with traceback_filter, self._torchfit.lock.owned("load_weights", is_loop=False, is_alone=True):
            weights.load_weights(self, path, by_name, skip_mismatch)

    def export(self, path: PathLike, format: str | None = None, *, input_shape: Nested = None, **options: Any) -> None:
        """Export the module to a file that runs without torchfit, for batches of any size, in evaluation mode.

        Args:
            path: Where to write; also an address such as `s3://bucket/name`.
            format: "torch" (a program of `torch.export`, which `torch.export.load` reads), "onnx" (needs the packages
                onnx and onnxscript) or "torchscript" (`torch.jit.load`); by default determined by the extension of
                `path`: `.pt2`, `.onnx`, `.ts`.
            input_shape: The shape of one sample, or a list or dictionary of shapes; by default that of the last data.
            **options: Further arguments of `torch.export.export`, `torch.onnx.export` or `torch.jit.trace`.

        Raises:
            ValueError: If the format is unknown, the model has not seen data and there is no `input_shape`, or torch
                cannot export the module.
            ImportError: If a package is missing; the message says how to install it.
            OSError: If the file cannot be written; the message names it.
        """
        with traceback_filter:
            example = self.example_inputs if input_shape is None else zeros_for_shape(input_shape)
            if example is None:
                raise ValueError("The model saw no data yet: pass `input_shape=`, the shape of one sample.")
            signature = self._torchfit.state.call.signature(self.module)
            export_module(self.module, signature, example, path, format, **options)

    def get_compile_config(self) -> Config:
        """Return the arguments of `compile`, empty before it was called.

        Losses, metrics and the optimizer are plain data; names and custom functions stay as they are.
        """
        options = self._torchfit.compile_options
        return {} if options is None else compile_config.compile_config({"optimizer": self.optimizer, **vars(options)})

    def compile_from_config(self, config: Config) -> None:
        """Call `compile` as `get_compile_config` says. An overridden `compile` is not called, with a warning.

        Raises:
            ValueError: If a name is unknown.
        """
        if overridden_method(self, "compile") is not None:
            warn(
                f"{type(self).__name__} has a compile() of its own and was not compiled. Call it, or define "
                "compile_from_config(config)."
            )
        elif config:
            self.compile(**compile_config.compile_arguments(config))


def _settings_of(model: SavableModel, trainer: Trainer) -> ModelSettings:
    """Return the settings of the model, which its file contains besides the module."""
    policy = None if model.dtype_policy is None else model.dtype_policy.name
    plain = next(kind for kind in type(model).__mro__ if kind.__module__.startswith("torchfit."))
    is_subclass = type(model) is not plain
    hidden = {*vars(plain(nn.Identity())), "run_eagerly", *_STOP_FLAGS} if is_subclass else ()
    names = trainer.input_names, trainer.output_names, trainer.label_names
    return ModelSettings(model.name, *names, policy, frozenset(hidden), is_subclass, model.added_terms)
