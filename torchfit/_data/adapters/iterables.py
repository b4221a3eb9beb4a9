"""Generators, and all other iterables of batches."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice, repeat, takewhile
from typing import Any

from torchfit._data.adapters.base import AdapterSpec, DataAdapter, length_of
from torchfit._data.batch_converter import BatchConverter
from torchfit._data.batch_source import BatchSource
from torchfit._data.convert import BatchSpec
from torchfit._data.workers import LoaderConfig, read_ahead, reraise_with_location
from torchfit._types import StateDict, UserData
from torchfit._utils.batch import Batch

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
        """Adapt an iterable; `factory` returns a new one for every pass, where it comes from a function."""
        super().__init__(batch_spec)
        self._iterable = iterable
        self._factory = factory

    def batches(
        self, batch_size: int | None = None, *, shuffle: bool | str = False, loader_config: LoaderConfig | None = None
    ) -> "IterableBatches":
        """Return what the iterable yields; with workers, one thread reads ahead, because it cannot be shared."""
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
        """The number of batches where the iterable has a length, which may change from epoch to epoch."""
        return length_of(self._iterable) or None

    def epoch(self, index: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of one pass; those before `start` are read and dropped."""
        passed, self._resumed = 0 if self._resumed else start, False
        return map(self._convert, islice(self._iter_raw(), passed, None))

    def state_dict(self, is_mid_epoch: bool = False) -> StateDict:
        """Return the state of the iterable, if it has one."""
        return {"iterable": self._iterable.state_dict() if self.is_resumable else None}  # type: ignore[attr-defined]

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the iterable continue where it was."""
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
        """Return what this pass iterates over: first what the function returned already, then what it returns next."""
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
