"""torch's Datasets: samples by index, or one after another."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
    default_collate,
    get_worker_info,
)

from torchfit._data.adapters.arrays import ArrayAdapter
from torchfit._data.adapters.base import AdapterSpec, DataAdapter
from torchfit._data.batch_converter import BatchConverter
from torchfit._data.batch_source import BatchSource, draw_seed
from torchfit._data.convert import BatchSpec, tensor_of
from torchfit._data.sampling import make_order
from torchfit._data.validation_split import split_index, warn_of_sorted_labels
from torchfit._data.workers import (
    LoaderConfig,
    Request,
    WorkerPool,
    iterate_loader,
    reraise_with_location,
    seed_everything,
)
from torchfit._utils import validation
from torchfit._utils.batch import Batch
from torchfit._utils.errors import describe

_FROM_SAMPLES = "its samples carry them, as tuples (x, y) or (x, y, sample_weight)"


def is_map_style(value: Any) -> bool:
    """Return whether `value` has samples by index: a Dataset of torch, or an object that works like one."""
    if isinstance(value, (Dataset, Subset)) or hasattr(value, "__getitems__"):
        return not isinstance(value, IterableDataset)
    kind = type(value)
    is_indexed = hasattr(kind, "__getitem__") and hasattr(kind, "__len__")
    return is_indexed and not hasattr(kind, "__iter__") and not hasattr(value, "shape")


def make_dataset_adapter(dataset: Any, batch_spec: BatchSpec) -> DataAdapter:
    """Return the adapter for a Dataset with indices; a `TensorDataset` is adapted as its tensors."""
    tensors = tensors_of(dataset)
    if tensors is None or len(tensors) not in (1, 2, 3):
        return DatasetAdapter(dataset, batch_spec)
    x, y, sample_weight = (*tensors, None, None)[:3]
    return TensorDatasetAdapter.of(x, y, sample_weight, batch_spec)


def tensors_of(dataset: Any) -> tuple[Tensor, ...] | None:
    """Return the tensors of a `TensorDataset` or a `Subset` of one; subclasses do not count, they may do more."""
    if type(dataset) is TensorDataset:
        return dataset.tensors
    if type(dataset) is Subset:
        whole = tensors_of(dataset.dataset)
        indices = torch.as_tensor(dataset.indices, dtype=torch.int64)
        return None if whole is None else tuple(tensor[indices.to(tensor.device)] for tensor in whole)
    return None


class TensorDatasetAdapter(ArrayAdapter):
    """A `TensorDataset`: batches are indexed as those of arrays, without reading single samples."""

    spec = AdapterSpec("a Dataset", {"y": _FROM_SAMPLES, "sample_weight": _FROM_SAMPLES})


class DatasetAdapter(DataAdapter):
    """A Dataset with samples by index, which are collated into batches as in torch's `DataLoader`."""

    spec = AdapterSpec("a Dataset", {"y": _FROM_SAMPLES, "sample_weight": _FROM_SAMPLES})

    def __init__(self, dataset: Any, batch_spec: BatchSpec, rows: range | None = None) -> None:
        """Adapt the samples `rows` of a dataset, all of them by default.

        Raises:
            ValueError: If there are none.
        """
        super().__init__(batch_spec)
        self._dataset = dataset
        self._rows = range(_length(dataset)) if rows is None else rows
        if not self._rows:
            raise ValueError(f"`x` is {describe(dataset)} without samples: there is nothing to make a batch from.")

    def split(self, fraction: float) -> "tuple[DatasetAdapter, DatasetAdapter]":
        """Hold out the last `fraction` of the samples."""
        start = split_index(len(self._rows), fraction)
        first, last = (
            DatasetAdapter(self._dataset, self.batch_spec, rows) for rows in (self._rows[:start], self._rows[start:])
        )
        if first.labels() is not None:
            warn_of_sorted_labels(first.labels(), last.labels())
        return first, last

    def labels(self) -> Tensor | None:
        """Return the labels that the dataset has as `targets` or `labels`, as those of torchvision have."""
        for name in ("targets", "labels"):
            found = getattr(self._dataset, name, None)
            if found is not None and hasattr(found, "__len__") and len(found) == len(self._dataset):
                return tensor_of(name, found)[self._rows.start : self._rows.stop]
        return None

    def batches(
        self, batch_size: int | None = None, *, shuffle: bool | str = False, loader_config: LoaderConfig | None = None
    ) -> "DatasetBatches":
        """Return batches of `batch_size` samples (32 by default); more than one worker are processes."""
        return DatasetBatches(
            self._dataset,
            self._rows,
            validation.batch_size(batch_size),
            shuffle,
            _processes(loader_config),
            BatchConverter(self.batch_spec, self.class_weights),
            pin_memory=self.batch_spec.device.type == "cuda",
        )


def _processes(loader_config: LoaderConfig | None) -> int:
    loader_config = loader_config or LoaderConfig()
    return loader_config.workers if loader_config.workers > 1 or loader_config.use_multiprocessing else 0


