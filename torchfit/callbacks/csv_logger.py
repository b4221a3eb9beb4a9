"""CSVLogger: one row per epoch."""

import csv
import os
from collections.abc import Mapping
from typing import Any

from torchfit.callbacks.base import Callback


class CSVLogger(Callback):
    """Write the logs of every epoch into a CSV file, one row per epoch, complete after each.

    The first column is `epoch`, from 0; the others are the names in the first epoch's logs, sorted. Columns
    for validation are there in any case; they hold `NA` in epochs without it.

    Args:
        filename: where to, a string or path. Missing folders are made.
        separator: what stands between two values.
        append: go on with a file that is there, instead of replacing it.

    Raises:
        OSError: before the first epoch, if the file cannot be written.
        ValueError: at the end of the first epoch, if the file to go on with has other columns.

    >>> logger = CSVLogger("runs/training.csv", append=True)
    """

    _is_builtin = True

    def __init__(self, filename: str | os.PathLike[str], separator: str = ",", append: bool = False) -> None:
        self.filename = os.fspath(filename)
        self.sep = separator
        self.append = append
        self.keys: list[str] | None = None
        self._goes_on = append

    def on_train_begin(self, logs: Any = None) -> None:
        """See to it that the file can be written. What it holds goes with the first row."""
        os.makedirs(os.path.dirname(self.filename) or ".", exist_ok=True)
        with open(self.filename, "a", newline=""):
            self.keys = None
            self._goes_on = self.append

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Write a row. The file is open only meanwhile: nothing is left open when training breaks off."""
        logs = logs or {}
        rows: list[list[Any]] = []
        if self.keys is None:
            self.keys = _columns(logs)
            header = ["epoch", *self.keys]
            if not self._has_header(header):
                rows.append(header)
        rows.append([epoch, *(_text(logs.get(name, "NA")) for name in self.keys)])
        with open(self.filename, "a" if self._goes_on else "w", newline="") as file:
            csv.writer(file, delimiter=self.sep).writerows(rows)
        self._goes_on = True

    def state_dict(self) -> dict[str, Any]:
        """Return the columns and the length of the file in bytes."""
        goes_on = self.keys is not None or self.append
        return {"keys": self.keys, "size": os.path.getsize(self.filename) if goes_on else None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the file, without the rows that came after the state was taken."""
        self.keys = state["keys"]
        if state["size"] is not None:
            os.truncate(self.filename, state["size"])
            self._goes_on = True

    def _has_header(self, header: list[str]) -> bool:
        """Tell whether the file begins with these columns; refuse others."""
        if not self._goes_on:
            return False
        with open(self.filename, newline="") as file:
            found = next(csv.reader(file, delimiter=self.sep), None)
        if found is not None and found != header:
            raise ValueError(
                f"CSVLogger: cannot append to {self.filename!r}: its columns are {found}, those of this training "
                f"{header}. Choose another file, or append=False."
            )
        return found is not None


def _columns(logs: Mapping[str, Any]) -> list[str]:
    """Return the names, sorted, with those of validation even if the first epoch had none."""
    names = sorted(logs)
    if any(name.startswith("val_") for name in names):
        return names
    return names + ["val_" + name for name in names]


def _text(value: Any) -> Any:
    """Return what stands in a cell: lists and arrays in brackets."""
    if isinstance(value, str) or not hasattr(value, "__iter__") or getattr(value, "shape", None) == ():
        return value
    return f'"[{", ".join(map(str, value))}]"'
