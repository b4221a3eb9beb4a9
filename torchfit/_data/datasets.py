"""torch's Datasets: samples by index, or one after the other."""

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

from torchfit._data.arguments import Form, Loading, check_batch_size
from torchfit._data.arrays import ArraySource
from torchfit._data.batches import Batches, draw_seed
from torchfit._data.convert import Conversion, tensor_of
from torchfit._data.forms import Source
from torchfit._data.order import order_for
from torchfit._data.split import boundary, warn_of_sorted_labels
from torchfit._data.stream import BatchReader
from torchfit._data.workers import Pool, Request, located, read_from, seed_everything
from torchfit._utils.batch import Batch
from torchfit._utils.errors import describe

_FROM_SAMPLES = "its samples carry them, as tuples (x, y) or (x, y, sample_weight)"


def is_map_style(value: Any) -> bool:
    """Tell whether `value` gives samples by index: a Dataset of torch, or an object that works like one."""
    if isinstance(value, (Dataset, Subset)) or hasattr(value, "__getitems__"):
        return not isinstance(value, IterableDataset)
    kind = type(value)
    is_indexed = hasattr(kind, "__getitem__") and hasattr(kind, "__len__")
    return is_indexed and not hasattr(kind, "__iter__") and not hasattr(value, "shape")


def source_of(dataset: Any, conversion: Conversion) -> Source:
    """Return the source for a Dataset with indices; one that merely holds tensors is taken as those tensors."""
    tensors = tensors_of(dataset)
    if tensors is None or len(tensors) not in (1, 2, 3):
        return DatasetSource(dataset, conversion)
    x, y, sample_weight = (*tensors, None, None)[:3]
    return TensorDatasetSource.of(x, y, sample_weight, conversion)


def tensors_of(dataset: Any) -> tuple[Tensor, ...] | None:
    """Return the tensors of a `TensorDataset`, or of a `Subset` of one; subclasses may do more, so they are none."""
    if type(dataset) is TensorDataset:
        return dataset.tensors
    if type(dataset) is Subset:
        whole = tensors_of(dataset.dataset)
        indices = torch.as_tensor(dataset.indices, dtype=torch.int64)
        return None if whole is None else tuple(tensor[indices.to(tensor.device)] for tensor in whole)
    return None


class TensorDatasetSource(ArraySource):
    """A Dataset of tensors: batches are gathered as from arrays, without going through single samples."""

    form = Form("a Dataset", {"y": _FROM_SAMPLES, "sample_weight": _FROM_SAMPLES})


class DatasetSource(Source):
    """A Dataset that gives samples by index; they are collated into batches as torch's `DataLoader` does."""

    form = Form("a Dataset", {"y": _FROM_SAMPLES, "sample_weight": _FROM_SAMPLES})

    def __init__(self, dataset: Any, conversion: Conversion, rows: range | None = None) -> None:
        """Take the samples `rows` of a dataset, all of them by default.

        Raises:
            ValueError: If there are none.
        """
        super().__init__(conversion)
        self._dataset = dataset
        self._rows = range(_length(dataset)) if rows is None else rows
        if not self._rows:
            raise ValueError(f"`x` is {describe(dataset)} without samples: there is nothing to make a batch from.")

    def split(self, fraction: float) -> "tuple[DatasetSource, DatasetSource]":
        """Set the last `fraction` of the samples apart."""
        start = boundary(len(self._rows), fraction)
        first, last = (
            DatasetSource(self._dataset, self.conversion, rows) for rows in (self._rows[:start], self._rows[start:])
        )
        if first.labels() is not None:
            warn_of_sorted_labels(first.labels(), last.labels())
        return first, last

    def labels(self) -> Tensor | None:
        """Return what the dataset says about its labels in `targets` or `labels`, as torchvision's do."""
        for name in ("targets", "labels"):
            found = getattr(self._dataset, name, None)
            if found is not None and hasattr(found, "__len__") and len(found) == len(self._dataset):
                return tensor_of(name, found)[self._rows.start : self._rows.stop]
        return None

    def batches(
        self, batch_size: int | None = None, *, shuffle: bool | str = False, loading: Loading | None = None
    ) -> "DatasetBatches":
        """Give batches of `batch_size` samples (32 by default); more than one worker are processes."""
        return DatasetBatches(
            self._dataset,
            self._rows,
            check_batch_size(batch_size),
            shuffle,
            _processes(loading),
            BatchReader(self.conversion, self.class_weights),
            pin_memory=self.conversion.device.type == "cuda",
        )


def _processes(loading: Loading | None) -> int:
    loading = loading or Loading()
    return loading.workers if loading.workers > 1 or loading.use_multiprocessing else 0