class DatasetBatches(BatchSource):
    """Batches of samples by index, read in this process or in workers that live from epoch to epoch."""

    is_resumable = True

    def __init__(
        self,
        dataset: Any,
        rows: range,
        batch_size: int,
        shuffle: bool | str,
        processes: int,
        convert: BatchConverter,
        *,
        pin_memory: bool,
    ) -> None:
        """Read the samples `rows` of a dataset."""
        self.samples = len(rows)
        self.steps = -(-self.samples // batch_size)
        self._rows, self._batch_size, self._order = rows, batch_size, make_order(shuffle)
        self._convert = convert
        self._fetcher = SampleFetcher(dataset)
        self.seed = draw_seed() if self._order or processes else 0
        self._pool = WorkerPool(self._fetcher, processes, 2 * processes, pin_memory) if processes else None

    def epoch(self, index: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch."""
        requests = self._requests(index, start)
        fetched = self._pool.map(requests) if self._pool else (self._fetcher(request.index) for request in requests)
        return map(self._convert, fetched)

    def _requests(self, index: int, start: int) -> Iterator[Request]:
        size, seed, samples = self._batch_size, self.seed + index, len(self._rows)
        order = range(samples) if self._order is None else self._order(samples, size, seed).tolist()
        for step, first in enumerate(range(0, samples, size)):
            if step >= start:
                rows = [self._rows[position] for position in order[first : first + size]]
                yield Request(rows, hash((seed, step)) % 2**63)


class SampleFetcher:
    """Reads samples of a dataset and collates them."""

    def __init__(self, dataset: Any) -> None:
        """Read from a dataset."""
        self._dataset = dataset

    def __call__(self, rows: list[int]) -> Any:
        """Return the samples with these indices as one batch.

        Raises:
            ValueError: If the samples differ in shape.
            Exception: What the dataset raised, with the index of the sample.
        """
        samples = self._read(rows)
        try:
            return default_collate(samples)
        except (RuntimeError, TypeError, KeyError) as error:
            raise ValueError(
                f"The samples {rows[0]} … of the Dataset cannot be joined into a batch: {error}. Give them one shape "
                "and one structure, or pass a DataLoader with a `collate_fn` that pads them."
            ) from error

    def _read(self, rows: list[int]) -> Any:
        if hasattr(self._dataset, "__getitems__"):
            return _with_location(self._dataset.__getitems__, rows, f"samples {rows[0]} … {rows[-1]} of the Dataset")
        dataset, row, samples = self._dataset, 0, []
        try:
            for row in rows:
                samples.append(dataset[row])
        except Exception as error:
            reraise_with_location(error, f"sample {row} of the Dataset, whose length is {len(dataset)}")
        return samples


def _with_location(read: Callable[[Any], Any], index: Any, where: str) -> Any:
    try:
        return read(index)
    except Exception as error:
        reraise_with_location(error, where)


class IterableDatasetAdapter(DataAdapter):
    """A Dataset that yields samples one after another."""

    spec = AdapterSpec(
        "an iterable Dataset",
        {
            "y": _FROM_SAMPLES,
            "sample_weight": _FROM_SAMPLES,
            "validation_split": "its samples have no index to split at, pass `validation_data` instead",
        },
    )

    def __init__(self, dataset: Any, batch_spec: BatchSpec) -> None:
        """Adapt a dataset."""
        super().__init__(batch_spec)
        self._dataset = dataset

    def batches(
        self, batch_size: int | None = None, *, shuffle: bool | str = False, loader_config: LoaderConfig | None = None
    ) -> "IterableDatasetBatches":
        """Return batches of `batch_size` samples (32 by default), in the order of the Dataset."""
        convert = BatchConverter(self.batch_spec, self.class_weights)
        return IterableDatasetBatches(
            self._dataset, validation.batch_size(batch_size), _processes(loader_config), convert
        )


class IterableDatasetBatches(BatchSource):
    """Batches of samples that come one after another."""

    may_be_exhausted = True

    def __init__(self, dataset: Any, batch_size: int, processes: int, convert: BatchConverter) -> None:
        """Collate `batch_size` samples at a time; each worker process iterates over its own copy of the dataset."""
        self.samples = _length(dataset) if hasattr(type(dataset), "__len__") else None
        self.steps = None if self.samples is None else -(-self.samples // batch_size)
        self.seed = draw_seed() if processes else 0
        self._stream = SeededStream(dataset, self.seed)
        self._convert = convert
        self._loader: DataLoader[Any] = DataLoader(
            self._stream,
            batch_size=batch_size,
            num_workers=processes,
            persistent_workers=processes > 0,
            generator=torch.Generator(),
        )

    def epoch(self, index: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch; those before `start` are read and dropped."""
        return map(self._convert, islice(iterate_loader(self._loader), start, None))


class SeededStream(IterableDataset[Any]):
    """A stream of samples whose randomness, in a worker, depends on the epoch and the worker alone."""

    def __init__(self, dataset: Any, seed: int) -> None:
        """Iterate over a dataset."""
        self._dataset = dataset
        self._seed = seed
        self._passes = 0

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the dataset once.

        Raises:
            Exception: What the dataset raised, with the number of the sample.
        """
        worker = get_worker_info()
        if worker is not None:
            seed_everything(hash((self._seed, self._passes, worker.id)) % 2**63)
        self._passes += 1
        number = 0
        try:
            for sample in self._dataset:
                yield sample
                number += 1
        except Exception as error:
            reraise_with_location(error, f"sample {number} of the iterable Dataset, counted from 0")


def _length(dataset: Any) -> int:
    try:
        return len(dataset)
    except (TypeError, NotImplementedError) as error:
        raise ValueError(
            f"`x` is {describe(dataset)} without a length. A Dataset with samples by index needs `__len__`; one "
            "without is a torch.utils.data.IterableDataset, with `__iter__`."
        ) from error
