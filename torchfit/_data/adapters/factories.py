"""Functions that return the data: `DatasetCreator`, and plain functions."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from torchfit._types import UserData
from torchfit._utils.errors import describe


@dataclass(frozen=True)
class InputContext:
    """Which part of the data a process is to read.

    Attributes:
        num_input_pipelines: The number of processes that read data.
        input_pipeline_id: The index of this process.
        num_replicas_in_sync: The number of replicas that train together.
    """

    num_input_pipelines: int = 1
    input_pipeline_id: int = 0
    num_replicas_in_sync: int = 1

    def get_per_replica_batch_size(self, global_batch_size: int) -> int:
        """Return the part of a batch that one replica gets.

        Raises:
            ValueError: If the batch cannot be divided evenly.

        >>> InputContext(num_replicas_in_sync=4).get_per_replica_batch_size(64)
        16
        """
        size, rest = divmod(global_batch_size, self.num_replicas_in_sync)
        if rest:
            raise ValueError(
                f"`global_batch_size` must be a multiple of the {self.num_replicas_in_sync} replicas, but it is "
                f"{global_batch_size}."
            )
        return size


class DatasetCreator:
    """Wraps a function that returns the data for one process of several.

    Args:
        dataset_fn: A function of one argument, an `InputContext`, that returns data of any kind that `fit` accepts.
        input_options: Kept, and not used.

    Raises:
        TypeError: If `dataset_fn` cannot be called.

    >>> DatasetCreator(lambda context: context.num_input_pipelines)(InputContext())
    1
    """

    def __init__(self, dataset_fn: Callable[[InputContext], UserData], input_options: object = None) -> None:
        if not callable(dataset_fn):
            raise TypeError(f"`dataset_fn` must be a function (context) → data, but it is {describe(dataset_fn)}.")
        self.dataset_fn = dataset_fn
        self.input_options = input_options

    def __call__(self, context: InputContext) -> UserData:
        """Return the data."""
        return self.dataset_fn(context)


def is_dataset_factory(value: UserData) -> bool:
    """Return whether `value` is a function, or an object written to be called, that returns data."""
    return callable(value) and not isinstance(value, (type, nn.Module)) and not hasattr(type(value), "__iter__")


def bind_factory(function: Callable[..., UserData]) -> Callable[[], UserData]:
    """Return a function without arguments that returns the data for this process.

    Raises:
        ValueError: If `function` takes more than an `InputContext`.
    """
    parameters = inspect.signature(function).parameters.values()
    required = [parameter for parameter in parameters if parameter.default is parameter.empty]
    if len(required) > 1:
        raise ValueError(
            f"`x` is {describe(function)}, which needs {len(required)} arguments. A function that returns data takes "
            "none, or an InputContext: bind the others with functools.partial."
        )
    return (lambda: function(current_input_context())) if required else function


def current_input_context() -> InputContext:
    """Return which part of the data this process is to read: all of it, unless torch.distributed is initialized."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        world = torch.distributed.get_world_size()
        return InputContext(world, torch.distributed.get_rank(), world)
    return InputContext()
