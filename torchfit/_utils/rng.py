"""Saves and restores the state of the random generators of this process."""

import ctypes
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

State = dict[str, Any]


def random_state(devices: bool = True) -> State:
    """Return the state of Python's, NumPy's and torch's global generators, as tensors and plain data.

    Args:
        devices: Whether to include the accelerators in use.
    """
    version, key, cached_gaussian = random.getstate()
    return {
        "python": [version, torch.from_numpy(np.fromiter(key, np.int64, len(key))), cached_gaussian],
        "numpy": _numpy.state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if devices and _uses_cuda() else [],
        "mps": torch.mps.get_rng_state() if devices and torch.backends.mps.is_available() else None,
    }


class _NumpyState:
    """The state of NumPy's global generator, cached until the generator advances, because `get_state()` is slow.

    Whether it advanced is read from its memory, if that has the known layout: 624 words and the position. Normal
    numbers are drawn in pairs, and the second one is stored elsewhere; while one is stored, the state is always read.
    """

    _random: Any = np.random

    def __init__(self) -> None:
        self._state: list[object] = []
        self._memory = b""

    def state(self) -> list[object]:
        memory = self._raw_state()
        if not self._memory or memory != self._memory:
            kind, key, position, has_gaussian, cached_gaussian = self._random.get_state()
            is_known = not has_gaussian and memory == key.tobytes() + np.int32(position).tobytes()
            self._memory = memory if is_known else b""
            self._state = [kind, torch.from_numpy(key.astype(np.int64)), position, has_gaussian, cached_gaussian]
        return list(self._state)

    def _raw_state(self) -> bytes:
        generator = self._random.get_bit_generator()
        if type(generator) is not np.random.MT19937:
            return b""
        return ctypes.string_at(generator.ctypes.state_address, 625 * 4)


_numpy = _NumpyState()


def restore_random_state(state: State) -> None:
    """Set the generators to what `random_state` returned; missing accelerators are skipped.

    >>> state = random_state()
    >>> first = torch.rand(2), np.random.rand(), random.random()
    >>> restore_random_state(state)
    >>> again = torch.rand(2), np.random.rand(), random.random()
    >>> torch.equal(first[0], again[0]), first[1:] == again[1:]
    (True, True)
    """
    version, key, cached_gaussian = state["python"]
    random.setstate((version, tuple(key.tolist()), cached_gaussian))
    kind, numpy_words, *rest = state["numpy"]
    np.random.set_state((kind, numpy_words.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    _restore_devices(state["cuda"], state["mps"])


def _uses_cuda() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def _restore_devices(cuda: list[Tensor], mps: Tensor | None) -> None:
    if torch.cuda.is_available():
        for device, key in enumerate(cuda[: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(key, device)
    if mps is not None and torch.backends.mps.is_available():
        torch.mps.set_rng_state(mps)
