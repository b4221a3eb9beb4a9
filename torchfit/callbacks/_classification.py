"""Count true and predicted classes on data, at the end of epochs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from torchfit._types import Array, UserData
from torchfit._utils import validation
from torchfit._utils.errors import describe
from torchfit.callbacks.base import Callback


class ClassificationCallback(Callback):
    """Base of the callbacks that compare predicted with true classes; for the arguments see `ConfusionMatrix`."""

    runs_first = ("on_epoch_end",)  # before callbacks that monitor what is written into the logs

    def __init__(
        self,
        data: UserData,
        class_names: Sequence[str] | None = None,
        batch_size: int = 32,
        every: int = 1,
        output: str | int | None = None,
        axis: int | None = None,
        threshold: float | None = None,
        ignore_class: int | None = None,
        verbose: int = 1,
    ) -> None:
        self.data = data
        self.class_names = None if class_names is None else [str(name) for name in class_names]
        self.batch_size = validation.integer("batch_size", batch_size, min_value=1)
        self.every = validation.integer("every", every, min_value=1)
        self.output = output
        self.axis = axis
        self.threshold = threshold
        self.ignore_class = ignore_class
        self.verbose = verbose
        if not isinstance(data, (tuple, Dataset)) and not hasattr(data, "__iter__"):
            raise ValueError(f"data: expected (x, y), a Dataset or an iterable of batches. Received: {describe(data)}")
        if isinstance(data, Iterator):
            raise ValueError("data: an iterator can be gone through only once. Pass an iterable, such as a DataLoader.")

    def is_due(self, epoch: int) -> bool:
        """Return whether to compare at the end of an epoch."""
        return (epoch + 1) % self.every == 0

    def count(self) -> Array:
        """Return the confusion matrix `(classes, classes)`: rows are true classes, columns predicted ones."""
        single_outputs: list[tuple[Array, Array]] = []
        matrices: list[Array] = []
        for y, outputs in self._predictions():
            batch = _to_numpy(self._pick(y)), _to_numpy(self._pick(outputs))
            if self._is_binary(batch[1]):
                single_outputs.append((batch[0].reshape(-1), batch[1].reshape(-1)))
            else:
                matrices = [np.sum([*matrices, self._count_batch(*batch)], axis=0)]
        if single_outputs:  # One threshold is chosen for all batches.
            targets, scores = zip(*single_outputs)
            matrices.append(self._count_batch(np.concatenate(targets), np.concatenate(scores)))
        if not matrices:
            raise ValueError(f"{type(self).__name__}: data: there is not a single batch.")
        return matrices[0]

    def names(self, num_classes: int) -> list[str]:
        """Return the names of the classes.

        Raises:
            ValueError: if `class_names` are not as many.
        """
        names = [str(index) for index in range(num_classes)] if self.class_names is None else self.class_names
        if len(names) != num_classes:
            raise ValueError(f"class_names: expected {num_classes} names, one for each class. Received: {len(names)}")
        return names

    def _predictions(self) -> Iterator[tuple[Any, Any]]:
        """Yield targets and outputs."""
        data: Any = self.data
        if isinstance(data, tuple):
            x, y = data[:2]
            yield y, self.model.predict(x, batch_size=self.batch_size, verbose=0)
            return
        for batch in DataLoader(data, self.batch_size) if isinstance(data, Dataset) else data:
            yield batch[1], self.model.predict_on_batch(batch[0])

    def _pick(self, structure: object) -> Any:
        if self.output is None:
            return structure
        if isinstance(structure, (Mapping, list, tuple)):
            return structure[self.output]  # type: ignore[index]
        return structure

    def _count_batch(self, y: Array, outputs: Array) -> Array:
        num_classes, predicted, true = self._classes(y, outputs)
        if true.shape != predicted.shape:
            raise ValueError(
                f"{type(self).__name__}: data: targets of shape {y.shape} do not fit outputs of shape {outputs.shape}. "
                "Expected class indices, or as many values as classes."
            )
        counted = true >= 0
        if self.ignore_class is not None:
            counted &= true != self.ignore_class
        true, predicted = true[counted], predicted[counted]
        if true.size and true.max() >= num_classes:
            raise ValueError(
                f"{type(self).__name__}: data: class index {int(true.max())} is out of range for {num_classes} classes."
            )
        return np.bincount(true * num_classes + predicted, minlength=num_classes**2).reshape(num_classes, num_classes)

    def _classes(self, y: Array, outputs: Array) -> tuple[int, Array, Array]:
        """Return the number of classes, and the predicted and true class indices."""
        if self._is_binary(outputs):
            outputs = outputs.reshape(-1)
            threshold = self.threshold
            if threshold is None:
                threshold = 0.0 if outputs.size and (outputs.min() < 0 or outputs.max() > 1) else 0.5
            return 2, (outputs > threshold).astype(np.int64), y.reshape(-1).astype(np.int64)
        axis = self._class_axis(y, outputs)
        if y.shape == outputs.shape:
            if not np.allclose(y.sum(axis), 1):
                raise ValueError(
                    f"{type(self).__name__}: data: samples with several labels, or none, have no confusion matrix."
                )
            y = y.argmax(axis)
        elif y.ndim == outputs.ndim and y.shape[axis] == 1:
            y = y.squeeze(axis)
        return outputs.shape[axis], outputs.argmax(axis), y.astype(np.int64)

    def _is_binary(self, outputs: Array) -> bool:
        """Return whether there is a single output for two classes."""
        return outputs.ndim == 1 or (outputs.shape[-1] == 1 and self.axis is None)

    def _class_axis(self, y: Array, outputs: Array) -> int:
        if self.axis is not None:
            return self.axis
        is_first = outputs.ndim == y.ndim + 1 and outputs.shape[:1] + outputs.shape[2:] == y.shape
        return 1 if is_first and outputs.shape[:-1] != y.shape else -1


def _to_numpy(values: object) -> Array:
    if isinstance(values, torch.Tensor):
        return values.detach().cpu().numpy()
    return np.asarray(values)


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a table: the first column is aligned to the left, the others to the right.

    >>> print(format_table(["", "a", "b"], [["first", "1", "20"], ["x", "3", "4"]]))
             a   b
    first    1  20
    x        3   4
    """
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    lines = [
        "  ".join(cell.ljust(width) if place == 0 else cell.rjust(width) for place, (cell, width) in enumerate(cells))
        for cells in (list(zip(row, widths)) for row in (header, *rows))
    ]
    return "\n".join(line.rstrip() for line in lines)
