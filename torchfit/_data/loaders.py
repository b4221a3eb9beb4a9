"""torch's DataLoader, used as it is: its own collate function, sampler and workers."""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from torchfit._data.arguments import Form, Loading
from torchfit._data.batches import Batches
from torchfit._data.convert import Conversion
from torchfit._data.forms import Source
from torchfit._data.stream import BatchReader
from torchfit._data.workers import read_from
from torchfit._utils.batch import Batch
from torchfit._utils.rng import random_state, restore_random_state

_FROM_BATCHES = "its batches carry them, as tuples (x, y) or (x, y, sample_weight)"


class LoaderSource(Source):
    """A `DataLoader`."""

    form = Form(
        "a DataLoader",
        {
            "y": _FROM_BATCHES,
            "sample_weight": _FROM_BATCHES,
            "batch_size": "it makes the batches, so set its own `batch_size`",
            "validation_split": "split its Dataset (torch.utils.data.random_split) and pass `validation_data`",
            "workers": "it reads its own data, so set its `num_workers`",
        },
    )

    def __init__(self, loader: DataLoader[Any], conversion: Conversion) -> None:
        """Take a loader."""
        super().__init__(conversion)
        self._loader = loader

    def batches(
        self, batch_size: int | None = None, *, shuffle: bool | str = False, loading: Loading | None = None
    ) -> "LoaderBatches":
        """Give the loader's batches, in its own order."""
        self.form.check(batch_size=batch_size, workers=(loading or Loading()).workers)
        return LoaderBatches(self._loader, BatchReader(self.conversion, self.class_weights))


class LoaderBatches(Batches):
    """The batches of a `DataLoader`.

    An epoch is entered in the middle by going through its beginning again, with all generators as they were then; a
    loader with a `state_dict`, such as torchdata's `StatefulDataLoader`, does so itself.
    """

    def __init__(self, loader: DataLoader[Any], reader: BatchReader) -> None:
        """Take a loader, whose length is known unless its Dataset is a stream."""
        self._loader = loader
        self._reader = reader
        self.steps = length_of(loader)
        self._keeps_state = hasattr(loader, "load_state_dict")
        self.replayable = self._keeps_state or _is_torchs_own(loader)
        self._at_start: dict[str, Any] | None = None  # all generators as the present pass began
        self._goes_on = False

    def epoch(self, index: int, start: int = 0) -> Iterator[Batch]:
        """Give the batches of one epoch; those before `start` are read and dropped.

        Samplers that shuffle by the number of the epoch (`DistributedSampler`) are told it.
        """
        for sampler in (self._loader.sampler, self._loader.batch_sampler):
            getattr(sampler, "set_epoch", _nothing)(index)
        return map(self._reader, self._raw(start))

    def state_dict(self, is_inside: bool = False) -> dict[str, Any]:
        """Return the state of the loader, or of its generators: inside of an epoch, as they were at its start."""
        if self._keeps_state:
            return {"loader": self._loader.state_dict()}  # type: ignore[attr-defined]
        return {"generators": self._at_start if is_inside else self._generators()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was called."""
        if self._keeps_state:
            self._loader.load_state_dict(state["loader"])  # type: ignore[attr-defined]
        elif state["generators"] is not None:
            self._at_start = state["generators"]
            self._restore(self._at_start, everywhere=False)
        self._goes_on = True

    def _raw(self, start: int) -> Iterator[Any]:
        goes_on, self._goes_on = self._goes_on and start > 0, False
        now = self._generators()
        if goes_on and self._at_start is not None:
            self._restore(self._at_start, everywhere=True)
        else:
            self._at_start = now

        def enter(iterator: Iterator[Any]) -> None:
            for _ in islice(iterator, 0 if goes_on and self._keeps_state else start):
                pass
            if goes_on:
                restore_random_state(now["random"])

        yield from read_from(self._loader, enter)

    def _generators(self) -> dict[str, Any]:
        own = [generator.get_state() for generator in _generators_of(self._loader)]
        return {"random": random_state(devices=False), "own": own}

    def _restore(self, state: Mapping[str, Any], everywhere: bool) -> None:
        for generator, words in zip(_generators_of(self._loader), state["own"]):
            generator.set_state(words)
        if everywhere:
            restore_random_state(state["random"])


def _is_torchs_own(loader: DataLoader[Any]) -> bool:
    """Tell whether a loader gives samples by index in an order that torch's own samplers and generators decide."""
    samplers = [sampler for sampler in (loader.sampler, loader.batch_sampler) if sampler is not None]
    is_known = all(type(sampler).__module__.startswith("torch.") or _is_plain(sampler) for sampler in samplers)
    return is_known and not isinstance(loader.dataset, IterableDataset)


def _is_plain(sampler: Any) -> bool:
    """Tell whether a sampler is a list or range of indices."""
    return isinstance(sampler, (list, tuple, range))


def _generators_of(loader: DataLoader[Any]) -> list[torch.Generator]:
    """Return the generators of a loader and its samplers, each once."""
    inner = getattr(loader.batch_sampler, "sampler", None)
    holders = (loader, loader.sampler, loader.batch_sampler, inner)
    found = [getattr(holder, "generator", None) for holder in holders]
    unique = {id(generator): generator for generator in found if isinstance(generator, torch.Generator)}
    return list(unique.values())


def _nothing(index: int) -> None:
    """Stand for the `set_epoch` of samplers without one."""


def length_of(value: Any) -> int | None:
    """Return the length that something has, `None` where it does not know it."""
    try:
        return len(value)
    except (TypeError, NotImplementedError, AttributeError):
        return None
