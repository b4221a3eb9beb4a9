"""Steps and epochs: how many batches make an epoch, and what happens when the data end before it."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any

import torch

from torchfit._data.arguments import check_steps
from torchfit._data.batches import Batches, Gather
from torchfit._data.placement import one_ahead
from torchfit._utils.batch import Batch


def _nothing() -> None:
    """Let nobody know."""


class Paced(Batches):
    """Batches in epochs of a given number of steps, or for as long as the data last.

    With a number of steps, the epochs draw from one iterator that goes on from epoch to epoch, as the specification
    wants it, unless the steps are just the length of the data. Arrays and Sequences are then gone through up to
    `epochs` times, everything else once. What runs out gives a warning, and `ran_out`, which may be set, is called.
    """

    def __init__(
        self,
        batches: Batches,
        steps: Any = None,
        *,
        argument: str = "steps_per_epoch",
        data: str = "x",
        epochs: int = 1,
        device: torch.device | None = None,
        restarts: bool = False,
    ) -> None:
        """Cut batches into epochs.

        Args:
            batches: What to draw from.
            steps: Batches in an epoch; `None` and -1 mean until the data end.
            argument: The name of the argument `steps`, for messages.
            data: The name of the argument that the data came as, for messages.
            epochs: The number of epochs, which is how often data that repeat are gone through.
            device: Where the batches go; on a CUDA device they are copied one ahead.
            restarts: Whether every epoch begins at the start of the data, as validations do.

        Raises:
            ValueError: If `steps` is not a number of steps.
        """
        self._batches = batches
        self._wanted = check_steps(argument, steps)
        self._continues = self._wanted is not None and self._wanted != batches.steps and not restarts
        self._argument, self._data, self._epochs = argument, data, epochs
        self._device = device
        self.ran_out: Callable[[], None] = _nothing
        self._stream: Iterator[Batch] | None = None
        self._ahead_of: tuple[int, Iterator[Batch]] | None = None
        self._seen = False
        self._origin: int | None = None  # the epoch with which the shared stream began
        self.replayable = batches.replayable
        self.lasting = batches.lasting

    @property
    def steps(self) -> int | None:  # type: ignore[override]
        """The number of batches in an epoch, `None` while unknown."""
        return self._wanted or self._batches.steps

    @property
    def samples(self) -> int | None:  # type: ignore[override]
        """The number of samples in an epoch, `None` while unknown or where it changes from epoch to epoch."""
        return None if self._continues else self._batches.samples

    @property
    def seed(self) -> int:
        """What decides the order of the epochs, together with their index."""
        return self._batches.seed

    @seed.setter
    def seed(self, value: int) -> None:
        self._batches.seed = value

    def defer(self) -> Gather | None:
        """Give the numbers of rows from now on, where the batches are rows of tensors on the device."""
        return self._batches.defer()

    def example(self) -> Batch | None:
        """Give a batch like the first one, where taking it changes nothing; else `None`."""
        return self._batches.example()

    def state_dict(self, is_inside: bool = False) -> dict[str, Any]:
        """Return what the batches to come depend on, inside of an epoch or between two."""
        is_inside = is_inside or self._stream is not None
        return {"origin": self._origin, "seen": self._seen, "batches": self._batches.state_dict(is_inside)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Give, from now on, the batches that were to come when `state_dict` returned this."""
        self._origin, self._seen = state["origin"], state["seen"]
        self._stream, self._ahead_of = None, None
        self._batches.load_state_dict(state["batches"])

    def epochs(self, indices: Iterable[int], start: int = 0) -> Iterator[int]:
        """Give the epochs for which there are data; the first of them begins at batch `start`.

        Only where the data may have ended is the first batch drawn ahead to find out.
        """
        for index in indices:
            must_look = not start and self._seen and (self._continues or self._batches.may_run_out)
            if must_look and not self._draw_ahead(index):
                self._warn(index, 0)
                return
            start = 0
            yield index

    def epoch(self, index: int, start: int = 0) -> Iterator[Batch]:
        """Give the batches of one epoch from batch `start` on.

        Raises:
            ValueError: If the data have no batch at all.
        """
        done = 0
        for batch in self._drawn(index, start):
            self._seen = True
            yield batch
            done += 1
        if not done and not start:
            self._refuse_empty()
        self._batches.end_epoch()
        if self._wanted is not None and start + done < self._wanted:
            self._warn(index, start + done)

    def _drawn(self, index: int, start: int) -> Iterator[Batch]:
        ahead, self._ahead_of = self._ahead_of, None
        source = ahead[1] if ahead is not None and ahead[0] == index else self._open(index, start)
        return one_ahead(source if self._wanted is None else islice(source, self._wanted - start), self._device)

    def _open(self, index: int, start: int) -> Iterator[Batch]:
        if not self._continues:
            return self._batches.epoch(index, start)
        if self._stream is None:
            self._stream = self._from(index, start)
        return self._stream

    def _from(self, index: int, start: int) -> Iterator[Batch]:
        """Return the stream that the epochs share: where epoch `index` begins in data that repeat, else the start.

        A training that is taken up goes on behind what it has drawn already.
        """
        length = self._batches.steps
        if self._origin is None:
            self._origin = index
        if not self._batches.repeats or not length:
            return self._batches.epoch(0, (index - self._origin) * (self._wanted or 0) + start)
        first, inside = divmod(index * (self._wanted or 0) + start, length)
        return chain.from_iterable(
            self._batches.epoch(number, inside if number == first else 0) for number in range(first, self._epochs)
        )

    def _draw_ahead(self, index: int) -> bool:
        source = self._open(index, 0)
        first = next(source, None)
        self._ahead_of = None if first is None else (index, chain([first], source))
        return first is not None

    def _warn(self, epoch: int, done: int) -> None:
        wanted = "" if self._wanted is None else f" of {self._wanted}"
        warnings.warn(
            f"Your input ran out of data: `{self._data}` ended after {done}{wanted} steps of epoch {epoch + 1}. "
            f"It must give `{self._argument}` batches for every epoch; a generator can be gone through only once. Pass "
            "fewer steps or epochs, data that repeat, or a function that makes the generator.",
            stacklevel=2,
        )
        self.ran_out()

    def _refuse_empty(self) -> None:
        again = " any more: a generator can be gone through only once" if self._seen else ""
        raise ValueError(
            f"`{self._data}` gave no batch{again}. Pass data with at least one batch, or a function that makes a new "
            "generator each time."
        )
