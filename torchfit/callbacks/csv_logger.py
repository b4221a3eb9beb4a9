"""CSVLogger: one row per epoch."""

import csv
import os
from collections.abc import Mapping
from typing import Any

from torchfit.callbacks.base import Callback


class CSVLogger(Callback):
    """Write the logs of every epoch into a CSV file, one row per epoch, complete after each.

    The first column is `epoch`, from 0; the others are the names in the logs of the first epoch, sorted. There are
    always columns for validation, which hold `NA` in epochs without it.

    Args:
        filename: the path of the file. Missing folders are created.
        separator: the string between two values.
        append: append to an existing file instead of replacing it.

    Raises:
        OSError: before the first epoch, if the file cannot be written.
        ValueError: at the end of the first epoch, if the file to append to has other columns.

    >>> logger = CSVLogger("runs/training.csv", append=True)
    """

    written_logs = ()

    def __init__(self, filename: str | os.PathLike[str], separator: str = ",", append: bool = False) -> None:
        self.filename = os.fspath(filename)
        self.sep = separator
        self.append = append
        self.keys: list[str] | None = None
        self._appends = append

    def on_train_begin(self, logs: Any = None) -> None:
        """Check that the file can be written. It is truncated when the first row is written."""
        os.makedirs(os.path.dirname(self.filename) or ".", exist_ok=True)
        with open(self.filename, "a", newline=""):
            self.keys = None
            self._appends = self.append

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Write a row. The file is open only during the write, so nothing stays open if training is interrupted."""
        logs = logs or {}
        rows: list[list[Any]] = []
        if self.keys is None:
            self.keys = _columns(logs)
            header = ["epoch", *self.keys]
            if not self._has_header(header):
                rows.append(header)
        rows.append([epoch, *(_text(logs.get(name, "NA")) for name in self.keys)])
        with open(self.filename, "a" if self._appends else "w", newline="") as file:
            csv.writer(file, delimiter=self.sep).writerows(rows)
        self._appends = True

    def state_dict(self) -> dict[str, Any]:
        """Return the columns and the length of the file in bytes."""
        appends = self.keys is not None or self.append
        return {"keys": self.keys, "size": os.path.getsize(self.filename) if appends else None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the file, without the rows written after the state was taken."""
        self.keys = state["keys"]
        if state["size"] is not None:
            os.truncate(self.filename, state["size"])
            self._appends = True

    def _has_header(self, header: list[str]) -> bool:
        """Return whether the file has a header; raise ValueError if it has other columns."""
        if not self._appends:
            return False
        with open(self.filename, newline="") as file:
            found = next(csv.reader(file, delimiter=self.sep), None)
        if found is not None and found != header:
            raise ValueError(
                f"CSVLogger: cannot append to {self.filename!r}: its columns are {found}, those of this run "
                f"{header}. Choose another file, or append=False."
            )
        return found is not None


def _columns(logs: Mapping[str, Any]) -> list[str]:
    """Return the names, sorted, with those of validation even if the first epoch has none."""
    names = sorted(logs)
    if any(name.startswith("val_") for name in names):
        return names
    return names + ["val_" + name for name in names]


def _text(value: Any) -> Any:
    """Return the content of a cell: lists and arrays in brackets."""
    if isinstance(value, str) or not hasattr(value, "__iter__") or getattr(value, "shape", None) == ():
        return value
    return f'"[{", ".join(map(str, value))}]"'