class DatasetBatches(Batches):
    """Batches of samples by index, read in this process or in workers that stay from epoch to epoch."""

    replayable = True

    def __init__(
        self,
        dataset: Any,
        rows: range,
        batch_size: int,
        shuffle: bool | str,
        processes: int,
        reader: BatchReader,
        *,
        pin_memory: bool,
    ) -> None:
        """Take the samples `rows` of a dataset."""
        self.samples = len(rows)
        self.steps = -(-self.samples // batch_size)
        self._rows, self._batch_size, self._order = rows, batch_size, order_for(shuffle)
        self._reader = reader
        self._fetch = Fetch(dataset)
        self.seed = draw_seed() if self._order or processes else 0
        self._pool = Pool(self._fetch, processes, 2 * processes, pin_memory) if processes else None

    def epoch(self, index: int, start: int = 0) -> Iterator[Batch]:
        """Give the batches of one epoch."""
        requests = self._requests(index, start)
        found = self._pool.map(requests) if self._pool else (self._fetch(request.what) for request in requests)
        return map(self._reader, found)

    def _requests(self, index: int, start: int) -> Iterator[Request]:
        size, seed, samples = self._batch_size, self.seed + index, len(self._rows)
        order = range(samples) if self._order is None else self._order(samples, size, seed).tolist()
        for step, first in enumerate(range(0, samples, size)):
            if step >= start:
                rows = [self._rows[position] for position in order[first : first + size]]
                yield Request(rows, hash((seed, step)) % 2**63)


class Fetch:
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
            return _located(self._dataset.__getitems__, rows, f"samples {rows[0]} … {rows[-1]} of the Dataset")
        dataset, row, samples = self._dataset, 0, []
        try:
            for row in rows:
                samples.append(dataset[row])
        except Exception as error:
            located(error, f"sample {row} of the Dataset, whose length is {len(dataset)}")
        return samples


def _located(read: Callable[[Any], Any], what: Any, where: str) -> Any:
    try:
        return read(what)
    except Exception as error:
        located(error, where)


class IterableSource(Source):
    """A Dataset that gives samples one after the other."""

    form = Form(
        "an iterable Dataset",
        {
            "y": _FROM_SAMPLES,
            "sample_weight": _FROM_SAMPLES,
            "validation_split": "its samples have no index to split at, pass `validation_data` instead",
        },
    )

    def __init__(self, dataset: Any, conversion: Conversion) -> None:
        """Take a dataset."""
        super().__init__(conversion)
        self._dataset = dataset

    def batches(
        self, batch_size: int | None = None, *, shuffle: bool | str = False, loading: Loading | None = None
    ) -> "IterableBatches":
        """Give batches of `batch_size` samples (32 by default), in the order in which they come."""
        reader = BatchReader(self.conversion, self.class_weights)
        return IterableBatches(self._dataset, check_batch_size(batch_size), _processes(loading), reader)


class IterableBatches(Batches):
    """Batches of samples that come one after the other."""

    may_run_out = True

    def __init__(self, dataset: Any, batch_size: int, processes: int, reader: BatchReader) -> None:
        """Collate `batch_size` samples at a time; each worker process goes through its own copy of the dataset."""
        self.samples = _length(dataset) if hasattr(type(dataset), "__len__") else None
        self.steps = None if self.samples is None else -(-self.samples // batch_size)
        self.seed = draw_seed() if processes else 0
        self._stream = SeededStream(dataset, self.seed)
        self._reader = reader
        self._loader: DataLoader[Any] = DataLoader(
            self._stream,
            batch_size=batch_size,
            num_workers=processes,
            persistent_workers=processes > 0,
            generator=torch.Generator(),
        )

    def epoch(self, index: int, start: int = 0) -> Iterator[Batch]:
        """Give the batches of one epoch; those before `start` are read and dropped."""
        return map(self._reader, islice(read_from(self._loader), start, None))


class SeededStream(IterableDataset[Any]):
    """A stream of samples whose randomness, in a worker, is that of the epoch and the worker."""

    def __init__(self, dataset: Any, seed: int) -> None:
        """Go through a dataset."""
        self._dataset = dataset
        self._seed = seed
        self._passes = 0

    def __iter__(self) -> Iterator[Any]:
        """Go through the dataset once.

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
            located(error, f"sample {number} of the iterable Dataset, counted from 0")


def _length(dataset: Any) -> int:
    try:
        return len(dataset)
    except (TypeError, NotImplementedError) as error:
        raise ValueError(
            f"`x` is {describe(dataset)} without a length. A Dataset that gives samples by index needs `__len__`; one "
            "without is a torch.utils.data.IterableDataset, with `__iter__`."
        ) from error
