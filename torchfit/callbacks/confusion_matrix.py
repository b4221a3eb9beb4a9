"""ConfusionMatrix: count true and predicted classes at the end of epochs."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from torchfit._types import Array, Logs, StateDict
from torchfit._utils import console, figures
from torchfit.callbacks._classification import ClassificationCallback, format_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MAX_PRINTED_CLASSES = 20


class ConfusionMatrix(ClassificationCallback):
    """Compute the confusion matrix on data at the end of epochs.

    Args:
        data: `(x, y)` as for `evaluate`, or a Dataset, a DataLoader or another iterable of batches `(x, y)` that can be
            gone through every time. Predicting takes a pass over them.
        class_names: the names of the classes, in the order of their indices; by default the indices.
        batch_size: samples per batch.
        every: the number of epochs from one time to the next.
        output: the output to look at, by name or number, of a model with several.
        axis: the axis of the classes in the outputs; by default the one that `y` lacks, the last one in doubt.
        threshold: from which output on the class is 1, of a model with a single output for two classes; by default
            0.5, or 0 if there are outputs outside of [0, 1].
        ignore_class: a class index in `y` that does not count. Negative ones never do.
        verbose: 1 prints the result.

    Attributes:
        matrix: the last confusion matrix `(classes, classes)`: rows are true classes, columns predicted ones.
        matrices: epoch, from 0 -> confusion matrix.

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
        """The last confusion matrix, None before the first."""
        return next(reversed(list(self.matrices.values())), None)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Forget the matrices of another run."""
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
        """Plot the matrix of an epoch, from 0, by default the last one, as a figure of matplotlib.

        Args:
            epoch: the epoch.
            normalize: whether to show fractions of the true class instead of counts.

        Raises:
            ImportError: if matplotlib is not installed.
            ValueError: if there is no matrix of the epoch.
        """
        matrix = self.matrix if epoch is None else self.matrices.get(epoch)
        if matrix is None:
            known = ", ".join(map(str, self.matrices)) or "none"
            raise ValueError(f"There is no confusion matrix of epoch {epoch}. Epochs with one: {known}.")
        shown = matrix / np.maximum(matrix.sum(1, keepdims=True), 1) if normalize else matrix
        return figures.make_figure(lambda figure: self._draw(figure, shown))

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
