"""Limits on what a file can ask for beyond what it holds.

Metrics and custom classes with `get_config()` are built by their constructors, with arguments from the file.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from torchfit._utils.errors import printable
from torchfit._utils.registry import find_custom

_FREE_BYTES = 1 << 28
_BYTES_PER_BYTE = 16  # initialisation takes temporary tensors, and the file may be in half precision
_MAX_METRIC_INTEGER = 1 << 20  # of thresholds, classes, …
_SIZED = ("empty", "zeros", "ones", "full", "rand", "randn", "randint", "eye")  # and `new_zeros` and so on
_MAX_REPEATS, _MAX_PATTERN = 2, 1000  # of regular expressions
_RANGES = ("arange", "range", "linspace", "logspace", "randperm")


class AllocationLimit(TorchFunctionMode):
    """Raises a `ValueError` where tensors are created that the contents of a file do not justify.

    Args:
        content_bytes: Size of the tensors in the file.
    """

    def __init__(self, content_bytes: int) -> None:
        super().__init__()
        self._left = _FREE_BYTES + _BYTES_PER_BYTE * content_bytes

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run a function of torch, and count the memory that it asks for."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name.removeprefix("new_") in _SIZED or name in _RANGES:
            self._spend(torch.float32.itemsize * _requested(name, args, kwargs))
            return func(*args, **kwargs)
        result = func(*args, **kwargs)
        if isinstance(result, Tensor):
            self._spend(_created(result, args))
        return result

    def _spend(self, nbytes: int) -> None:
        self._left -= nbytes
        if self._left < 0:
            raise ValueError("it asks for much more memory than its contents need")


def _requested(name: str, args: tuple[object, ...], kwargs: Mapping[str, object]) -> int:
    """Return how many elements a function creates, as far as its arguments say."""
    given = [*args, *kwargs.values()]
    numbers = [int(value) for value in given if isinstance(value, (int, float)) and math.isfinite(value)]
    if name in _RANGES:
        return max(map(abs, numbers), default=0)
    if name == "eye":
        return math.prod(numbers) ** (2 if len(numbers) == 1 else 1)
    sizes = [value for value in given if isinstance(value, (list, tuple))]
    return math.prod(sizes[0]) if sizes else math.prod(numbers)


def _created(result: Tensor, args: tuple[object, ...]) -> int:
    """Return the size of a result, unless it shares memory with an argument."""
    if result.layout is not torch.strided or result.is_meta:
        return 0
    storage = result.untyped_storage()
    addresses = [
        arg.untyped_storage().data_ptr()
        for arg in args
        if isinstance(arg, Tensor) and arg.layout is torch.strided and not arg.is_meta
    ]
    return 0 if storage.data_ptr() in addresses else storage.nbytes()


def check_metric_configs(config: object) -> None:
    """Raise a `ValueError` if the configuration of a metric of ours asks for an absurd number of anything.

    Args:
        config: What `metrics.serialize` returned, or a nest of such.
    """
    if isinstance(config, int) and config > _MAX_METRIC_INTEGER:
        raise ValueError(f"it has a metric with an argument of {config}, which is more than {_MAX_METRIC_INTEGER}")
    for part in () if _is_custom(config) else _parts(config):
        check_metric_configs(part)


def check_patterns(config: object) -> None:
    """Raise a `ValueError` if the configuration of an optimizer has regular expressions that may take for ever.

    Args:
        config: What `optimizers.serialize` returned, those of inner optimizers included.
    """
    if isinstance(config, Mapping):
        for pattern in config.get("exclude_from_weight_decay", ()):
            _check_pattern(pattern)
    for part in _parts(config):
        check_patterns(part)


def _parts(config: object) -> Iterable[object]:
    """Return the parts of a list or mapping."""
    return config.values() if isinstance(config, Mapping) else config if isinstance(config, (list, tuple)) else ()


def _is_custom(config: object) -> bool:
    """Return whether a configuration is that of a class which the user registered."""
    names = [config.get("registered_name"), config.get("class_name")] if isinstance(config, Mapping) else []
    return any(find_custom(name) is not None for name in names if isinstance(name, str))


def _check_pattern(pattern: str) -> None:
    bare = re.sub(r"\\.", "", pattern, flags=re.DOTALL)
    repeats = len(re.findall(r"[*+?{]", bare))
    if repeats > _MAX_REPEATS or re.search(r"\)[*+?{]", bare) or len(pattern) > _MAX_PATTERN:
        raise ValueError(f"it has a regular expression that may take very long: {printable(pattern)!r}")
