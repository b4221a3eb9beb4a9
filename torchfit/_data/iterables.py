"""Generators, and everything else that yields batches."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice, repeat, takewhile
from typing import Any

from torchfit._data.arguments import Form, Loading
from torchfit._data.batches import Batches
from torchfit._data.convert import Conversion
from torchfit._data.forms import Source
from torchfit._data.loaders import length_of
from torchfit._data.stream import BatchReader
from torchfit._data.workers import located, read_ahead
from torchfit._utils.batch import Batch

_FROM_BATCHES = "its batches carry them: yield (x, y) or (x, y, sample_weight)"
_END = object()


class StreamSource(Source):
    """A generator, or any iterable, of batches."""

    form = Form(
        "a generator or iterable of batches",
        {
            "y": _FROM_BATCHES,
            "sample_weight": _FROM_BATCHES,
            "batch_size": "it yields whole batches, so make them of the size you want",
            "validation_split": "its samples have no index to split at, pass `validation_data` instead",
        },
    )

    def __init__(self, iterable: Iterable[Any], conversion: Conversion, fresh: Callable[[], Any] | None = None) -> None:
        """Take an iterable; `fresh` makes it anew for every pass, where it comes from a function."""
        super().__init__(conversion)
        self._iterable = iterable
        self._fresh = fresh

    def batches(
        self, batch_size: int | None = None, *, shuffle: bool | str = False, loading: Loading | None = None
    ) -> "StreamBatches":
        """Give what the iterable yields; with workers, one thread reads ahead, because it cannot be shared."""
        self.form.check(batch_size=batch_size)
        reader = BatchReader(self.conversion, self.class_weights)
        return StreamBatches(self._iterable, reader, loading or Loading(), self._fresh)


class StreamBatches(Batches):
    """The batches that an iterable yields. A generator yields them once; afterwards epochs are empty.

    Only an iterable that has `state_dict` and `load_state_dict` can be taken up in the middle.
    """

    may_run_out = True

    def __init__(
        self, iterable: Iterable[Any], reader: BatchReader, loading: Loading, fresh: Callable[[], Any] | None = None
    ) -> None:
        """Take an iterable."""
        self._iterable = iterable
        self._reader = reader
        self._fresh = fresh
        self._loading = loading
        self.steps = length_of(iterable) or None
        self.replayable = hasattr(iterable, "state_dict") and hasattr(iterable, "load_state_dict")
        self._goes_on = False

    def epoch(self, index: int, start: int = 0) -> Iterator[Batch]:
        """Give the batches of one pass; those before `start` are read and dropped."""
        passed, self._goes_on = 0 if self._goes_on else start, False
        return map(self._reader, islice(self._raw(), passed, None))

    def state_dict(self, is_inside: bool = False) -> dict[str, Any]:
        """Return the state of the iterable, if it has one."""
        return {"iterable": self._iterable.state_dict() if self.replayable else None}  # type: ignore[attr-defined]

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the iterable go on where it was."""
        if self.replayable:
            self._iterable.load_state_dict(state["iterable"])  # type: ignore[attr-defined]
            self._goes_on = True

    def _raw(self) -> Iterator[Any]:
        iterator = iter(self._take())
        loading = self._loading
        if not loading.threads and not loading.processes:
            # The user's generator must outlive this one, so it is not delegated to with `yield from`.
            for raw in _numbered(iterator):  # noqa: UP028
                yield raw
            return
        found = read_ahead(lambda _: next(iterator, _END), repeat(None), 1, loading.max_queue_size)
        yield from takewhile(lambda raw: raw is not _END, found)

    def _take(self) -> Iterable[Any]:
        """Return what this pass goes through: the first one that a function made, then fresh ones."""
        taken = self._iterable
        if self._fresh is not None:
            self._iterable = _Fresh(self._fresh)
        return taken


class _Fresh:
    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[Any]:
        return iter(self._make())


def _numbered(iterator: Iterator[Any]) -> Iterator[Any]:
    number = 0
    while True:
        try:
            raw = next(iterator, _END)
        except Exception as error:
            located(error, f"batch {number} of the data, counted from 0")
        if raw is _END:
            return
        yield raw
        number += 1
