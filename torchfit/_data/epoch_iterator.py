"""Cuts a stream of batches into epochs, and warns when the data end too early.

The order of an epoch depends only on a seed and the index of the epoch.
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import chain, islice

import torch
from torch import Tensor

from torchfit._data.batch_source import BatchIndexer, BatchSource
from torchfit._types import StateDict
from torchfit._utils import validation
from torchfit._utils.errors import describe, warn
from torchfit._utils.tree import Batch
from torchfit._utils.validation import is_bool, is_integer

OrderFn = Callable[[int, int, int], Tensor]


def make_order(shuffle: object) -> OrderFn | None:
    """Return the function (samples, batch size, seed) → permutation for `shuffle`, or `None` to keep the order.

    Raises:
        ValueError: If `shuffle` is not a bool or "batch".
    """
    if isinstance(shuffle, str) and shuffle == "batch":
        return shuffled_batches
    if shuffle is None or is_bool(shuffle) or (is_integer(shuffle) and shuffle in (0, 1)):
        return shuffled_rows if shuffle else None
    raise ValueError(f"`shuffle` must be True, False or 'batch'. Received: {describe(shuffle)}.")


def shuffled_rows(samples: int, batch_size: int, seed: int) -> Tensor:
    """Return the row indices in random order."""
    return torch.randperm(samples, generator=torch.Generator().manual_seed(seed))


def shuffled_batches(samples: int, batch_size: int, seed: int) -> Tensor:
    """Return the row indices in batches of consecutive rows, with the batches in random order.

    A smaller last batch stays last.

    >>> sorted(shuffled_batches(5, 2, seed=0).tolist()[:4]), shuffled_batches(5, 2, seed=0)[4].item()
    ([0, 1, 2, 3], 4)
    """
    num_full = samples - samples % batch_size
    chunks = torch.arange(num_full).view(-1, batch_size)
    shuffled = chunks[shuffled_rows(len(chunks), 1, seed)].reshape(-1)
    return torch.cat([shuffled, torch.arange(num_full, samples)])


def _ignore() -> None:
    """Do nothing when the data are exhausted."""


class EpochIterator(BatchSource):
    """Batches in epochs of a given number of steps, or for as long as the data last.

    With a number of steps, all epochs draw from one iterator, as in Keras, unless the number is exactly the length of
    the data. The data are then iterated over up to `epochs` times, or until a pass over them is empty, as that over a
    generator is after the first. When they end too early, a warning is issued and `on_exhausted`, which callers may
    set, is called.
    """

    def __init__(
        self,
        batches: BatchSource,
        steps: object = None,
        *,
        argument: str = "steps_per_epoch",
        data: str = "x",
        epochs: int = 1,
        restart_each_epoch: bool = False,
    ) -> None:
        """Cut batches into epochs.

        Args:
            batches: What to draw from.
            steps: The number of batches in an epoch; `None` and -1 mean until the data end.
            argument: The name of the argument `steps`, for messages.
            data: The name of the argument that the data were passed as, for messages.
            epochs: The number of epochs: the data are iterated over at most this often.
            restart_each_epoch: Whether every epoch begins at the start of the data, as in validation.

        Raises:
            ValueError: If `steps` is not a number of steps.
        """
        self._batches = batches
        self._steps_per_epoch = validation.steps(argument, steps)
        is_cut = self._steps_per_epoch is not None and self._steps_per_epoch != batches.steps
        self._spans_epochs = is_cut and not restart_each_epoch
        self._argument, self._data, self._epochs = argument, data, epochs
        self.on_exhausted: Callable[[], None] = _ignore
        self._stream: Iterator[Batch] | None = None
        self._peeked: tuple[int, Iterator[Batch]] | None = None
        self._has_yielded = False
        self._first_epoch: int | None = None  # the epoch in which the shared stream began
        self.is_resumable = batches.is_resumable

    @property
    def steps(self) -> int | None:  # type: ignore[override]
        """The number of batches in an epoch, or `None` while unknown."""
        return self._steps_per_epoch or self._batches.steps

    @property
    def samples(self) -> int | None:  # type: ignore[override]
        """The number of samples in an epoch, or `None` while unknown or if it changes from epoch to epoch."""
        return None if self._spans_epochs else self._batches.samples

    @property
    def yields_views(self) -> bool:  # type: ignore[override]
        """Whether batches take no memory of their own and stay valid after the next one is drawn."""
        return self._batches.yields_views

    @property
    def seed(self) -> int:
        """Determines the order of the epochs, together with their index."""
        return self._batches.seed

    @seed.setter
    def seed(self, value: int) -> None:
        self._batches.seed = value

    def defer_indexing(self) -> BatchIndexer | None:
        """From now on yield row indices, if the batches are rows of tensors on the device."""
        return self._batches.defer_indexing()

    def peek(self) -> Batch | None:
        """Return a batch like the first one, or `None` if that would have side effects."""
        return self._batches.peek()

    def reread(self, index: int) -> Iterator[Batch] | None:
        """Return the batches of an epoch once more, or `None` if drawing them would have side effects."""
        per_epoch, length = self._steps_per_epoch, self._batches.steps
        if not self._spans_epochs or not per_epoch or not length:
            batches_again = self._batches.reread(index)
            return batches_again and islice(batches_again, per_epoch)
        number, start = divmod(index * per_epoch, length)
        passes = [self._batches.reread(each) for each in range(number, number + per_epoch // length + 2)]
        found = [each for each in passes if each is not None]
        return islice(chain.from_iterable(found), start, start + per_epoch) if found else None

    def state_dict(self, is_mid_epoch: bool = False) -> StateDict:
        """Return the state that the remaining batches depend on, within an epoch or between two."""
        batches = self._batches.state_dict(is_mid_epoch or self._stream is not None)
        return {"origin": self._first_epoch, "seen": self._has_yielded, "batches": batches}

    def load_state_dict(self, state: StateDict) -> None:
        """Continue with the batches that remained when `state_dict` returned this state."""
        self._first_epoch, self._has_yielded = state["origin"], state["seen"]
        self._stream, self._peeked = None, None
        self._batches.load_state_dict(state["batches"])

    def epochs(self, indices: Iterable[int], start: int = 0) -> Iterator[int]:
        """Yield the epochs for which there are data; the first of them begins at batch `start`.

        If the data may be exhausted, the first batch of each epoch is drawn ahead to find out.
        """
        for index in indices:
            must_peek = not start and self._has_yielded and (self._spans_epochs or self._batches.may_be_exhausted)
            if must_peek and not self._peek(index):
                self._warn_exhausted(index, 0)
                return
            start = 0
            yield index

    def epoch(self, index: int, start: int = 0) -> Generator[Batch, None, None]:
        """Yield the batches of one epoch, from batch `start` on.

        Raises:
            ValueError: If the data have no batch at all.
        """
        done, expected = 0, self._batches.steps if self._batches.has_exact_length else None
        for batch in self._epoch_batches(index, start):
            self._has_yielded = True
            yield batch
            done += 1
        if not done and not start:
            self._raise_empty()
        self._batches.on_epoch_end()
        if self._steps_per_epoch is None:
            self._warn_if_short(start + done, expected)
        elif start + done < self._steps_per_epoch:
            self._warn_exhausted(index, start + done)

    def _epoch_batches(self, index: int, start: int) -> Iterator[Batch]:
        peeked, self._peeked = self._peeked, None
        batches = peeked[1] if peeked is not None and peeked[0] == index else self._open_stream(index, start)
        return batches if self._steps_per_epoch is None else islice(batches, self._steps_per_epoch - start)

    def _open_stream(self, index: int, start: int) -> Iterator[Batch]:
        if not self._spans_epochs:
            return self._batches.epoch(index, start)
        if self._stream is None:
            self._stream = self._shared_stream(index, start)
        return self._stream

    def _shared_stream(self, index: int, start: int) -> Iterator[Batch]:
        """Return the iterator that all epochs draw from.

        It starts at the position of epoch `index` where that takes no reading. Other data are read from their start,
        and a resumed run continues after the batches already drawn. If these were whole passes, the last one is read
        again, because a sampler may draw from its generator at the end of a pass.
        """
        batches, length = self._batches, self._batches.steps
        if self._first_epoch is None:
            self._first_epoch = index
        origin = 0 if length and batches.is_indexed else self._first_epoch
        drawn, stop = (index - origin) * (self._steps_per_epoch or 0) + start, self._epochs - origin
        if length and batches.is_indexed:
            return chain.from_iterable(self._passes(*divmod(drawn, length), stop))
        if not batches.is_resumable:
            return islice(chain.from_iterable(self._passes(0, 0, stop)), drawn, None)
        first = max(drawn - 1, 0) // length if length else 0
        return chain.from_iterable(self._passes(first, drawn - first * (length or 0), stop))

    def _passes(self, first: int, start: int, stop: int) -> Iterator[Iterable[Batch]]:
        """Yield passes over the data, the first of them from batch `start` on, until one is empty.

        The first one may be: the iterator of a resumed run may be at its end.
        """
        for number in range(first, stop):
            batches = self._batches.epoch(number, start if number == first else 0)
            batch = next(batches, None)
            if batch is not None:
                yield chain([batch], batches)
            elif number != first:
                return

    def _peek(self, index: int) -> bool:
        batches = self._open_stream(index, 0)
        first = next(batches, None)
        self._peeked = None if first is None else (index, chain([first], batches))
        return first is not None

    def _warn_exhausted(self, epoch: int, done: int) -> None:
        of_total = "" if self._steps_per_epoch is None else f" of {self._steps_per_epoch}"
        warn(
            f"Your input ran out of data: `{self._data}` ended after {done}{of_total} steps of epoch {epoch + 1}. "
            f"It must give `{self._argument}` batches for every epoch; a generator can be iterated over only once. "
            "Pass fewer steps or epochs, data that repeat, or a function that returns a new generator."
        )
        self.on_exhausted()

    def _warn_if_short(self, done: int, expected: int | None) -> None:
        if expected is not None and done < expected:
            warn(
                f"`{self._data}` ended after {done} of {expected} batches, which is what its length says. Correct its "
                "length, or look for what ends it, such as a StopIteration in `__getitem__`."
            )

    def _raise_empty(self) -> None:
        hint = " any more: a generator can be iterated over only once" if self._has_yielded else ""
        raise ValueError(
            f"`{self._data}` gave no batch{hint}. Pass data with at least one batch, or a function that returns a new "
            "generator each time."
        )
