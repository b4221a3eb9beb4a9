"""Weights in the safetensors format, with a checksum in the metadata. The package is imported only when needed."""

import hashlib
import json
import os
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from torchfit._serialization.archive import to_host
from torchfit._serialization.files import PathLike, open_read, write_atomically
from torchfit._types import StateDict
from torchfit._utils.errors import describe, printable

_OURS = ("torchfit", "sha256")


def write(path: PathLike, state: StateDict) -> None:
    """Write a state; tensors that share memory are written once per name, since the format has no sharing.

    Raises:
        ImportError: The package safetensors is not installed.
        ValueError: The state holds something that is not a tensor.
    """
    package = _package()
    for key, value in state.items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"A .safetensors file holds tensors only, but {key!r} is {describe(value)}. Choose another ending."
            )
    tensors = {key: value.contiguous().clone() for key, value in to_host(dict(state)).items()}
    metadata = {"format": "pt", "torchfit": "1", "sha256": _checksum(tensors)}
    write_atomically(path, [package.save(tensors, metadata)])


def read(path: PathLike) -> dict[str, Tensor]:
    """Read tensors onto the CPU.

    Raises:
        ImportError: The package safetensors is not installed.
        ValueError: The file is damaged; it is named.
    """
    package = _package()
    with open_read(path) as file:
        data = file.read()
    try:
        tensors: dict[str, Tensor] = package.load(data)
        metadata = _metadata(data)
    except Exception as error:
        raise ValueError(
            f"The file {os.fspath(path)!r} was refused: it is no safetensors file, or damaged ({printable(error)})."
        ) from None
    ours = [name for name in _OURS if name in metadata]
    expected = {"format": "pt", "torchfit": "1", "sha256": _checksum(tensors)} if ours else metadata
    if metadata != expected:
        raise ValueError(f"The file {os.fspath(path)!r} is damaged: its checksum does not match its contents.")
    return tensors


def _package() -> Any:
    try:
        return import_module("safetensors.torch")
    except ImportError as error:
        raise ImportError(
            "Files that end in .safetensors need the package safetensors: pip install safetensors. "
            "With any other ending, weights are written in torch's own format."
        ) from error


def _metadata(data: bytes) -> dict[str, str]:
    size = int.from_bytes(data[:8], "little")
    found: dict[str, str] = json.loads(data[8 : 8 + size]).get("__metadata__", {})
    return found


def _checksum(tensors: dict[str, Tensor]) -> str:
    total = hashlib.sha256()
    for key in sorted(tensors):
        tensor = tensors[key]
        total.update(f"{key} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        total.update(_bytes(tensor))
    return total.hexdigest()


def _bytes(tensor: Tensor) -> Any:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
