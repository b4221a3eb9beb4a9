"""The random generators of this process: their state as plain data, and back."""

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
        devices: Whether to include those of the accelerators that are in use.
    """
    version, words, normal = random.getstate()
    return {
        "python": [version, torch.from_numpy(np.fromiter(words, np.int64, len(words))), normal],
        "numpy": _numpy.state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if devices and _uses_cuda() else [],
        "mps": torch.mps.get_rng_state() if devices and torch.backends.mps.is_available() else None,
    }


class _NumpyState:
    """The state of NumPy's global generator, kept for as long as nobody draws: NumPy takes long to tell it.

    Whether nobody does is seen in its memory, if that is laid out as is known: 624 words and the position. The second
    of two normal numbers, which are drawn together, is kept elsewhere; while there is one, NumPy is always asked.
    """

    _random: Any = np.random

    def __init__(self) -> None:
        self._state: list[Any] = []
        self._memory = b""

    def state(self) -> list[Any]:
        memory = self._look()
        if not self._memory or memory != self._memory:
            kind, words, position, has_normal, normal = self._random.get_state()
            is_known = not has_normal and memory == words.tobytes() + np.int32(position).tobytes()
            self._memory = memory if is_known else b""
            self._state = [kind, torch.from_numpy(words.astype(np.int64)), position, has_normal, normal]
        return list(self._state)

    def _look(self) -> bytes:
        generator = self._random.get_bit_generator()
        if type(generator) is not np.random.MT19937:
            return b""
        return ctypes.string_at(generator.ctypes.state_address, 625 * 4)


_numpy = _NumpyState()


def restore_random_state(state: State) -> None:
    """Set the generators to what `random_state` returned; accelerators that are not there are left out.

    >>> state = random_state()
    >>> first = torch.rand(2), np.random.rand(), random.random()
    >>> restore_random_state(state)
    >>> again = torch.rand(2), np.random.rand(), random.random()
    >>> torch.equal(first[0], again[0]), first[1:] == again[1:]
    (True, True)
    """
    version, words, normal = state["python"]
    random.setstate((version, tuple(words.tolist()), normal))
    kind, numpy_words, *rest = state["numpy"]
    np.random.set_state((kind, numpy_words.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    _restore_devices(state["cuda"], state["mps"])


def _uses_cuda() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def _restore_devices(cuda: list[Tensor], mps: Tensor | None) -> None:
    if torch.cuda.is_available():
        for device, words in enumerate(cuda[: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(words, device)
    if mps is not None and torch.backends.mps.is_available():
        torch.mps.set_rng_state(mps)
