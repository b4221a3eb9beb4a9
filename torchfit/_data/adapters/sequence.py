"""`PyDataset`, also called `Sequence`, and its adapter: batches by index, from a class that users write."""

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import count, islice

from torch.utils.data import default_convert

from torchfit._data.adapters.base import AdapterSpec, DataAdapter, length_of
from torchfit._data.batch_converter import BatchConverter
from torchfit._data.batch_source import BatchSource, draw_seed
from torchfit._data.convert import BatchSpec
from torchfit._data.epoch_iterator import shuffled_rows
from torchfit._data.workers import LoaderConfig, Request, WorkerPool, read_ahead, reraise_with_location
from torchfit._types import StateDict, UserData
from torchfit._utils.names import suggest_constructor_keywords
from torchfit._utils.tree import Batch

_FROM_BATCHES = "its batches carry them: return (x, y) or (x, y, sample_weight) from `__getitem__`"


@suggest_constructor_keywords
class PyDataset:
    """Batches by index: define `__getitem__(index)`, which returns one whole batch, and `__len__`.

    `fit` shuffles the order of the batches every epoch (`shuffle=True`), and may read them in several threads or
    processes. Without `__len__` an epoch ends when `__getitem__` raises `IndexError`.

    Args:
        workers: How many threads, or processes, read batches ahead; with 1 each batch is read when it is needed.
        use_multiprocessing: Whether the workers are processes. The object must then be picklable.
        max_queue_size: How many batches are read ahead at most.

    Subclasses need not call `super().__init__()`. Arguments of `fit` with the same names take precedence.

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

    def __getitem__(self, index: int) -> UserData:
        """Return batch `index`: `(x,)`, `(x, y)` or `(x, y, sample_weight)`, each `(batch, …)` or a nest of such."""
        raise NotImplementedError(f"{type(self).__name__} has no batches: define `__getitem__(index)`.")

    def __iter__(self) -> Iterator[UserData]:
        """Iterate over the batches once, in order."""
        steps = self.num_batches
        return map(self.__getitem__, range(steps)) if steps is not None else _until_index_error(self, count())

    @property
    def num_batches(self) -> int | None:
        """The number of batches in an epoch, or `None` without `__len__`."""
        return length_of(self)

    def on_epoch_begin(self) -> None:
        """Called at the start of an epoch."""

    def on_epoch_end(self) -> None:
        """Called at the end of an epoch, for example to change the data for the next one."""


Sequence = PyDataset


def is_sequence(value: UserData) -> bool:
    """Return whether `value` is a `PyDataset`, of torchfit or of Keras."""
    if isinstance(value, PyDataset) or getattr(type(value), "use_sequence_api", False):
        return True
    return any(
        kind.__name__ in ("PyDataset", "Sequence") and kind.__module__.startswith(("keras", "tensorflow"))
        for kind in type(value).__mro__
    )


class SequenceAdapter(DataAdapter):
    """A `PyDataset`."""

    spec = AdapterSpec(
        "a Sequence",
        {
            "y": _FROM_BATCHES,
            "sample_weight": _FROM_BATCHES,
            "batch_size": "it returns whole batches, so make them of the size you want",
            "validation_split": "split the data that it reads, and pass a second one as `validation_data`",
        },
    )

    def __init__(self, sequence: UserData, batch_spec: BatchSpec) -> None:
        """Adapt a sequence."""
        super().__init__(batch_spec)
        self._sequence = sequence

    def batches(
        self, batch_size: int | None = None, *, shuffle: bool | str = False, loader_config: LoaderConfig | None = None
    ) -> "SequenceBatches":
        """Return the batches, read ahead as `loader_config` or, by default, the attributes of the sequence say."""
        self.spec.check(batch_size=batch_size)
        names = ("workers", "use_multiprocessing", "max_queue_size")
        defaults = LoaderConfig(*(getattr(self._sequence, name, getattr(PyDataset, name)) for name in names))
        loader_config = (loader_config or LoaderConfig()).with_default(defaults)
        convert = BatchConverter(self.batch_spec, self.class_weights, is_fresh=loader_config.processes > 0)
        pin_memory = self.batch_spec.device.type == "cuda"
        return SequenceBatches(self._sequence, bool(shuffle), loader_config, convert, pin_memory)


class SequenceBatches(BatchSource):
    """The batches of a sequence, in order or shuffled, read in this thread, in several threads or in processes.

    A run on a sequence that changes between epochs can be resumed if it has `state_dict` and `load_state_dict`.
    """

    is_indexed = True

    def __init__(
        self, sequence: UserData, shuffle: bool, loader_config: LoaderConfig, convert: BatchConverter, pin_memory: bool
    ) -> None:
        """Adapt a sequence."""
        self._sequence = sequence
        self._shuffle = shuffle
        self._convert = convert
        self.loader_config = loader_config
        self._pool = self._workers(pin_memory) if loader_config.processes else None
        self.seed = draw_seed() if shuffle or loader_config.processes else 0
        self.may_be_exhausted = self.steps is None
        self._is_stateful = hasattr(sequence, "state_dict") and hasattr(sequence, "load_state_dict")
        self.is_resumable = self._is_stateful or not _has_epoch_hooks(sequence)

    @property
    def steps(self) -> int | None:  # type: ignore[override]
        """The number of batches, which may change from epoch to epoch."""
        length: int | None = getattr(self._sequence, "num_batches", None) or length_of(self._sequence)
        return length

    def epoch(self, index: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch, from batch `start` on."""
        _call_hook(self._sequence, "on_epoch_begin")
        return map(self._convert, self._iter_raw(self._requests(index, start)))

    def state_dict(self, is_mid_epoch: bool = False) -> StateDict:
        """Return the seed and, if the sequence has a `state_dict`, its state."""
        return {"seed": self.seed, "sequence": self._sequence.state_dict() if self._is_stateful else None}

    def load_state_dict(self, state: StateDict) -> None:
        """Restore the seed and the state of the sequence."""
        self.seed = state["seed"]
        if self._is_stateful and state["sequence"] is not None:
            self._sequence.load_state_dict(state["sequence"])

    def on_epoch_end(self) -> None:
        """Call the sequence's `on_epoch_end`."""
        _call_hook(self._sequence, "on_epoch_end")

    def _workers(self, pin_memory: bool) -> WorkerPool:
        """Return the worker processes; if the sequence changes between epochs, they are restarted every epoch."""
        read, persistent = partial(_read_tensors, self._sequence), not _has_epoch_hooks(self._sequence)
        return WorkerPool(
            read, self.loader_config.processes, self.loader_config.max_queue_size, pin_memory, persistent=persistent
        )

    def _iter_raw(self, requests: Iterator[Request]) -> Iterator[UserData]:
        if self._pool is not None:
            return self._pool.map(requests)
        read = partial(_read, self._sequence)
        indices = (request.index for request in requests)
        if self.loader_config.threads and self.steps is not None:
            return read_ahead(read, indices, self.loader_config.threads, self.loader_config.max_queue_size)
        return map(read, indices) if self.steps is not None else _until_index_error(self._sequence, indices)

    def _requests(self, index: int, start: int) -> Iterator[Request]:
        seed, steps = self.seed + index, self.steps
        if steps is None:
            order: Iterable[int] = count()
        else:
            order = shuffled_rows(steps, 1, seed).tolist() if self._shuffle else range(steps)
        for step, position in islice(enumerate(order), start, None):
            yield Request(position, hash((seed, step)) % 2**63)


def _has_epoch_hooks(sequence: UserData) -> bool:
    """Return whether a sequence overrides an epoch hook; those of Keras' base class and of ours do nothing."""
    hooks = [getattr(type(sequence), name, None) for name in ("on_epoch_begin", "on_epoch_end")]
    return any(hook is not None and _is_user_defined(hook) for hook in hooks)


def _is_user_defined(hook: object) -> bool:
    return not str(getattr(hook, "__module__", "")).startswith(("torchfit.", "keras."))


def _read(sequence: UserData, index: int) -> UserData:
    try:
        return sequence[index]
    except Exception as error:
        reraise_with_location(error, f"batch {index} of the Sequence")


def _read_tensors(sequence: UserData, index: int) -> UserData:
    """Read a batch in a worker process, which sends tensors back without a copy."""
    return default_convert(_read(sequence, index))  # type: ignore[no-untyped-call]


def _until_index_error(sequence: UserData, indices: Iterator[int]) -> Iterator[UserData]:
    for index in indices:
        try:
            batch = sequence[index]
        except IndexError:
            return
        yield batch


def _call_hook(sequence: UserData, name: str) -> None:
    hook = getattr(sequence, name, None)
    if hook is not None:
        hook()
