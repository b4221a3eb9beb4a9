"""Datasets of images in folders and of windows of time series."""

import os
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Literal, overload

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from torchfit._data.adapters.sequence import PyDataset
from torchfit._types import Array, Nested, UserData
from torchfit._utils.errors import describe
from torchfit._utils.names import suggest_keywords

_ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")
_MODES = {"rgb": "RGB", "rgba": "RGBA", "grayscale": "L"}
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
_LABEL_MODES = ("int", "categorical", "binary", None)
_SUBSETS = ("training", "validation", "both", None)


class ImageFolder(Dataset[Nested]):
    """A Dataset of image files, which are read and resized on access.

    Attributes:
        file_paths: The files.
        labels: The class of each, `(samples,)`, or `None`.
        class_names: The names of the classes: class 0 is the first one.
    """

    def __init__(
        self,
        file_paths: Sequence[str],
        labels: Tensor | None,
        class_names: Sequence[str],
        read: Callable[[str], Tensor],
        transform: Callable[[Tensor], Nested] | None,
    ) -> None:
        self.file_paths = list(file_paths)
        self.labels = labels
        self.class_names = list(class_names)
        self._read, self._transform = read, transform

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.file_paths)

    def __getitem__(self, index: int) -> Nested:
        """Return an image `(channels, height, width)` with values from 0 to 1, and its label if there are labels."""
        image: Nested = self._read(self.file_paths[index])
        if self._transform is not None:
            image = self._transform(image)
        return image if self.labels is None else (image, self.labels[index])


class ImageReader:
    """Reads a file as a tensor `(channels, height, width)` with values from 0 to 1."""

    def __init__(self, color_mode: str, image_size: tuple[int, int] | None, interpolation: str) -> None:
        self._mode, self._size, self._interpolation = _MODES[color_mode], image_size, interpolation

    def __call__(self, path: str) -> Tensor:
        """Read a file."""
        pillow = import_module("PIL.Image")
        with pillow.open(path) as file:
            image = file.convert(self._mode)
        if self._size is not None:
            height, width = self._size
            image = image.resize((width, height), getattr(pillow.Resampling, self._interpolation.upper()))
        pixels = np.asarray(image, "float32") / 255
        return torch.from_numpy(pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1)))


@overload
def image_dataset_from_directory(
    directory: str | os.PathLike[str],
    labels: str | Sequence[int] | None = ...,
    label_mode: str | None = ...,
    class_names: Sequence[str] | None = ...,
    color_mode: str = ...,
    *,
    image_size: tuple[int, int] | None = ...,
    shuffle: bool = ...,
    seed: int = ...,
    validation_split: float | None = ...,
    subset: Literal["training", "validation"] | None = ...,
    interpolation: str = ...,
    transform: Callable[[Tensor], Nested] | None = ...,
) -> ImageFolder: ...
@overload
def image_dataset_from_directory(
    directory: str | os.PathLike[str],
    labels: str | Sequence[int] | None = ...,
    label_mode: str | None = ...,
    class_names: Sequence[str] | None = ...,
    color_mode: str = ...,
    *,
    image_size: tuple[int, int] | None = ...,
    shuffle: bool = ...,
    seed: int = ...,
    validation_split: float,
    subset: Literal["both"],
    interpolation: str = ...,
    transform: Callable[[Tensor], Nested] | None = ...,
) -> tuple[ImageFolder, ImageFolder]: ...
@suggest_keywords
def image_dataset_from_directory(
    directory: str | os.PathLike[str],
    labels: str | Sequence[int] | None = "inferred",
    label_mode: str | None = "int",
    class_names: Sequence[str] | None = None,
    color_mode: str = "rgb",
    *,
    image_size: tuple[int, int] | None = (256, 256),
    shuffle: bool = True,
    seed: int = 0,
    validation_split: float | None = None,
    subset: str | None = None,
    interpolation: str = "bilinear",
    transform: Callable[[Tensor], Nested] | None = None,
) -> ImageFolder | tuple[ImageFolder, ImageFolder]:
    """Return the images in the folders of a directory, one folder for each class, as a torch Dataset for `fit`.

    Images are `(channels, height, width)` with values from 0 to 1. `fit` makes the batches, so that there is no
    `batch_size` here. Needs Pillow (`pip install pillow`).

    Args:
        directory: A directory with a folder for each class, or, without labels, with images at any depth.
        labels: "inferred" from the folders, a list with a class for each file in alphabetical order, or `None`.
        label_mode: "int" gives classes, "categorical" one-hot vectors, "binary" 0.0 or 1.0, `None` no labels.
        class_names: The folders to use, in the order of their classes; by default all, in alphabetical order.
        color_mode: "rgb", "rgba" or "grayscale".
        image_size: `(height, width)` to resize to; `None` keeps the size of each file.
        shuffle: Whether to shuffle the files once; `fit` shuffles them again for every epoch.
        seed: The seed of the shuffling; use the same one for both subsets.
        validation_split: Fraction of the images, the last ones, that is held out for validation.
        subset: Which part to return with `validation_split`: "training", "validation", or "both" as a tuple.
        interpolation: How to resize: "bilinear", "nearest", "bicubic", "lanczos", "box" or "hamming".
        transform: Applied to each image whenever it is read, such as an augmentation of torchvision.

    Returns:
        A Dataset with `class_names` and `file_paths`; a tuple of two with `subset="both"`.

    Raises:
        ValueError: If there are no images, or an argument is invalid.
        ImportError: If Pillow is missing.
    """
    _check("label_mode", label_mode, _LABEL_MODES)
    _check("color_mode", color_mode, tuple(_MODES))
    _check("interpolation", interpolation, _INTERPOLATIONS)
    _check("subset", subset, _SUBSETS)
    if (subset is None) != (validation_split is None):
        raise ValueError("`validation_split` and `subset` go together: pass both of them, or none.")
    if validation_split is not None and not 0 < validation_split < 1:
        raise ValueError(f"`validation_split` must be between 0 and 1. Received: {describe(validation_split)}.")
    _require_pillow()
    paths, classes, names = _find(os.fspath(directory), labels, class_names)
    targets = None if classes is None or label_mode is None else _encode(classes, label_mode, len(names))
    order = torch.arange(len(paths))
    if shuffle:
        order = torch.randperm(len(paths), generator=torch.Generator().manual_seed(seed))
    cut = len(paths) - round(len(paths) * (validation_split or 0.0))
    read = ImageReader(color_mode, image_size, interpolation)

    def part(rows: Tensor) -> ImageFolder:
        chosen = [paths[row] for row in rows.tolist()]
        return ImageFolder(chosen, None if targets is None else targets[rows], names, read, transform)

    parts = {None: part(order), "training": part(order[:cut]), "validation": part(order[cut:])}
    return (parts["training"], parts["validation"]) if subset == "both" else parts[subset]


