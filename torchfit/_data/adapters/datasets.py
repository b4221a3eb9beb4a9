"""Adapter for map-style Datasets of torch, whose samples are read by index."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
    default_collate,
)

from torchfit._data.adapters.arrays import ArrayAdapter
from torchfit._data.adapters.base import AdapterSpec, DataAdapter
from torchfit._data.batch_converter import BatchConverter, unpack
from torchfit._data.batch_source import BatchSource, TakesRows, draw_seed
from torchfit._data.convert import BatchSpec, tensor_of
from torchfit._data.epoch_iterator import make_order
from torchfit._data.validation_split import split_index, warn_of_sorted_labels
from torchfit._data.workers import (
    LoaderConfig,
    Request,
    WorkerPool,
    reraise_with_location,
)
from torchfit._types import Nested, UserData
from torchfit._utils import validation
from torchfit._utils.errors import describe
from torchfit._utils.rng import random_state, restore_random_state
from torchfit._utils.tree import Batch

FROM_SAMPLES = "its samples carry them, as tuples (x, y) or (x, y, sample_weight)"
_MAX_COMPARED = 1000
_MIN_COMPARED = 16
ReadSamples = Callable[[Sequence[int]], Sequence[UserData]]
Index = TypeVar("Index")
Found = TypeVar("Found")


def is_map_style(value: UserData) -> bool:
    """Return whether `value` is a map-style Dataset of torch, or an object that works like one."""
    if isinstance(value, (Dataset, Subset)) or hasattr(value, "__getitems__"):
        return not isinstance(value, IterableDataset)
    kind = type(value)
    is_indexed = hasattr(kind, "__getitem__") and hasattr(kind, "__len__")
    return is_indexed and not hasattr(kind, "__iter__") and not hasattr(value, "shape")


def make_dataset_adapter(dataset: UserData, batch_spec: BatchSpec) -> DataAdapter:
    """Return the adapter for a map-style Dataset; a `TensorDataset` is treated like its tensors."""
    tensors = tensors_of(dataset)
    if tensors is None or len(tensors) not in (1, 2, 3):
        return DatasetAdapter(dataset, batch_spec)
    x, y, sample_weight = (*tensors, None, None)[:3]
    return TensorDatasetAdapter.of(x, y, sample_weight, batch_spec)


def tensors_of(dataset: UserData) -> tuple[Tensor, ...] | None:
    """Return the tensors of a `TensorDataset` or a `Subset` of one, but not of subclasses, which may do more."""
    if type(dataset) is TensorDataset:
        return dataset.tensors
    if type(dataset) is Subset:
        whole = tensors_of(dataset.dataset)
        indices = torch.as_tensor(dataset.indices, dtype=torch.int64)
        return None if whole is None else tuple(tensor[indices.to(tensor.device)] for tensor in whole)
    return None


class TensorDatasetAdapter(ArrayAdapter):
    """A `TensorDataset`: batches are indexed as those of arrays, instead of collating samples."""

    spec = AdapterSpec("a Dataset", {"y": FROM_SAMPLES, "sample_weight": FROM_SAMPLES})


class DatasetAdapter(DataAdapter):
    """A map-style Dataset, whose samples are collated into batches as in torch's `DataLoader`."""

    spec = AdapterSpec("a Dataset", {"y": FROM_SAMPLES, "sample_weight": FROM_SAMPLES})

    def __init__(self, dataset: UserData, batch_spec: BatchSpec, rows: range | None = None) -> None:
        """Adapt the samples `rows` of a dataset, by default all of them.

        Raises:
            ValueError: If the dataset has no samples.
        """
        super().__init__(batch_spec)
        check_format(dataset)
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
        labels = shown_labels(self._dataset)
        if labels is not None:
            labels = labels[self._rows.start : self._rows.stop]
            warn_of_sorted_labels(labels[:start], labels[start:])
        return first, last

    def labels(self) -> Nested:
        """Return the targets of the samples. All samples are read unless the dataset has `targets` or `labels`."""
        fetcher = SampleFetcher(self._dataset)
        return exact_labels(
            self._dataset, self._rows, lambda rows: list(map(self.batch_spec.split_batch, fetcher.read(rows)))
        )

    def batches(
        self, batch_size: int | None = None, *, shuffle: bool | str = False, loader_config: LoaderConfig | None = None
    ) -> "DatasetBatches":
        """Return batches of `batch_size` samples (32 by default); several workers are processes."""
        return DatasetBatches(
            self._dataset,
            self._rows,
            validation.batch_size(batch_size),
            shuffle,
            worker_processes(loader_config),
            BatchConverter(self.batch_spec, self.class_weights, is_fresh=True),
            pin_memory=self.batch_spec.device.type == "cuda",
        )


