"""`Sequence`/`PyDataset`: batches by index, as a class to write."""

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import count, islice
from typing import Any

from torch.utils.data import default_convert

from torchfit._data.arguments import Form, Loading
from torchfit._data.batches import Batches, draw_seed
from torchfit._data.convert import Conversion
from torchfit._data.forms import Source
from torchfit._data.loaders import length_of
from torchfit._data.order import shuffled_rows
from torchfit._data.stream import BatchReader
from torchfit._data.workers import Pool, Request, located, read_ahead
from torchfit._utils.batch import Batch

_FROM_BATCHES = "its batches carry them: return (x, y) or (x, y, sample_weight) from `__getitem__`"


class PyDataset:
    """Batches by index: define `__getitem__(index)`, which returns one whole batch, and `__len__`.

    `fit` shuffles the order of the batches anew each epoch (`shuffle=True`), and may read them in several threads or
    processes. Without `__len__` the data go on until `__getitem__` raises `IndexError`.

    Args:
        workers: How many threads, or processes, read batches ahead; 1 reads each batch when it is needed.
        use_multiprocessing: Whether they are processes. The object must then be picklable.
        max_queue_size: How many batches are read ahead at most.

    Subclasses may leave out `super().__init__()`. Arguments of the same names to `fit` go first.

    >>> import numpy as np
    >>> class Squares(PyDataset):
    ...     def __len__(self):
    ...         return 2
    ...     def __getitem__(self, index):
    ...         x = np.arange(4 * index, 4 * index + 4, dtype="float32")[:, None]
    ...         return x, x**2
    >>> Squares(workers=2)[1][1].ravel().tolist()
    [16.0, 25.0, 36.0, 49.0]
    """

    workers: int = 1
    use_multiprocessing: bool = False
    max_queue_size: int = 10

    def __init__(self, workers: int = 1, use_multiprocessing: bool = False, max_queue_size: int = 10) -> None:
        self.workers = workers
        self.use_multiprocessing = use_multiprocessing
        self.max_queue_size = max_queue_size

    def __getitem__(self, index: int) -> Any:
        """Return batch `index`: `(x,)`, `(x, y)` or `(x, y, sample_weight)`, each `(batch, …)` or a nest of such."""
        raise NotImplementedError(f"{type(self).__name__} gives no batches: define `__getitem__(index)`.")

    def __iter__(self) -> Iterator[Any]:
        """Go through the batches once, in order."""
        steps = self.num_batches
        return map(self.__getitem__, range(steps)) if steps is not None else _until_index_error(self, count())

    @property
    def num_batches(self) -> int | None:
        """The number of batches in an epoch, `None` where there is no `__len__`."""
        return length_of(self)

    def on_epoch_begin(self) -> None:
        """Hear that an epoch begins."""

    def on_epoch_end(self) -> None:
        """Hear that an epoch is over: the place to change the data for the next one."""


Sequence = PyDataset


def is_sequence(value: Any) -> bool:
    """Tell whether `value` gives batches by index: a `PyDataset`, or one of Keras'."""
    if isinstance(value, PyDataset) or getattr(type(value), "use_sequence_api", False):
        return True
    return any(
        kind.__name__ in ("PyDataset", "Sequence") and kind.__module__.startswith(("keras", "tensorflow"))
        for kind in type(value).__mro__
    )


class SequenceSource(Source):
    """A `PyDataset`."""

    form = Form(
        "a Sequence",
        {
            "y": _FROM_BATCHES,
            "sample_weight": _FROM_BATCHES,
            "batch_size": "it returns whole batches, so make them of the size you want",
            "validation_split": "split the data that it reads, and pass a second one as `validation_data`",
        },
    )

    def __init__(self, sequence: Any, conversion: Conversion) -> None:
        """Take a sequence."""
        super().__init__(conversion)
        self._sequence = sequence

    def batches(
        self, batch_size: int | None = None, *, shuffle: bool | str = False, loading: Loading | None = None
    ) -> "SequenceBatches":
        """Give the batches of the sequence, read as `loading` says, else as the sequence itself says."""
        self.form.check(batch_size=batch_size)
        names = ("workers", "use_multiprocessing", "max_queue_size")
        own = Loading(*(getattr(self._sequence, name, getattr(PyDataset, name)) for name in names))
        reader = BatchReader(self.conversion, self.class_weights)
        pins = self.conversion.device.type == "cuda"
        return SequenceBatches(self._sequence, bool(shuffle), (loading or Loading()).or_else(own), reader, pins)


