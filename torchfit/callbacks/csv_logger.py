"""CSVLogger: one row per epoch."""

import csv
import io
import os
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from torchfit._serialization import files
from torchfit._types import Logs, Results, StateDict
from torchfit.callbacks.base import Callback


class CSVLogger(Callback):
    """Write the logs of every epoch into a CSV file, one row per epoch, complete after each.

    The first column is `epoch`, from 0; the others are the names in the logs of the first epoch, sorted. There are
    always columns for validation, which hold `NA` in epochs without it. A name that first occurs later gets a column
    as well, `NA` in the rows before it. Appending keeps the columns of the file.

    A file that cannot be written later is a warning; its rows are written with that of the next epoch.

    Args:
        filename: the path of the file. Missing folders are created.
        separator: the string between two values.
        append: append to an existing file instead of replacing it.

    Raises:
        OSError: before the first epoch, if the file cannot be written.
        ValueError: if `filename` is an address such as `s3://…`, which nothing can be appended to; before the first
            epoch, if the file to append to is not a CSV file with a column `epoch`, or has
            no column for a name that will occur.

    >>> logger = CSVLogger("runs/training.csv", append=True)
    """

    is_writer = True
    written_logs = ()

    _header: list[str] | None

    def __init__(self, filename: str | os.PathLike[str], separator: str = ",", append: bool = False) -> None:
        self.filename = files.require_local("CSVLogger", filename)
        self.sep = separator
        self.append = append
        self.uses_log_names = append
        self._reset()

    @property
    def keys(self) -> list[str] | None:
        """The names of the columns but `epoch`; None before the first row."""
        return None if self._header is None else [name for name in self._header if name != "epoch"]

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Check that the file can be written, and has the columns. It is truncated when the first row is written."""
        self._reset()
        files.check_writable("CSVLogger: filename", self.filename)
        os.makedirs(os.path.dirname(self.filename) or ".", exist_ok=True)
        with open(self.filename, "a", encoding="utf-8"):
            pass
        if self.append:
            self._header = self._read_header()
        if self._header is not None:
            new = [name for name in self.params.get("metrics", ()) if name not in self._header]
            if new or "epoch" not in self._header:
                raise ValueError(
                    f"CSVLogger: cannot append to {self.filename!r}: its columns are {self._header}, without "
                    f"{new or ['epoch']}. Choose another file, or append=False."
                )

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Write a row. The file is open only during the write, so nothing stays open if training is interrupted."""
        logs = logs or {}
        if self._header is None:
            self._header = ["epoch", *self._columns(logs)]
        self._rows.append({"epoch": epoch, **{name: _text(value) for name, value in logs.items()}})
        try:
            self._write_rows()
        except OSError as error:
            message = f"CSVLogger: could not write {self.filename!r}, and tries again after the next epoch: {error}"
            warnings.warn(message, stacklevel=2)

    def state_dict(self) -> StateDict:
        """Return the columns, and the length of the file in bytes and in rows."""
        has_file = (self._header is not None or self.append) and os.path.exists(self.filename)
        size = os.path.getsize(self.filename) if has_file else None
        return {"keys": self.keys, "size": size, "rows": self._num_rows}

    def load_state_dict(self, state: StateDict) -> None:
        """Continue the file, without the rows written after the state was taken."""
        self._header = None if state["keys"] is None else ["epoch", *state["keys"]]
        self._num_rows = state.get("rows", 0)
        if state["size"] is None or not os.path.exists(self.filename):
            return
        self._is_begun = True
        found = self._read_header()
        if self._header is None or found is None or set(found) == set(self._header):
            self._header = found if self._header is not None else None
            os.truncate(self.filename, state["size"])
        else:  # Columns were added since.
            self._header = found
            self._rewrite(found, self._read_rows()[: self._num_rows])

    def _reset(self) -> None:
        self._header = None
        self._rows: list[dict[str, Any]] = []  # those not written yet
        self._num_rows = 0
        self._is_begun = self.append

    def _columns(self, logs: Results) -> list[str]:
        """Return the names, sorted, with those of validation even if the first epoch has none."""
        names = sorted(logs)
        if any(name.startswith("val_") for name in names):
            return names
        validated = getattr(self.model, "metrics_names", None) or names  # not what callbacks add
        return names + ["val_" + name for name in names if name in validated]

    def _write_rows(self) -> None:
        assert self._header is not None
        os.makedirs(os.path.dirname(self.filename) or ".", exist_ok=True)
        has_rows = self._is_begun and os.path.exists(self.filename) and os.path.getsize(self.filename) > 0
        new = list(dict.fromkeys(name for row in self._rows for name in row if name not in self._header))
        if new:
            header = [*self._header, *new]
            if has_rows:
                self._rewrite(header, self._read_rows())
            self._header = header
        rows = [[row.get(name, "NA") for name in self._header] for row in self._rows]
        if not has_rows:
            rows.insert(0, self._header)
        with open(self.filename, "a" if has_rows else "w", newline="", encoding="utf-8") as file:
            file.write(("" if not has_rows or self._ends_with_newline() else "\r\n") + self._format(rows))
        self._num_rows += len(self._rows)
        self._rows, self._is_begun = [], True

    def _ends_with_newline(self) -> bool:
        with open(self.filename, "rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) in (b"\n", b"\r")

    def _read_header(self) -> list[str] | None:
        return next(iter(self._read()), None)

    def _read_rows(self) -> list[dict[str, str]]:
        header, *rows = self._read()
        return [dict(zip(header, row)) for row in rows]

    def _read(self) -> list[list[str]]:
        try:
            with open(self.filename, newline="", encoding="utf-8") as file:
                return [row for row in csv.reader(file, delimiter=self.sep) if row]
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(
                f"CSVLogger: cannot append to {self.filename!r}, which is not a CSV file: {error}"
            ) from error

    def _rewrite(self, header: list[str], rows: Iterable[Mapping[str, str]]) -> None:
        text = self._format([header, *([row.get(name, "NA") for name in header] for row in rows)])
        files.write_atomically(self.filename, [text.encode()])

    def _format(self, rows: Iterable[Iterable[object]]) -> str:
        text = io.StringIO(newline="")
        csv.writer(text, delimiter=self.sep).writerows(rows)
        return text.getvalue()


def _text(value: object) -> Any:
    """Return the content of a cell: lists and arrays in brackets."""
    if isinstance(value, str) or not hasattr(value, "__iter__") or getattr(value, "shape", None) == ():
        return value
    return f'"[{", ".join(map(str, value))}]"'
