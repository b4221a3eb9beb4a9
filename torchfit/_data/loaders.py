"""torch's DataLoader, used as it is: its own collate function, sampler and workers."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader

from torchfit._data.arguments import Form, Loading
from torchfit._data.batches import Batches
from torchfit._data.convert import Conversion
from torchfit._data.forms import Source
from torchfit._data.stream import BatchReader
from torchfit._data.workers import read_from
from torchfit._support.batch import Batch

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
    """The batches of a `DataLoader`."""

    def __init__(self, loader: DataLoader[Any], reader: BatchReader) -> None:
        """Take a loader, whose length is known unless its Dataset is a stream."""
        self._loader = loader
        self._reader = reader
        self.steps = length_of(loader)

    def epoch(self, index: int, start: int = 0) -> Iterator[Batch]:
        """Give the batches of one epoch; those before `start` are read and dropped.

        Samplers that shuffle by the number of the epoch (`DistributedSampler`) are told it.
        """
        for sampler in (self._loader.sampler, self._loader.batch_sampler):
            getattr(sampler, "set_epoch", _nothing)(index)
        return map(self._reader, islice(read_from(self._loader), start, None))


def _nothing(index: int) -> None:
    """Stand for the `set_epoch` of samplers without one."""


def length_of(value: Any) -> int | None:
    """Return the length that something has, `None` where it does not know it."""
    try:
        return len(value)
    except (TypeError, NotImplementedError, AttributeError):
        return None
