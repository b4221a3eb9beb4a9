"""Callbacks that report on predicted classes: the confusion matrix and the classification report."""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from torchfit._types import Array, Logs, Nested, StateDict, UserData
from torchfit._utils import console, notebook, validation
from torchfit._utils.errors import describe
from torchfit.callbacks.base import Callback

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class ClassificationCallback(Callback):
    """Base class of callbacks that compare predicted and true classes; see `ConfusionMatrix` for the arguments."""

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
            raise ValueError(
                "data: an iterator can be iterated over only once. Pass an iterable, such as a DataLoader."
            )

    def is_due(self, epoch: int) -> bool:
        """Return whether this epoch is reported."""
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
            ValueError: If `class_names` has another length.
        """
        names = [str(index) for index in range(num_classes)] if self.class_names is None else self.class_names
        if len(names) != num_classes:
            raise ValueError(f"class_names: expected {num_classes} names, one for each class. Received: {len(names)}")
        return names

    def _predictions(self) -> Iterator[tuple[UserData, Nested]]:
        """Yield targets and outputs."""
        data = self.data
        if isinstance(data, tuple):
            x, y = data[:2]
            yield y, self.model.predict(x, batch_size=self.batch_size, verbose=0)
            return
        for batch in DataLoader(data, self.batch_size) if isinstance(data, Dataset) else data:
            yield batch[1], self.model.predict_on_batch(batch[0])

    def _pick(self, structure: Nested) -> Nested:
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


_MEASURES = ("precision", "recall", "f1")


class ClassificationReport(ClassificationCallback):
    """Reports precision, recall and F1 of every class on data at the end of epochs.

    Writes `macro_precision`, `macro_recall` and `macro_f1`, the means over the classes that occur in the targets or the
    predictions, into the logs, where other callbacks can monitor them. 0 / 0 counts as 0.

    The arguments are those of `ConfusionMatrix`.

    Attributes:
        report: A dictionary from the last epoch. It maps class names to `precision`, `recall`, `f1` and `support` (the
            number of samples), `"macro"` to their means over the classes, `"weighted"` to the means weighted by
            support, and `"accuracy"` to a number.

    >>> import numpy as np, torch, torchfit
    >>> x, y = np.eye(3, dtype="float32"), np.array([0, 1, 1])
    >>> report = ClassificationReport((x, y), class_names=["cat", "dog", "cow"])
    >>> report.set_model(torchfit.Model(torch.nn.Identity()))
    >>> report.on_epoch_end(0)
    Epoch 1, accuracy 0.6667:
              precision  recall      f1  support
    cat          1.0000  1.0000  1.0000        1
    dog          1.0000  0.5000  0.6667        2
    cow          0.0000  0.0000  0.0000        0
    macro        0.6667  0.5000  0.5556        3
    weighted     1.0000  0.6667  0.7778        3
    """

    written_logs = ("macro_precision", "macro_recall", "macro_f1")

    report: Mapping[str, Any] = MappingProxyType({})

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Compute the report, print it, and write the means into the logs."""
        if not self.is_due(epoch):
            return
        matrix = self.count()
        rows = _measures(matrix)
        names = [*self.names(len(matrix)), "macro", "weighted"]
        accuracy = float(matrix.trace() / max(matrix.sum(), 1))
        report = {name: dict(zip((*_MEASURES, "support"), row)) for name, row in zip(names, rows)}
        self.report = {**report, "accuracy": accuracy}
        if logs is not None:
            logs.update({f"macro_{name}": report["macro"][name] for name in _MEASURES})
        if self.verbose > 0:
            cells = [[name, *(f"{value:.4f}" for value in row[:3]), str(int(row[3]))] for name, row in zip(names, rows)]
            table = format_table(["", *_MEASURES, "support"], cells)
            console.write_line(f"Epoch {epoch + 1}, accuracy {accuracy:.4f}:\n{table}")


def _measures(matrix: Array) -> list[list[float]]:
    """Return precision, recall, F1 and support of every class, their means and their weighted means."""
    correct, support, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    precision = correct / np.maximum(predicted, 1)
    recall = correct / np.maximum(support, 1)
    f1 = 2 * correct / np.maximum(support + predicted, 1)
    table = np.stack([precision, recall, f1], 1)
    occurs = (support + predicted) > 0
    total = float(support.sum())
    macro = table[occurs].mean(0) if occurs.any() else np.zeros(3)
    weighted = (table * support[:, None]).sum(0) / max(total, 1.0)
    rows = np.concatenate([table, macro[None], weighted[None]])
    return [[*row, count] for row, count in zip(rows.tolist(), [*map(float, support), total, total])]


