"""Selects the adapter for the data that a user passes."""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from torchfit._data.adapters import datasets
from torchfit._data.adapters.arrays import ArrayAdapter
from torchfit._data.adapters.base import DataAdapter
from torchfit._data.adapters.dataloader import DataLoaderAdapter
from torchfit._data.adapters.iterables import IterableAdapter, IterableDatasetAdapter
from torchfit._data.adapters.lazy_arrays import dok_to_csr, is_on_disk, is_sparse
from torchfit._data.adapters.sequence import SequenceAdapter, is_sequence
from torchfit._data.batch_converter import BatchConverter, batch_of_arrays, is_plain_array
from torchfit._data.class_weight import ClassWeights, as_class_weights, resolve_balanced
from torchfit._data.convert import BatchSpec, is_frame
from torchfit._types import UserData
from torchfit._utils import tree
from torchfit._utils.errors import describe
from torchfit._utils.names import suggest_constructor_keywords
from torchfit._utils.tree import Batch


@dataclass(frozen=True)
class InputContext:
    """Which part of the data a process should read.

    Attributes:
        num_input_pipelines: The number of processes that read data.
        input_pipeline_id: The index of this process.
        num_replicas_in_sync: The number of replicas that train together.
    """

    num_input_pipelines: int = 1
    input_pipeline_id: int = 0
    num_replicas_in_sync: int = 1

    def get_per_replica_batch_size(self, global_batch_size: int) -> int:
        """Return the batch size of one replica.

        Args:
            global_batch_size: Samples in a batch over all replicas.

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


@suggest_constructor_keywords
class DatasetCreator:
    """Wraps a function that returns the data for one of several processes.

    Args:
        dataset_fn: A function of one argument, an `InputContext`, that returns data of any kind that `fit` accepts.
        input_options: Stored, but not used.

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
    """Return whether `value` is a function or callable object that returns data."""
    return callable(value) and not isinstance(value, (type, nn.Module)) and not hasattr(type(value), "__iter__")


def bind_factory(function: Callable[..., UserData]) -> Callable[[], UserData]:
    """Return a function without arguments that returns the data for this process.

    Raises:
        ValueError: If `function` has required parameters besides an `InputContext`.
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
    """Return which part of the data this process should read: all of it, unless torch.distributed is initialized."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        world = torch.distributed.get_world_size()
        return InputContext(world, torch.distributed.get_rank(), world)
    return InputContext()


_SUPPORTED = (
    "arrays, tensors, DataFrames, nests of these, a torch Dataset or DataLoader, a Sequence, a generator or iterable "
    "of batches, or a function that returns one of them"
)

_MISSING = "`x` is missing: pass the inputs of the model as an array, a tensor, or a nest of them."

# Kinds of data other than arrays: the check for each, tried in this order, and the function that makes its adapter.
_ADAPTERS: list[tuple[Callable[[UserData], bool], Callable[[UserData, BatchSpec], DataAdapter]]] = [
    (lambda x: isinstance(x, DataLoader), DataLoaderAdapter),
    (lambda x: is_sequence(x), SequenceAdapter),
    (lambda x: isinstance(x, IterableDataset), IterableDatasetAdapter),
    (lambda x: datasets.is_map_style(x), datasets.make_dataset_adapter),
    (lambda x: hasattr(type(x), "__iter__") and not isinstance(x, (str, bytes, set, frozenset)), IterableAdapter),
    (lambda x: is_dataset_factory(x), lambda x, batch_spec: _from_factory(x, batch_spec)),
]


def get_data_adapter(x: UserData, y: UserData, sample_weight: UserData, batch_spec: BatchSpec) -> DataAdapter:
    """Return the adapter for the data that `fit`, `evaluate` and `predict` accept.

    Raises:
        ValueError: If `x` is missing, empty or of an unsupported kind, the lengths differ, or `y` or `sample_weight`
            are passed with data that already contain them.
    """
    if x is None:
        raise ValueError(_MISSING)
    if is_array_like(x):
        x, y = (x, y) if y is not None else batch_spec.split_labels(x)
        return ArrayAdapter.of(x, y, sample_weight, batch_spec)
    for accepts, make in _ADAPTERS:
        if accepts(x):
            adapter = make(x, batch_spec)
            adapter.spec.check(y=y, sample_weight=sample_weight)
            return adapter
    hint = " Create an object of the class first." if isinstance(x, type) else ""
    raise ValueError(f"`x` must be {_SUPPORTED}, but it is {describe(x)}.{hint}")


def as_batch(
    x: UserData, y: UserData, sample_weight: UserData, batch_spec: BatchSpec, class_weight: object = None
) -> Batch:
    """Convert the arguments of `train_on_batch`, `test_on_batch` and `predict_on_batch` to one batch.

    As in batches from an iterable, anything that is not an array stays as it is.

    Raises:
        ValueError: If `x` yields batches instead of being one.
    """
    if x is None:
        raise ValueError(_MISSING)
    given = Batch(x, y, sample_weight)
    if class_weight is None and all(map(is_plain_array, given)):  # A fast path for the usual case.
        return batch_of_arrays(given, batch_spec)
    if _yields_batches(x):
        raise ValueError(
            f"`x` must be the arrays of one batch, but it is {describe(x)}. Pass what it yields, or call `fit`, "
            "`evaluate` or `predict`."
        )
    x, y, sample_weight = map(dok_to_csr, (x, y, sample_weight))
    x, y = (x, y) if y is not None else batch_spec.split_labels(x)
    rules = as_class_weights(class_weight)
    batch = BatchConverter(batch_spec).convert_parts(x, y, sample_weight)
    if not rules:
        return batch
    names, hints = batch_spec.output_names, batch_spec.index_targets
    resolved = resolve_balanced(rules, lambda: batch.targets, "a batch without `y`", names, hints)
    return ClassWeights(resolved, names, batch_spec.target_dtype, hints)(batch)


def _yields_batches(x: UserData) -> bool:
    """Return whether `x` yields batches or is not data at all, and so cannot be a batch."""
    if isinstance(x, (str, bytes, nn.Module, Dataset)):
        return True
    return not is_array_like(x) and not hasattr(x, "to") and any(accepts(x) for accepts, _ in _ADAPTERS)


def is_array_like(value: UserData) -> bool:
    """Return whether `value` is an array in memory or on disk, or a list, tuple, dictionary or dataclass."""
    if not tree.is_leaf(value) or isinstance(value, (Tensor, np.ndarray, range, memoryview, int, float)):
        return True
    if isinstance(value, type) or is_sequence(value) or datasets.is_map_style(value):
        return False
    return is_frame(value) or is_on_disk(value) or is_sparse(value) or hasattr(value, "__array__")


def _from_factory(function: Callable[..., UserData], batch_spec: BatchSpec) -> DataAdapter:
    """Return the adapter for what a function returns; the function is called again for every pass over a generator."""
    if isinstance(function, nn.Module):
        raise ValueError(f"`x` must be data, but it is the module {type(function).__name__}.")
    factory = bind_factory(function)
    data = factory()
    if isinstance(data, Iterator):
        return IterableAdapter(data, batch_spec, factory=factory)
    if callable(data) and is_dataset_factory(data):
        raise ValueError(f"`x` is {describe(function)}, which returned {describe(data)} instead of data.")
    if isinstance(data, tuple) and not hasattr(data, "_fields"):
        x, y, sample_weight = (*data, None, None)[:3]
        return get_data_adapter(x, y, sample_weight, batch_spec)
    return get_data_adapter(data, None, None, batch_spec)