def _find(
    directory: str, labels: UserData, class_names: Sequence[str] | None
) -> tuple[list[str], Tensor | None, list[str]]:
    """Return the files, their classes, and the names of the classes."""
    classes: Tensor | None
    if isinstance(labels, str) and labels == "inferred":
        folders = sorted(entry.name for entry in os.scandir(directory) if entry.is_dir())
        names = list(class_names or folders)
        missing = sorted(set(names) - set(folders))
        if missing or not names:
            raise ValueError(f"{directory!r} must have a folder for each class. Missing: {missing or 'any folder'}.")
        found = [(path, index) for index, name in enumerate(names) for path in _images(os.path.join(directory, name))]
        paths, classes = [path for path, _ in found], torch.tensor([index for _, index in found])
    else:
        paths, names = _images(directory), list(class_names or ())
        classes = None if labels is None else torch.as_tensor(labels)
        if classes is not None and len(classes) != len(paths):
            raise ValueError(f"`labels` has {len(classes)} entries, but {directory!r} has {len(paths)} images.")
        names = names or ([] if classes is None else [str(index) for index in range(int(classes.max()) + 1)])
    if not paths:
        raise ValueError(f"{directory!r} has no images. Files end in one of {', '.join(_ENDINGS)}.")
    return paths, classes, names


def _images(directory: str) -> list[str]:
    walked = ((folder, name) for folder, _, files in os.walk(directory) for name in files)
    return sorted(os.path.join(folder, name) for folder, name in walked if name.lower().endswith(_ENDINGS))


def _encode(classes: Tensor, label_mode: str, number: int) -> Tensor:
    if label_mode == "binary" and number != 2:
        raise ValueError(f"`label_mode='binary'` is for two classes, but there are {number}. Use 'int'.")
    if label_mode == "categorical":
        return torch.nn.functional.one_hot(classes, number).float()
    return classes.float() if label_mode == "binary" else classes


def _check(argument: str, value: object, allowed: tuple[object, ...]) -> None:
    if not (value is None or isinstance(value, str)) or value not in allowed:
        raise ValueError(f"`{argument}` must be one of {', '.join(map(repr, allowed))}. Received: {describe(value)}.")


def _require_pillow() -> None:
    try:
        import_module("PIL.Image")
    except ImportError as error:
        raise ImportError("image_dataset_from_directory needs Pillow. Type: pip install pillow") from error


@overload
def timeseries_dataset_from_array(
    data: UserData,
    targets: UserData,
    sequence_length: int,
    sequence_stride: int = ...,
    sampling_rate: int = ...,
    batch_size: int = ...,
    shuffle: bool = ...,
    seed: int | None = ...,
    start_index: int | None = ...,
    end_index: int | None = ...,
) -> "WindowBatches": ...
@overload
def timeseries_dataset_from_array(
    data: UserData,
    targets: UserData,
    sequence_length: int,
    sequence_stride: int = ...,
    sampling_rate: int = ...,
    *,
    batch_size: None,
    shuffle: bool = ...,
    seed: int | None = ...,
    start_index: int | None = ...,
    end_index: int | None = ...,
) -> "Windows": ...
@suggest_keywords
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
        seed: The seed of the random order.
        start_index: The index of the first value to use.
        end_index: The index after the last value to use.

    Returns:
        For `fit` and its likes: Batches `(batch, sequence_length, …)`, or pairs of these and targets `(batch, …)`, as
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
