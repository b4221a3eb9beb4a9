"""Adapters for iterables: generators, iterable Datasets and everything else that yields batches or samples."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice, repeat, takewhile

import torch
from torch.utils.data import DataLoader, IterableDataset, default_collate, get_worker_info

from torchfit._data.adapters.base import AdapterSpec, DataAdapter, length_of
from torchfit._data.adapters.datasets import FROM_SAMPLES, check_format, worker_processes
from torchfit._data.batch_converter import BatchConverter
from torchfit._data.batch_source import BatchSource, draw_seed
from torchfit._data.convert import BatchSpec
from torchfit._data.workers import LoaderConfig, iterate_loader, read_ahead, reraise_with_location, seed_everything
from torchfit._types import StateDict, UserData
from torchfit._utils import tree, validation
from torchfit._utils.errors import warn
from torchfit._utils.tree import Batch

_FROM_BATCHES = "its batches carry them: yield (x, y) or (x, y, sample_weight)"
_END = object()
Factory = Callable[[], Iterable[object]]


class IterableAdapter(DataAdapter):
    """A generator, or any iterable, of batches."""

    spec = AdapterSpec(
        "a generator or iterable of batches",
        {
            "y": _FROM_BATCHES,
            "sample_weight": _FROM_BATCHES,
            "batch_size": "it yields whole batches, so make them of the size you want",
            "validation_split": "its samples have no index to split at, pass `validation_data` instead",
        },
    )

    def __init__(self, iterable: Iterable[object], batch_spec: BatchSpec, factory: Factory | None = None) -> None:
        """Adapt an iterable. If it comes from a function, `factory` returns a new one for every pass."""
        super().__init__(batch_spec)
        self._iterable = iterable
        self._factory = factory

    def batches(
        self, batch_size: int | None = None, *, shuffle: bool | str = False, loader_config: LoaderConfig | None = None
    ) -> "IterableBatches":
        """Return what the iterable yields. With workers, one thread reads ahead: an iterator cannot be shared."""
        self.spec.check(batch_size=batch_size)
        convert = BatchConverter(self.batch_spec, self.class_weights)
        return IterableBatches(self._iterable, convert, loader_config or LoaderConfig(), self._factory)


class IterableBatches(BatchSource):
    """The batches that an iterable yields. A generator yields them once; later epochs are empty.

    Only an iterable that has `state_dict` and `load_state_dict` can be resumed.
    """

    may_be_exhausted = True

    def __init__(
        self,
        iterable: Iterable[object],
        convert: BatchConverter,
        loader_config: LoaderConfig,
        factory: Factory | None = None,
    ) -> None:
        """Read from an iterable."""
        self._iterable = iterable
        self._convert = convert
        self._factory = factory
        self._loader_config = loader_config
        self.has_exact_length = self.steps is not None
        self.is_resumable = hasattr(iterable, "state_dict") and hasattr(iterable, "load_state_dict")
        self._resumed = False

    @property
    def steps(self) -> int | None:  # type: ignore[override]
        """The number of batches if the iterable has a length, which may change from epoch to epoch."""
        return length_of(self._iterable) or None

    def epoch(self, index: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of one pass; those before `start` are read and dropped."""
        passed, self._resumed = 0 if self._resumed else start, False
        return map(self._convert, islice(self._iter_raw(), passed, None))

    def state_dict(self, is_mid_epoch: bool = False) -> StateDict:
        """Return the state of the iterable, if it has one."""
        return {"iterable": self._iterable.state_dict() if self.is_resumable else None}  # type: ignore[attr-defined]

    def load_state_dict(self, state: StateDict) -> None:
        """Restore the state of the iterable."""
        if self.is_resumable:
            self._iterable.load_state_dict(state["iterable"])  # type: ignore[attr-defined]
            self._resumed = True

    def _iter_raw(self) -> Iterator[UserData]:
        iterator = iter(self._next_iterable())
        loader_config = self._loader_config
        if not loader_config.threads and not loader_config.processes:
            # The user's generator must outlive this one, so it is not delegated to with `yield from`.
            for raw in _with_batch_number(iterator):  # noqa: UP028
                yield raw
            return
        found = read_ahead(lambda _: next(iterator, _END), repeat(None), 1, loader_config.max_queue_size)
        yield from takewhile(lambda raw: raw is not _END, found)

    def _next_iterable(self) -> Iterable[UserData]:
        """Return the iterable of this pass: first the one that the function returned already, then new ones."""
        iterable = self._iterable
        if self._factory is not None:
            self._iterable = _RestartableIterable(self._factory)
        return iterable


