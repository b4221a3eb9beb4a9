"""Saves and loads weights under the keys of the user's module: `net.load_state_dict(torch.load(path))` works."""

import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from torchfit._serialization import archive, files
from torchfit._serialization.archive import to_host
from torchfit._serialization.files import PathLike, open_read, write_atomically
from torchfit._serialization.tensor_pickle import byte_range
from torchfit._types import StateDict
from torchfit._utils.errors import describe, printable, printable_lines, warn
from torchfit._utils.modules import unwrap_key, unwrap_keys, unwrap_module
from torchfit._utils.names import suggest_keywords

_OURS = ("torchfit", "sha256")


def write(path: PathLike, state: StateDict) -> None:
    """Write a state to a safetensors file. The format has no sharing: shared tensors are written once per name.

    Raises:
        ImportError: If the package safetensors is not installed.
        ValueError: If the state contains anything but tensors.
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
    """Read the tensors of a safetensors file onto the CPU.

    Raises:
        ImportError: If the package safetensors is not installed.
        ValueError: If the file is damaged; the message names it.
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


def _package() -> ModuleType:
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


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


Write = Callable[[], None]
_NESTED = ("state_dict", "model_state_dict", "state")
_KERAS_EXTENSIONS = (".keras", ".h5", ".hdf5")
_HINT = "\n  (by_name=True leaves missing and unexpected keys alone, skip_mismatch=True those of another shape)"


@suggest_keywords
def save_weights(model: nn.Module, path: PathLike, overwrite: bool = True) -> None:
    """Write the weights of a model or module to one file, atomically.

    The file is what `torch.save(module.state_dict(), path)` writes, with a checksum. If `path` ends in `.safetensors`,
    it is a file of that format.

    Args:
        model: A `Model` or any module; wrappers such as `torch.compile`'s do not appear in the keys.
        path: Where to write; also an address such as `s3://bucket/name`.
        overwrite: Whether an existing file may be replaced.

    Raises:
        FileExistsError: If the file exists and `overwrite` is `False`.
        OSError: If the file cannot be written; the message names it.
    """
    check_can_write(path, overwrite)
    warn_of_extension(path)
    state = get_module_state(model)
    if is_safetensors(path):
        write(path, state)
    else:
        archive.write(path, state)


def prepare_save(model: nn.Module, path: PathLike) -> Write:
    """Snapshot the weights and return a function that writes them, e.g. from another thread."""
    warn_of_extension(path)
    state = get_module_state(model)
    if is_safetensors(path):
        return partial(write, path, archive.to_host(state, copy=True))
    return archive.prepare_write(path, state)


@suggest_keywords
def load_weights(model: nn.Module, path: PathLike, by_name: bool = False, skip_mismatch: bool = False) -> None:
    """Copy weights from a file into a model or module: all of them or, if something does not fit, none.

    Args:
        model: A `Model` or any module.
        path: A file of `save_weights` or `save`, a `.safetensors` file, or a `state_dict` written by `torch.save`. Only
            tensors and plain data are read. Prefixes of wrappers (`_orig_mod.`, `module.`) are removed.
        by_name: Whether keys that are only in the file or only in the model are ignored.
        skip_mismatch: Whether tensors of another shape are ignored, with a warning.

    Raises:
        ValueError: If keys are missing or unexpected, or shapes differ (the message lists all of them), or if the file
            is damaged or contains no weights.
        FileNotFoundError: If there is no such file.

    >>> import tempfile
    >>> net, other = nn.Linear(2, 1), nn.Linear(2, 1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_weights(net, f"{folder}/weights.pt")
    ...     load_weights(other, f"{folder}/weights.pt")
    >>> bool((net.weight == other.weight).all())
    True
    """
    if is_safetensors(path):
        state = read(path)
    else:
        state = _find_state_dict(path, archive.read(path))
    load_state(model, state, f"the file {os.fspath(path)!r}", by_name, skip_mismatch, _HINT)


def get_module_state(model: nn.Module) -> StateDict:
    """Return the `state_dict` of a module, with the keys of the unwrapped module."""
    state = unwrap_module(model).state_dict()
    for key in list(state):
        state[unwrap_key(key)] = state.pop(key)
    return state


