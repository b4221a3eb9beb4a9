"""Adapter for torch's DataLoader, which is used as is, with its collate function, sampler and workers."""

from collections.abc import Iterator
from itertools import islice

import torch
from torch.utils.data import DataLoader, IterableDataset, default_collate

from torchfit._data.adapters.base import AdapterSpec, DataAdapter, length_of
from torchfit._data.adapters.datasets import check_format
from torchfit._data.batch_converter import BatchConverter
from torchfit._data.batch_source import BatchSource
from torchfit._data.convert import BatchSpec
from torchfit._data.workers import LoaderConfig, iterate_loader
from torchfit._types import StateDict, UserData
from torchfit._utils.rng import random_state, restore_random_state
from torchfit._utils.tree import Batch

_RAGGED = "stack expects each tensor to be equal size"
_FROM_BATCHES = "its batches carry them, as tuples (x, y) or (x, y, sample_weight)"


class DataLoaderAdapter(DataAdapter):
    """A `DataLoader`."""

    spec = AdapterSpec(
        "a DataLoader",
        {
            "y": _FROM_BATCHES,
            "sample_weight": _FROM_BATCHES,
            "batch_size": "it makes the batches, so set its own `batch_size`",
            "validation_split": "split its Dataset (torch.utils.data.random_split) and pass `validation_data`",
            "workers": "it reads its own data, so set its `num_workers`",
        },
    )

    def __init__(self, loader: DataLoader[UserData], batch_spec: BatchSpec) -> None:
        """Adapt a loader."""
        super().__init__(batch_spec)
        if loader.collate_fn is default_collate:
            check_format(loader.dataset)
        self._loader = loader

    def batches(
        self, batch_size: int | None = None, *, shuffle: bool | str = False, loader_config: LoaderConfig | None = None
    ) -> "DataLoaderBatches":
        """Return the batches of the loader, in its own order."""
        self.spec.check(batch_size=batch_size, workers=(loader_config or LoaderConfig()).workers)
        convert = BatchConverter(self.batch_spec, self.class_weights, is_fresh=_copies_samples(self._loader))
        return DataLoaderBatches(self._loader, convert)


class DataLoaderBatches(BatchSource):
    """The batches of a `DataLoader`.

    To resume in the middle of an epoch, the earlier batches are read again, with the random generators as they were at
    its start. A loader with a `state_dict`, such as torchdata's `StatefulDataLoader`, resumes by itself.
    """

    def __init__(self, loader: DataLoader[UserData], convert: BatchConverter) -> None:
        """Read from a loader, whose length is exact unless its Dataset is iterable."""
        self._loader = loader
        self._convert = convert
        self.has_exact_length = not isinstance(loader.dataset, IterableDataset)
        self._is_stateful = hasattr(loader, "load_state_dict")
        self.is_resumable = self._is_stateful or _has_builtin_samplers(loader)
        self._epoch_start_rng: StateDict | None = None  # the state of all generators at the start of this pass
        self._resumed = False

    @property
    def steps(self) -> int | None:  # type: ignore[override]
        """The number of batches, which may change from epoch to epoch."""
        return length_of(self._loader)

    def epoch(self, index: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch; those before `start` are read and dropped.

        Samplers that shuffle by epoch (`DistributedSampler`) get its index.
        """
        for sampler in (self._loader.sampler, self._loader.batch_sampler):
            getattr(sampler, "set_epoch", _ignore)(index)
        return map(self._convert, self._iter_raw(start))

    def state_dict(self, is_mid_epoch: bool = False) -> StateDict:
        """Return the state of the loader, or of the random generators: within an epoch, as they were at its start."""
        if self._is_stateful:
            return {"loader": self._loader.state_dict()}  # type: ignore[attr-defined]
        return {"generators": self._epoch_start_rng if is_mid_epoch else self._generators()}

    def load_state_dict(self, state: StateDict) -> None:
        """Continue where `state_dict` was called."""
        if self._is_stateful:
            self._loader.load_state_dict(state["loader"])  # type: ignore[attr-defined]
        elif state["generators"] is not None:
            self._epoch_start_rng = state["generators"]
            self._restore(self._epoch_start_rng, include_global=False)
        self._resumed = True

    def _iter_raw(self, start: int) -> Iterator[UserData]:
        resumed, self._resumed = self._resumed and start > 0, False
        current = self._generators()
        if resumed and self._epoch_start_rng is not None:
            self._restore(self._epoch_start_rng, include_global=True)
        else:
            self._epoch_start_rng = current

        def fast_forward(iterator: Iterator[object]) -> None:
            for _ in islice(iterator, 0 if resumed and self._is_stateful else start):
                pass
            if resumed:
                restore_random_state(current["random"])

        try:
            yield from iterate_loader(self._loader, fast_forward)
        except RuntimeError as error:
            if _RAGGED not in str(error):
                raise
            raise ValueError(
                "The samples of the DataLoader cannot be joined into a batch, because they differ in shape. Give them "
                "one shape, or pass the DataLoader a `collate_fn` that pads them, such as with "
                f"torch.nn.utils.rnn.pad_sequence. torch says: {_last_line(error)}"
            ) from error

    def _generators(self) -> StateDict:
        states = [generator.get_state() for generator in _generators_of(self._loader)]
        return {"random": random_state(devices=False), "own": states}

    def _restore(self, state: StateDict, include_global: bool) -> None:
        for generator, generator_state in zip(_generators_of(self._loader), state["own"]):
            generator.set_state(generator_state)
        if include_global:
            restore_random_state(state["random"])


def _last_line(error: Exception) -> str:
    """Return the last line of a message: errors from worker processes include their traceback."""
    return str(error).strip().splitlines()[-1].removeprefix("RuntimeError: ")


def _copies_samples(loader: DataLoader[UserData]) -> bool:
    """Return whether batches own their memory, because the loader collates them or workers send them."""
    is_collated = loader.batch_sampler is not None and loader.collate_fn is default_collate
    return is_collated or loader.num_workers > 0


def _has_builtin_samplers(loader: DataLoader[UserData]) -> bool:
    """Return whether a loader reads samples by index in an order determined by torch's own samplers and generators."""
    samplers = [sampler for sampler in (loader.sampler, loader.batch_sampler) if sampler is not None]
    is_known = all(type(sampler).__module__.startswith("torch.") or _is_index_list(sampler) for sampler in samplers)
    return is_known and not isinstance(loader.dataset, IterableDataset)


def _is_index_list(sampler: object) -> bool:
    """Return whether a sampler is a list or range of indices."""
    return isinstance(sampler, (list, tuple, range))


def _generators_of(loader: DataLoader[UserData]) -> list[torch.Generator]:
    """Return the generators of a loader and its samplers, each once."""
    inner = getattr(loader.batch_sampler, "sampler", None)
    holders = (loader, loader.sampler, loader.batch_sampler, inner)
    found = [getattr(holder, "generator", None) for holder in holders]
    unique = {id(generator): generator for generator in found if isinstance(generator, torch.Generator)}
    return list(unique.values())


def _ignore(index: int) -> None:
    """Do nothing, in place of the `set_epoch` of samplers without one."""