_MAX_PRINTED_CLASSES = 20


class ConfusionMatrix(ClassificationCallback):
    """Computes the confusion matrix on data at the end of epochs.

    Args:
        data: `(x, y)` as for `evaluate`, or a Dataset, a DataLoader or another iterable of batches `(x, y)` that can be
            iterated over repeatedly. Each report makes a pass over the data.
        class_names: The names of the classes, in the order of their indices; by default the indices.
        batch_size: Samples per batch.
        every: Report every `every` epochs.
        output: The output to report on, by name or index, for models with several outputs.
        axis: The axis of the classes in the outputs; by default the one that `y` lacks, or the last one if that is
            ambiguous.
        threshold: For models with a single output for two classes, the output from which on the class is 1; by default
            0.5, or 0 if there are outputs outside [0, 1].
        ignore_class: A class index in `y` to ignore. Negative indices are always ignored.
        verbose: 1 prints the result.

    Attributes:
        matrix: The last confusion matrix `(classes, classes)`: rows are true classes, columns predicted ones.
        matrices: The confusion matrices by epoch, counted from 0.

    >>> import numpy as np, torch, torchfit
    >>> x, y = np.eye(3, dtype="float32"), np.array([0, 1, 1])
    >>> confusion = ConfusionMatrix((x, y), class_names=["cat", "dog", "cow"])
    >>> confusion.set_model(torchfit.Model(torch.nn.Identity()))
    >>> confusion.on_epoch_end(0)
    Epoch 1, confusion matrix (rows: true, columns: predicted):
         cat  dog  cow
    cat    1    0    0
    dog    0    1    1
    cow    0    0    0
    """

    written_logs = ()

    matrices: Mapping[int, Array] = MappingProxyType({})

    @property
    def matrix(self) -> "Array | None":
        """The last confusion matrix, or None before the first."""
        return next(reversed(list(self.matrices.values())), None)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Discard the matrices of an earlier run."""
        self.matrices = {}

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Compute the matrix, and print it."""
        if not self.is_due(epoch):
            return
        matrix = self.count()
        self.matrices = {**self.matrices, epoch: matrix}
        names = self.names(len(matrix))
        if self.verbose > 0 and len(matrix) <= _MAX_PRINTED_CLASSES:
            rows = [[name, *map(str, counts)] for name, counts in zip(names, matrix.tolist())]
            table = format_table(["", *names], rows)
            console.write_line(f"Epoch {epoch + 1}, confusion matrix (rows: true, columns: predicted):\n{table}")

    def plot(self, epoch: int | None = None, normalize: bool = False) -> "Figure":
        """Plot the matrix of an epoch as a matplotlib figure.

        Args:
            epoch: The epoch, counted from 0; by default the last one.
            normalize: Whether to show fractions of the true class instead of counts.

        Raises:
            ImportError: If matplotlib is not installed.
            ValueError: If there is no matrix for the epoch.
        """
        matrix = self.matrix if epoch is None else self.matrices.get(epoch)
        if matrix is None:
            known = ", ".join(map(str, self.matrices)) or "none"
            raise ValueError(f"There is no confusion matrix of epoch {epoch}. Epochs with one: {known}.")
        shown = matrix / np.maximum(matrix.sum(1, keepdims=True), 1) if normalize else matrix
        return notebook.make_figure(lambda figure: self._draw(figure, shown))

    def state_dict(self) -> StateDict:
        """Return the matrices."""
        return {"epochs": list(self.matrices), "matrices": list(self.matrices.values())}

    def load_state_dict(self, state: StateDict) -> None:
        """Restore the matrices."""
        self.matrices = dict(zip(state["epochs"], map(np.asarray, state["matrices"])))

    def _draw(self, figure: "Figure", matrix: Array) -> None:
        names = self.names(len(matrix))
        axes = figure.add_subplot()
        image = axes.imshow(matrix, cmap="Blues")
        figure.colorbar(image)
        places = range(len(names))
        axes.set(xlabel="predicted", ylabel="true", xticks=places, yticks=places, xticklabels=names, yticklabels=names)
        if len(names) <= _MAX_PRINTED_CLASSES:
            middle = matrix.max() / 2
            for (row, column), value in np.ndenumerate(matrix):
                text = f"{value:.2f}" if matrix.dtype.kind == "f" else str(value)
                axes.text(column, row, text, ha="center", va="center", color="white" if value > middle else "black")
