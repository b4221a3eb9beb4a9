"""Export a module to a file that other programs run without torchfit: torch.export, ONNX, TorchScript."""

import io
import os
import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from torchfit._serialization.files import PathLike, write_atomically
from torchfit._trainer.module_call import Signature, make_module_call
from torchfit._types import Config, Nested
from torchfit._utils import tree
from torchfit._utils.errors import describe
from torchfit._utils.modules import device_of, floating_dtype_of, has_lazy_weights, training_mode

Arguments: TypeAlias = tuple[tuple[Nested, ...], Config]
"""Positional and named arguments."""

Dimensions: TypeAlias = dict[int, object]

_FORMAT_OF_ENDING = {".onnx": "onnx", ".pt2": "torch", ".ts": "torchscript", ".torchscript": "torchscript"}
_EXAMPLE_ROWS = 2  # torch.export takes a size of 1 for one that is always 1.


def export_module(
    module: nn.Module, signature: Signature, example: Nested, path: PathLike, format: str | None, **options: Any
) -> None:
    """Write a file of a module in evaluation mode, for batches of any size.

    Args:
        module: The module.
        signature: What it takes.
        example: One sample of its inputs.
        path: Where to write.
        format: "torch", "onnx" or "torchscript"; `None` goes by the ending of `path`.
        **options: More arguments for torch's exporter.

    Raises:
        ValueError: If there is no such format, or torch cannot export the module.
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
    """Return a batch of a sample, on the device and in the floating dtype of a module."""
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
    """Return arguments, and which of their axes has any size: the first one of every tensor, the batch."""
    batch = torch.export.Dim("batch", min=1)
    args, kwargs = arguments

    def dimensions(leaf: Nested) -> Dimensions | None:
        return {0: batch} if isinstance(leaf, Tensor) else None

    return args, kwargs, tree.map(dimensions, {**kwargs} if kwargs else args)


_WRITERS = {"torch": _to_torch, "onnx": _to_onnx, "torchscript": _to_torchscript}
