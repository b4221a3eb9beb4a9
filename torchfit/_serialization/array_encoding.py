"""NumPy arrays in plain data, which files hold as marked tensors."""

from typing import Any

import numpy as np
import torch

_ARRAY = "__array__"


def encode_arrays(value: Any) -> Any:
    """Return the same structure of dictionaries, lists and tuples with a marked tensor in place of each array.

    >>> encode_arrays({"a": [np.zeros(1), 2]})
    {'a': [{'__array__': tensor([0.], dtype=torch.float64)}, 2]}
    """
    if isinstance(value, np.ndarray):
        return {_ARRAY: torch.from_numpy(np.array(value))}
    return _map_children(value, encode_arrays)


def decode_arrays(value: Any) -> Any:
    """Undo `encode_arrays`.

    >>> decode_arrays(encode_arrays([np.zeros(1), 2]))
    [array([0.]), 2]
    """
    if isinstance(value, dict) and value.keys() == {_ARRAY}:
        return value[_ARRAY].numpy()
    return _map_children(value, decode_arrays)


def _map_children(value: Any, change: Any) -> Any:
    if isinstance(value, dict):
        return {key: change(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        parts = [change(part) for part in value]
        return parts if isinstance(value, list) else tuple(parts)
    return value
