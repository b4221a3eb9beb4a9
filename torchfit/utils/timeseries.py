"""Windows that slide over a series."""

from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from torchfit._data.adapters.sequence import PyDataset
from torchfit._types import Array, Nested, UserData
from torchfit._utils.errors import describe


def timeseries_dataset_from_array(
    data: UserData,
    targets: UserData,
    sequence_length: int,
    sequence_stride: int = 1,
    sampling_rate: int = 1,
    batch_size: int | None = 128,
    shuffle: bool = False,
    seed: int | None = None,
    start_index: int | None = None,
    end_index: int | None = None,
) -> "WindowBatches | Windows":
    """Return the windows that slide over a series, with a target for each.

    Window `i` holds `sequence_length` values of `data`, from `start_index + i * sequence_stride` on, with
    `sampling_rate` steps from one to the next; its target is the entry of `targets` where it starts. To predict the
    value that follows: `timeseries_dataset_from_array(series[:-n], series[n:], sequence_length=n)`.

    Args:
        data: The series, `(time, …)`.
        targets: Targets `(time, …)`, or `None`.
        sequence_length: Values in a window.
        sequence_stride: Steps from one window to the next.
        sampling_rate: Steps from one value in a window to the next.
        batch_size: Windows in a batch; with `None`, single windows are given.
        shuffle: Whether the windows come in random order, drawn once, instead of that of time.
        seed: Decides the random order.
        start_index: Data before it are left out.
        end_index: Data from it on are left out.

    Returns:
        For `fit` and its likes: batches `(batch, sequence_length, …)`, or pairs of these and targets `(batch, …)`, as
        a `PyDataset`; for `batch_size=None` a torch Dataset of single windows. Windows are cut out when asked for, so
        that the series is in memory once. `fit` draws the batches in random order unless `shuffle=False`.

    Raises:
        ValueError: If an argument is out of its range, or no window fits.

    >>> series = np.arange(10)
    >>> windows, following = timeseries_dataset_from_array(series[:-3], series[3:], 3, batch_size=2)[0]
    >>> windows, following
    (array([[0, 1, 2],
           [1, 2, 3]]), array([3, 4]))
    """
    for name, count in (
        ("sequence_length", sequence_length),
        ("sequence_stride", sequence_stride),
        ("sampling_rate", sampling_rate),
        ("batch_size", 1 if batch_size is None else batch_size),
    ):
        if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < 1:
            raise ValueError(f"`{name}` must be a positive integer, but it is {describe(count)}.")
    data = _array(data)
    first, end = _bounds(len(data), start_index, end_index)
    series, aims = data[first:end], None if targets is None else _array(targets)[first:end]
    most = len(series) - (sequence_length - 1) * sampling_rate
    starts = np.arange(0, most if aims is None else min(most, len(aims)), sequence_stride)
    if not len(starts):
        raise ValueError(
            f"A window of {sequence_length} values, {sampling_rate} steps apart, does not fit into {len(series)} steps "
            "of `data`. Make it shorter, or pass more data."
        )
    if shuffle:
        np.random.RandomState(seed).shuffle(starts)
    windows = Windows(series, aims, starts, np.arange(sequence_length) * sampling_rate)
    return windows if batch_size is None else WindowBatches(windows, batch_size)


class Windows(Dataset[UserData]):
    """Single windows of a series, `window` or `(window, target)`, by index."""

    def __init__(self, series: Array, targets: Array | None, starts: Array, offsets: Array) -> None:
        """Cut out, for each start, the values at the offsets from it."""
        self._series, self._targets, self._starts, self._offsets = series, targets, starts, offsets

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: Any) -> Nested:
        """Return one window, or, for a slice, several as one array."""
        starts = self._starts[index]
        found = self._series[starts[..., None] + self._offsets]
        return found if self._targets is None else (found, self._targets[starts])


class WindowBatches(PyDataset):
    """Windows of a series in batches."""

    def __init__(self, windows: Windows, batch_size: int) -> None:
        """Return `batch_size` windows at a time; the last batch may have fewer."""
        super().__init__()
        self._windows, self._batch_size = windows, batch_size

    def __len__(self) -> int:
        return -(-len(self._windows) // self._batch_size)

    def __getitem__(self, index: int) -> Nested:
        """Return one batch.

        Raises:
            IndexError: If there is no such batch.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"There are {len(self)} batches, numbered from 0, but {index} was asked for.")
        return self._windows[index * self._batch_size : (index + 1) * self._batch_size]


def _array(values: UserData) -> Array:
    return np.asarray(values.cpu() if isinstance(values, Tensor) else values)


def _bounds(length: int, start: int | None, end: int | None) -> tuple[int, int]:
    first, last = 0 if start is None else start, length if end is None else end
    if not 0 <= first < length:
        raise ValueError(f"`start_index` must lie from 0 to {length - 1}, within `data`, but it is {start}.")
    if not first < last <= length:
        raise ValueError(f"`end_index` must lie after `start_index`, and up to {length}, but it is {end}.")
    return first, last