def worker_processes(loader_config: LoaderConfig | None) -> int:
    loader_config = loader_config or LoaderConfig()
    return loader_config.workers if loader_config.workers > 1 or loader_config.use_multiprocessing else 0


class DatasetBatches(BatchSource):
    """Batches of samples read by index, in this process or in workers that are kept from epoch to epoch."""

    is_resumable = True
    is_indexed = True

    def __init__(
        self,
        dataset: UserData,
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
        self._part: TakesRows | None = None

    def epoch(self, index: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch."""
        requests, part = self._requests(index, start), self._part
        if part is not None:
            requests = (
                Request(whole.index[part.slice(len(whole.index))], hash((whole.seed, part.rank)) % 2**63)
                for whole in requests
            )
        fetched = self._pool.map(requests) if self._pool else (self._fetcher(request.index) for request in requests)
        batches = map(self._convert, fetched)
        return batches if part is None else map(part.mark, batches, self._sizes(start))

    def take_part(self, rows: TakesRows) -> BatchSource:
        """Read only the samples of one process."""
        self._part = rows
        return self

    def _sizes(self, start: int) -> Iterator[int]:
        """Yield the number of samples in each batch, from batch `start` on."""
        samples, size = len(self._rows), self._batch_size
        return (min(size, samples - first) for first in range(start * size, samples, size))

    def _requests(self, index: int, start: int) -> Iterator[Request]:
        size, seed, samples = self._batch_size, self.seed + index, len(self._rows)
        order = range(samples) if self._order is None else self._order(samples, size, seed).tolist()
        for step, first in enumerate(range(0, samples, size)):
            if step >= start:
                rows = [self._rows[position] for position in order[first : first + size]]
                yield Request(rows, hash((seed, step)) % 2**63)


class SampleFetcher:
    """Reads samples of a dataset and collates them."""

    def __init__(self, dataset: UserData) -> None:
        """Read from a dataset."""
        self._dataset = dataset

    def __call__(self, rows: list[int]) -> UserData:
        """Return the samples with these indices as one batch.

        Raises:
            ValueError: If the samples differ in shape.
            Exception: What the dataset raised, with the index of the sample.
        """
        samples = self.read(rows)
        try:
            return default_collate(samples)
        except (RuntimeError, TypeError, KeyError) as error:
            raise ValueError(
                f"The samples {rows[0]} … of the Dataset cannot be joined into a batch: {error}. Give them one shape "
                "and one structure, or pass a DataLoader with a `collate_fn` that pads them."
            ) from error

    def read(self, rows: Sequence[int]) -> UserData:
        """Return the samples with these indices, one by one."""
        if hasattr(self._dataset, "__getitems__"):
            return _with_location(
                self._dataset.__getitems__, list(rows), f"samples {rows[0]} … {rows[-1]} of the Dataset"
            )
        dataset, row, samples = self._dataset, 0, []
        try:
            for row in rows:
                samples.append(dataset[row])
        except Exception as error:
            reraise_with_location(error, f"sample {row} of the Dataset, whose length is {len(dataset)}")
        return samples


def _with_location(read: Callable[[Index], Found], index: Index, where: str) -> Found:
    try:
        return read(index)
    except Exception as error:
        reraise_with_location(error, where)


def check_format(dataset: UserData) -> None:
    """Check that a Hugging Face Dataset returns tensors: lists, as in its plain format, are not collated by rows.

    Raises:
        ValueError: If it returns lists.
    """
    settings = getattr(dataset, "format", None)
    is_hugging_face = type(dataset).__module__.partition(".")[0] == "datasets" and isinstance(settings, Mapping)
    if not is_hugging_face or settings.get("type") not in (None, "python"):  # type: ignore[union-attr]
        return
    sample = next(iter(dataset), None)
    lists = [name for name, value in sample.items() if isinstance(value, list)] if isinstance(sample, Mapping) else []
    if lists:
        raise ValueError(
            f"`x` is a Dataset of Hugging Face in plain format, whose columns {lists} hold lists, which do not become "
            'tensors (samples, …). Pass dataset.with_format("torch").'
        )


def _length(dataset: UserData) -> int:
    try:
        return len(dataset)
    except (TypeError, NotImplementedError) as error:
        raise ValueError(
            f"`x` is {describe(dataset)} without a length. A Dataset with samples by index needs `__len__`; one "
            "without is a torch.utils.data.IterableDataset, with `__iter__`."
        ) from error


def shown_labels(dataset: UserData) -> Tensor | None:
    """Return the `targets` or `labels` attribute of a Dataset, or of the Dataset that a `Subset` refers to.

    The result is `None` unless it holds numbers, one entry per sample; such attributes may also be names, paths or
    boxes. A transform may change the targets, so that those of the samples can differ from the attribute.
    """
    if isinstance(dataset, Subset):
        labels = shown_labels(dataset.dataset)
        return None if labels is None else labels[torch.as_tensor(dataset.indices, dtype=torch.int64)]
    found = (_as_labels(getattr(dataset, name, None), len(dataset)) for name in ("targets", "labels"))
    return next((labels for labels in found if labels is not None), None)


def exact_labels(dataset: UserData, rows: range, read: ReadSamples) -> Nested:
    """Return the targets of the samples `rows`, a tensor `(samples, …)` or a nest of such tensors.

    If the Dataset has a `targets` or `labels` attribute, one sample of each class is compared with it. If they differ,
    or there is no such attribute, all samples are read.

    Raises:
        ValueError: If the samples have no targets, or their targets are not numeric.
    """
    labels = shown_labels(dataset)
    before = random_state(devices=False)
    try:
        if labels is not None and _agree(labels, rows, read):
            return labels[rows.start : rows.stop]
        return _read_targets(rows, read)
    finally:
        restore_random_state(before)


def _as_labels(value: UserData, samples: int) -> Tensor | None:
    if value is None or isinstance(value, (str, bytes, Mapping)):
        return None
    try:
        labels = tensor_of("labels", value)
    except (ValueError, TypeError, RuntimeError):
        return None
    return labels if len(labels) == samples and not labels.is_complex() else None


def _agree(labels: Tensor, rows: range, read: ReadSamples) -> bool:
    """Return whether the labels match the targets of some samples: one of each class, and a few more."""
    part = labels[rows.start : rows.stop].cpu()
    positions = {int(position) for position in np.linspace(0, len(part) - 1, _MIN_COMPARED)}
    if part.ndim == 1:
        positions |= set(np.unique(part.numpy(), return_index=True)[1][:_MAX_COMPARED].tolist())
    order = sorted(positions)
    targets = [_target_of(sample) for sample in read([rows[position] for position in order])]
    return all(_is_equal(target, part[position]) for target, position in zip(targets, order))


def _is_equal(target: object, label: Tensor) -> bool:
    try:
        found = torch.as_tensor(target)
    except (ValueError, TypeError, RuntimeError):
        return False
    return found.numel() == label.numel() and bool((found.cpu().reshape(-1) == label.reshape(-1)).all())


def _read_targets(rows: range, read: ReadSamples) -> Nested:
    targets = [_target_of(sample) for row in rows for sample in read([row])]
    try:
        return default_collate(targets)
    except (RuntimeError, TypeError, KeyError) as error:
        raise ValueError(
            f"`class_weight='balanced'` needs targets that are class indices or one-hot rows, but those of the Dataset "
            f"cannot be counted: {error}. Count them yourself and pass a dictionary {{class: weight}}."
        ) from error


def _target_of(sample: UserData) -> UserData:
    parts = unpack(sample)
    if len(parts) < 2 or parts[1] is None:
        raise ValueError(
            f"`class_weight` needs the classes of the samples, but a sample of the Dataset is {describe(sample)}: "
            "return (x, y) from `__getitem__`."
        )
    return parts[1]