class SequenceBatches(Batches):
    """The batches of a sequence, in order or shuffled, read in this thread, in several or in processes.

    A sequence that changes between epochs can be taken up where it has `state_dict` and `load_state_dict`.
    """

    repeats = True

    def __init__(self, sequence: Any, shuffle: bool, loading: Loading, reader: BatchReader, pin_memory: bool) -> None:
        """Take a sequence."""
        self._sequence = sequence
        self._shuffle = shuffle
        self._reader = reader
        self._loading = loading
        self._pool = self._workers(pin_memory) if loading.processes else None
        self.seed = draw_seed() if shuffle or loading.processes else 0
        self.may_run_out = self.steps is None
        self._keeps_state = hasattr(sequence, "state_dict") and hasattr(sequence, "load_state_dict")
        self.replayable = self._keeps_state or not _changes(sequence)

    @property
    def steps(self) -> int | None:  # type: ignore[override]
        """The number of batches, which may change from epoch to epoch."""
        known: int | None = getattr(self._sequence, "num_batches", None) or length_of(self._sequence)
        return known

    def epoch(self, index: int, start: int = 0) -> Iterator[Batch]:
        """Give the batches of one epoch from batch `start` on."""
        _tell(self._sequence, "on_epoch_begin")
        return map(self._reader, self._raw(self._requests(index, start)))

    def state_dict(self, is_inside: bool = False) -> dict[str, Any]:
        """Return the seed, and the state of a sequence that has one."""
        return {"seed": self.seed, "sequence": self._sequence.state_dict() if self._keeps_state else None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the same orders."""
        self.seed = state["seed"]
        if self._keeps_state and state["sequence"] is not None:
            self._sequence.load_state_dict(state["sequence"])

    def end_epoch(self) -> None:
        """Tell the sequence that an epoch is over."""
        _tell(self._sequence, "on_epoch_end")

    def _workers(self, pin_memory: bool) -> Pool:
        """Return the processes; a sequence that changes between epochs is sent to new ones each time."""
        read, keep = partial(_read_tensors, self._sequence), not _changes(self._sequence)
        return Pool(read, self._loading.processes, self._loading.max_queue_size, pin_memory, keep=keep)

    def _raw(self, requests: Iterator[Request]) -> Iterator[Any]:
        if self._pool is not None:
            return self._pool.map(requests)
        read = partial(_read, self._sequence)
        indices = (request.what for request in requests)
        if self._loading.threads and self.steps is not None:
            return read_ahead(read, indices, self._loading.threads, self._loading.max_queue_size)
        return map(read, indices) if self.steps is not None else _until_index_error(self._sequence, indices)

    def _requests(self, index: int, start: int) -> Iterator[Request]:
        seed, steps = self.seed + index, self.steps
        if steps is None:
            order: Any = count()
        else:
            order = shuffled_rows(steps, 1, seed).tolist() if self._shuffle else range(steps)
        for step, what in islice(enumerate(order), start, None):
            yield Request(what, hash((seed, step)) % 2**63)


def _changes(sequence: Any) -> bool:
    """Tell whether a sequence does something between epochs; Keras' and ours do nothing by themselves."""
    events = [getattr(type(sequence), event, None) for event in ("on_epoch_begin", "on_epoch_end")]
    return any(event is not None and _is_own(event) for event in events)


def _is_own(event: Any) -> bool:
    return not str(getattr(event, "__module__", "")).startswith(("torchfit.", "keras."))


def _read(sequence: Any, index: int) -> Any:
    try:
        return sequence[index]
    except Exception as error:
        located(error, f"batch {index} of the Sequence")


def _read_tensors(sequence: Any, index: int) -> Any:
    """Read a batch in a worker process, from which tensors come back without a copy."""
    return default_convert(_read(sequence, index))  # type: ignore[no-untyped-call]


def _until_index_error(sequence: Any, indices: Iterator[int]) -> Iterator[Any]:
    for index in indices:
        try:
            batch = sequence[index]
        except IndexError:
            return
        yield batch


def _tell(sequence: Any, event: str) -> None:
    hear = getattr(sequence, event, None)
    if hear is not None:
        hear()