def load_state(
    model: nn.Module,
    state: Mapping[str, object],
    origin: str,
    by_name: bool = False,
    skip_mismatch: bool = False,
    hint: str = "",
) -> None:
    """Copy a state into a module, or raise a `ValueError` that names every key that does not fit.

    A key does not count as missing if its tensor shares memory with one that is present: some writers store only one
    name of a tied weight.
    """
    module = unwrap_module(model)
    own_keys = {unwrap_key(key): key for key in module.state_dict()}
    targets = {unwrap_key(key): value for key, value in module.state_dict(keep_vars=True).items()}
    state = unwrap_keys(dict(state), targets)
    found = [key for key in state if key in targets]
    mismatched = {key for key in found if not _fits(state[key], targets[key])}
    absent = [] if by_name else [key for key in targets if key not in state]
    covered = _memory(targets[key] for key in found) if absent else {}
    missing = [key for key in absent if not _is_covered(targets[key], covered)]
    unexpected = [] if by_name else [key for key in state if key not in targets]
    if missing or unexpected or (mismatched and not skip_mismatch):
        lines = _format_mismatches(missing, unexpected, () if skip_mismatch else mismatched, state, targets)
        raise ValueError(f"The weights of {origin} do not fit {type(module).__name__}:\n{lines}{hint}")
    if mismatched:
        lines = _format_mismatches([], [], mismatched, state, targets)
        warn(f"Some weights of {origin} were left alone:\n{lines}")
    if by_name and not found and state and targets:
        warn(_nothing_found(origin, state, targets))
    fitting = {own_keys[key]: state[key] for key in found if key not in mismatched}
    try:
        module.load_state_dict(fitting, strict=False)
    except Exception as error:  # such as one raised by a module's set_extra_state
        raise ValueError(
            f"The weights of {origin} cannot be loaded into {type(module).__name__}: {printable_lines(error)}"
        ) from error


def _memory(tensors: Iterable[Any]) -> dict[int, list[tuple[int, int]]]:
    """Return the memory ranges of dense tensors, by the address of their storage."""
    ranges: dict[int, list[tuple[int, int]]] = {}
    for tensor in filter(_has_memory, tensors):
        begin, end = byte_range(tensor)
        if end - begin == tensor.nbytes:
            ranges.setdefault(tensor.untyped_storage().data_ptr(), []).append((begin, end))
    return ranges


def _is_covered(tensor: Any, ranges: Mapping[int, list[tuple[int, int]]]) -> bool:
    """Return whether the memory of a tensor lies in one of the ranges."""
    if not _has_memory(tensor):
        return False
    begin, end = byte_range(tensor)
    known = ranges.get(tensor.untyped_storage().data_ptr(), ())
    return any(start <= begin and end <= stop for start, stop in known)


def _has_memory(tensor: object) -> bool:
    return (
        isinstance(tensor, Tensor)
        and not is_lazy(tensor)
        and tensor.layout is torch.strided
        and not tensor.is_meta
        and tensor.numel() > 0
    )


def _nothing_found(origin: str, state: Mapping[str, object], targets: StateDict) -> str:
    theirs, ours = printable(next(iter(state))), next(iter(targets))
    return (
        f"Nothing was loaded: {origin} has none of the names of the module. The first one there is {theirs!r}, and "
        f"here {ours!r}."
    )


def check_can_write(path: PathLike, overwrite: bool) -> None:
    """Raise a `FileExistsError` if the file exists and must not be replaced."""
    if not overwrite and files.exists(path):
        raise FileExistsError(f"There is a file {os.fspath(path)!r} already. Pass overwrite=True to replace it.")


def is_safetensors(path: PathLike) -> bool:
    """Return whether a path has the extension of the safetensors format."""
    return os.fspath(path).endswith(".safetensors")


def warn_of_extension(path: PathLike) -> None:
    """Warn of extensions that Keras uses for other formats."""
    extension = next((each for each in _KERAS_EXTENSIONS if os.fspath(path).endswith(each)), None)
    if extension is not None:
        warn(
            f"The file {os.fspath(path)!r} is written in the format of torchfit, which `torch.load` reads, but neither "
            f"Keras nor programs for HDF5. Choose another extension than {extension!r}, such as '.torchfit' for models "
            "or '.pt' for weights."
        )


def _find_state_dict(path: PathLike, content: object) -> StateDict:
    """Return the `state_dict` in the content of a file, at the top level or under one of the usual names."""
    candidates = [content[name] for name in _NESTED if name in content] if isinstance(content, dict) else []
    found = next((state for state in (*candidates, content) if _is_state(state)), None)
    if found is None:
        raise ValueError(
            f"The file {os.fspath(path)!r} holds no weights: expected a state_dict (names and tensors), found "
            f"{printable(describe(content))}."
        )
    return dict(found)


def _is_state(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    return all(isinstance(key, str) for key in value) and (
        not value or any(isinstance(tensor, Tensor) for tensor in value.values())
    )


def _fits(found: object, target: object) -> bool:
    if not isinstance(target, Tensor) or is_lazy(target):
        return True
    if not isinstance(found, Tensor) or found.shape != target.shape or found.layout is not target.layout:
        return False
    return target.is_complex() or not found.is_complex()


def _format_mismatches(
    missing: Iterable[str],
    unexpected: Iterable[str],
    mismatched: Collection[str],
    state: Mapping[str, object],
    targets: StateDict,
) -> str:
    lines = [
        *(f"  missing: {key} {_shape(targets[key])}" for key in missing),
        *(f"  unexpected: {printable(key)} {_shape(state[key])}" for key in unexpected),
        *(
            f"  {key}: {_shape(state[key])} in the file, {_shape(targets[key])} here"
            for key in state
            if key in mismatched
        ),
    ]
    return "\n".join(lines)


def _shape(value: object) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) and not is_lazy(value) else printable(describe(value))
