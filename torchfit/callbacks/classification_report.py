"""ClassificationReport: precision, recall and F1 of every class at the end of epochs."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from torchfit._types import Array, Logs
from torchfit._utils import console
from torchfit.callbacks._classification import ClassificationCallback, format_table

_MEASURES = ("precision", "recall", "f1")


class ClassificationReport(ClassificationCallback):
    """Report precision, recall and F1 of every class on data at the end of epochs.

    Writes `macro_precision`, `macro_recall` and `macro_f1`, the means over the classes that occur in the targets or the
    predictions, into the logs, where other callbacks can monitor them. A ratio of 0 to 0 counts as 0.

    The arguments are those of `ConfusionMatrix`.

    Attributes:
        report: class name -> `precision`, `recall`, `f1` and `support` (the number of samples), from the last epoch;
            `"macro"` holds the means over the classes, `"weighted"` those weighted by support, `"accuracy"` a number.

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