class _RestartableIterable:
    def __init__(self, make: Factory) -> None:
        self._make = make

    def __iter__(self) -> Iterator[UserData]:
        return iter(self._make())


def _with_batch_number(iterator: Iterator[UserData]) -> Iterator[UserData]:
    number = 0
    while True:
        try:
            raw = next(iterator, _END)
        except Exception as error:
            reraise_with_location(error, f"batch {number} of the data, counted from 0")
        if raw is _END:
            return
        yield raw
        number += 1


_BATCHES_HINT = "If it yields whole batches, pass DataLoader(dataset, batch_size=None)."


class IterableDatasetAdapter(DataAdapter):
    """An iterable Dataset of torch, which yields samples."""

    spec = AdapterSpec(
        "an iterable Dataset",
        {
            "y": FROM_SAMPLES,
            "sample_weight": FROM_SAMPLES,
            "validation_split": "its samples have no index to split at, pass `validation_data` instead",
        },
    )

    def __init__(self, dataset: UserData, batch_spec: BatchSpec) -> None:
        """Adapt a dataset."""
        super().__init__(batch_spec)
        check_format(dataset)
        self._dataset = dataset

    def batches(
        self, batch_size: int | None = None, *, shuffle: bool | str = False, loader_config: LoaderConfig | None = None
    ) -> "IterableDatasetBatches":
        """Return batches of `batch_size` samples (32 by default), in the order of the Dataset."""
        size, processes = validation.batch_size(batch_size), worker_processes(loader_config)
        convert = BatchConverter(self.batch_spec, self.class_weights, is_fresh=True)
        return IterableDatasetBatches(self._dataset, size, processes, convert)


class IterableDatasetBatches(BatchSource):
    """Batches of the samples that an iterable Dataset yields.

    The length of such a Dataset is only an estimate, so the number of samples counts as unknown.
    """

    may_be_exhausted = True

    def __init__(self, dataset: UserData, batch_size: int, processes: int, convert: BatchConverter) -> None:
        """Collate `batch_size` samples at a time; each worker process iterates over its own copy of the dataset."""
        length = length_of(dataset)
        self.steps = -(-length // batch_size) if length else None
        self.seed = draw_seed() if processes else 0
        self._stream = SeededStream(dataset, self.seed)
        self._convert = convert
        self._loader: DataLoader[UserData] = DataLoader(
            self._stream,
            batch_size=batch_size,
            collate_fn=Collate(),
            num_workers=processes,
            persistent_workers=processes > 0,
            generator=torch.Generator(),
        )

    def epoch(self, index: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch; those before `start` are read and dropped."""
        return map(self._convert, islice(iterate_loader(self._loader), start, None))


class SeededStream(IterableDataset[UserData]):
    """A stream of samples whose randomness, in a worker process, depends only on the epoch and the worker."""

    def __init__(self, dataset: UserData, seed: int) -> None:
        """Iterate over a dataset."""
        self._dataset = dataset
        self._seed = seed
        self._passes = 0

    def __iter__(self) -> Iterator[UserData]:
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


class Collate:
    """Collates samples like torch's `default_collate`, and warns if each of them looks like a whole batch."""

    def __init__(self) -> None:
        self._is_checked = False

    def __call__(self, samples: list[UserData]) -> UserData:
        """Return the samples as one batch.

        Raises:
            ValueError: If they cannot be joined.
        """
        if not self._is_checked:
            self._is_checked = True
            if _is_batch(samples[0]):
                warn(
                    f"Each item of the iterable Dataset has as many targets as rows, and {len(samples)} items are "
                    f"joined into a batch. {_BATCHES_HINT}"
                )
        try:
            return default_collate(samples)
        except (RuntimeError, TypeError, KeyError) as error:
            raise ValueError(
                f"The samples of the iterable Dataset cannot be joined into a batch: {error}. {_BATCHES_HINT} Else "
                "give them one shape and one structure, or pass a DataLoader with a `collate_fn` that pads them."
            ) from error


def _is_batch(sample: UserData) -> bool:
    """Return whether a sample `(x, y)` looks like a batch: inputs with several rows, and a label for each row."""
    if not isinstance(sample, (tuple, list)) or len(sample) < 2:
        return False
    shapes = [[tuple(getattr(leaf, "shape", ())) for leaf in tree.leaves(part)] for part in sample[:2]]
    rows = {shape[0] if shape else 0 for part in shapes for shape in part}
    has_labels = all(len(shape) == 1 or (len(shape) == 2 and shape[1] == 1) for shape in shapes[1])
    has_features = all(len(shape) > 1 for shape in shapes[0])
    return has_labels and has_features and len(rows) == 1 and max(rows) > 1
