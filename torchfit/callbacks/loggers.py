"""Callbacks that log to CSV files, HTTP servers, MLflow and Weights & Biases."""

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from http.client import HTTPMessage
from importlib import import_module
from threading import Thread
from types import ModuleType
from typing import IO, Any
from urllib.error import HTTPError
from urllib.parse import urlencode, urljoin, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from torchfit._serialization import files
from torchfit._types import Logs, Params, Results, StateDict
from torchfit._utils.errors import describe, printable, warn
from torchfit.callbacks.base import Callback


class CSVLogger(Callback):
    """Writes the logs of every epoch to a CSV file, one row per epoch; the file is complete after each epoch.

    The first column is `epoch`, from 0; the others are the names in the logs of the first epoch, sorted. There are
    always columns for validation, which hold `NA` in epochs without it. A name that occurs later for the first time
    gets a column as well, with `NA` in the rows before. Appending keeps the columns of the file.

    If a later write fails, a warning is issued, and the row is written together with that of the next epoch.

    Args:
        filename: The path of the file. Missing folders are created.
        separator: The string between two values.
        append: Whether to append to an existing file instead of replacing it.

    Raises:
        OSError: Before the first epoch, if the file cannot be written.
        ValueError: If `filename` is an address such as `s3://…`, which cannot be appended to; before the first epoch,
            if the file to append to is not a CSV file with a column `epoch`, or lacks a column for a name that occurs.

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
        """The names of the columns except `epoch`, or None before the first row."""
        return None if self._header is None else [name for name in self._header if name != "epoch"]

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Check that the file can be written and has the columns. It is truncated when the first row is written."""
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
        """Write a row. The file is open only during the write, so that it is closed if training is interrupted."""
        logs = logs or {}
        if self._header is None:
            self._header = ["epoch", *self._columns(logs)]
        self._rows.append({"epoch": epoch, **{name: _text(value) for name, value in logs.items()}})
        try:
            self._write_rows()
        except OSError as error:
            message = f"CSVLogger: could not write {self.filename!r}, and tries again after the next epoch: {error}"
            warn(message)

    def state_dict(self) -> StateDict:
        """Return the columns, and the length of the file in bytes and in rows."""
        has_file = (self._header is not None or self.append) and os.path.exists(self.filename)
        size = os.path.getsize(self.filename) if has_file else None
        return {"keys": self.keys, "size": size, "rows": self._num_rows}

    def load_state_dict(self, state: StateDict) -> None:
        """Continue the file, and remove rows written after the state was taken."""
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
        self._rows: list[dict[str, object]] = []  # not written yet
        self._num_rows = 0
        self._is_begun = self.append

    def _columns(self, logs: Results) -> list[str]:
        """Return the sorted names, including those of validation even if the first epoch has none."""
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
        rows: list[Sequence[object]] = [[row.get(name, "NA") for name in self._header] for row in self._rows]
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


def _text(value: object) -> object:
    """Return the content of a cell, with lists and arrays in brackets."""
    if isinstance(value, str) or not hasattr(value, "__iter__") or getattr(value, "shape", None) == ():
        return value
    return f'"[{", ".join(map(str, value))}]"'


_TIMEOUT_SECONDS = 10.0
_MAX_REDIRECTS = 5


class RemoteMonitor(Callback):
    """Sends the logs of every epoch to a server by HTTP POST, without extra packages.

    The message is a JSON object with `epoch` (from 0) and the logs. If it cannot be delivered within ten seconds, for
    whatever reason, a warning is issued and training continues. Only redirects on the same server are followed.

    Args:
        root: The address of the server, `http://` or `https://`.
        path: The path on the server.
        field: The name of the form field that holds the JSON, unless `send_as_json`.
        headers: Additional HTTP headers.
        send_as_json: Whether to send the JSON itself (`application/json`) instead of a form.

    Raises:
        ValueError: If `root` and `path` are not an HTTP address.

    >>> monitor = RemoteMonitor("http://localhost:9000", path="/epochs", send_as_json=True)
    """

    is_writer = True
    written_logs = ()

    _thread: Thread | None = None
    _not_copied = ("training_state", "_thread")

    def __init__(
        self,
        root: str = "http://localhost:9000",
        path: str = "/publish/epoch/end/",
        field: str = "data",
        headers: Mapping[str, str] | None = None,
        send_as_json: bool = False,
    ) -> None:
        if not str(root).startswith(("http://", "https://")):
            raise ValueError(f"root: expected an address with http:// or https://. Received: {describe(root)}")
        if re.search(r"[\x00-\x20\x7f]", f"{root}{path}"):
            raise ValueError("root and path: expected an address without spaces. Quote them with urllib.parse.quote.")
        self.root = root
        self.path = path
        self.field = field
        self.headers = headers
        self.send_as_json = send_as_json

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Send the values of the epoch."""
        event = {"epoch": epoch, **{name: _plain(value) for name, value in (logs or {}).items()}}
        text = json.dumps(event, default=str)
        body = text if self.send_as_json else urlencode({self.field: text})
        headers = {"Content-Type": "application/json"} if self.send_as_json else {}
        request = Request(self.root + self.path, body.encode(), {**headers, **(self.headers or {})})
        problem = self._send(request)
        if problem:
            warn(f"RemoteMonitor: could not reach {self.root}: {printable(problem)}")

    def _send(self, request: Request) -> str:
        """Send a request, and return what went wrong, or an empty string if nothing did.

        It is sent in a thread, because the timeout of a socket restarts with every byte received.
        """
        if self._thread is not None and self._thread.is_alive():
            return "the last message is still on its way"
        problems: list[str] = []
        self._thread = Thread(target=_deliver, args=[request, problems], name="torchfit-monitor", daemon=True)
        self._thread.start()
        self._thread.join(_TIMEOUT_SECONDS)
        if self._thread.is_alive():
            return f"there was no complete answer within {_TIMEOUT_SECONDS:g} seconds"
        return problems[0] if problems else ""


class _SameServerRedirects(HTTPRedirectHandler):
    """Follows redirects on the same server by sending the data to the new address."""

    hops = 0

    def http_error_302(self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage) -> IO[bytes]:
        """Send the request to the new address.

        Raises:
            ValueError: If the address is on another server, or there were too many redirects.
        """
        fp.close()
        self.hops += 1
        address = urljoin(req.full_url, headers.get("location", ""))
        if self.hops > _MAX_REDIRECTS:
            raise ValueError("it redirects again and again")
        if urlsplit(address)[:2] != urlsplit(req.full_url)[:2]:
            raise ValueError(f"it redirects to {address}. Pass that address if it is right.")
        again = Request(address, req.data, dict(req.header_items()))
        answer: IO[bytes] = self.parent.open(again, timeout=_TIMEOUT_SECONDS)
        return answer

    http_error_301 = http_error_307 = http_error_308 = http_error_302

    def http_error_303(self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage) -> IO[bytes]:
        """Return the response: the data were received."""
        return fp


def _deliver(request: Request, problems: list[str]) -> None:
    try:
        build_opener(_SameServerRedirects).open(request, timeout=_TIMEOUT_SECONDS).close()
    except Exception as error:  # A server may send any response, and training must continue.
        problems.append(str(error) or type(error).__name__)
        if isinstance(error, HTTPError):
            error.close()


def _plain(value: object) -> object:
    """Return arrays and array scalars as lists and numbers."""
    return value.tolist() if hasattr(value, "tolist") else value


def require_package(package: str, owner: str) -> ModuleType:
    """Return an optional package.

    Raises:
        ImportError: If the package is not installed; the message says how to install it.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise ImportError(f"{owner} needs the package {package}. Type: pip install {package}") from error


def run_config(model: object, params: Params) -> StateDict:
    """Return the configuration of a run: epochs, steps, optimizer, learning rate and number of parameters."""
    found = {name: params[name] for name in ("epochs", "steps") if params.get(name) is not None}
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None:
        found["optimizer"] = str(optimizer.name)
    rate = getattr(optimizer, "learning_rate", None)
    if rate is not None:
        found["learning_rate"] = float(rate)
    module = getattr(model, "module", None)
    if module is not None:
        found["parameters"] = sum(parameter.numel() for parameter in module.parameters())
    return found


def numeric_logs(model: object, logs: Results | None) -> dict[str, float]:
    """Return the numbers in the logs of an epoch, and the learning rate."""
    numbers = {name: float(value) for name, value in (logs or {}).items() if isinstance(value, (int, float))}
    rate = getattr(getattr(model, "optimizer", None), "learning_rate", None)
    return numbers if rate is None else {"learning_rate": float(rate), **numbers}


class MLflowLogger(Callback):
    """Logs every epoch, and the configuration of the run, to MLflow.

    Needs the package mlflow or mlflow-skinny (`pip install mlflow-skinny`), which is imported when training
    starts. An active run (`mlflow.start_run`) is used and left open; otherwise a new run is started, and ended after
    training.

    Args:
        experiment: The name of the experiment of a new run.
        run_name: The name of a new run.
        tracking_uri: Where runs are stored; by default MLflow's own setting.
        **run_arguments: Further arguments of `mlflow.start_run`, such as `tags`.

    Attributes:
        run_id: The identifier of the run, set when training starts.

    Raises:
        ImportError: Before the first epoch, if mlflow is not installed.

    >>> logger = MLflowLogger(experiment="digits", run_name="first")
    """

    is_writer = True
    written_logs = ()

    def __init__(
        self,
        experiment: str | None = None,
        run_name: str | None = None,
        tracking_uri: str | None = None,
        **run_arguments: object,
    ) -> None:
        self.experiment = experiment
        self.tracking_uri = tracking_uri
        self._arguments = {"run_name": run_name, **run_arguments}
        self.run_id: str | None = None
        self._is_ours = False

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Start a run, unless one is active."""
        mlflow = self._mlflow()
        active = mlflow.active_run()
        self._is_ours = active is None
        if active is None:
            if self.tracking_uri is not None:
                mlflow.set_tracking_uri(self.tracking_uri)
            if self.experiment is not None:
                mlflow.set_experiment(self.experiment)
            active = mlflow.start_run(**self._arguments)
        self.run_id = active.info.run_id
        mlflow.log_params(run_config(self.model, self.params))

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Log the values of the epoch."""
        self._mlflow().log_metrics(numeric_logs(self.model, logs), step=epoch + 1)

    def on_train_end(self, logs: Logs | None = None) -> None:
        """End the run, if it was started here."""
        self._finish("FINISHED")

    def release_resources(self) -> None:
        """Mark the run as failed if training was interrupted before the run was ended."""
        self._finish("FAILED")

    def _finish(self, status: str) -> None:
        if self._is_ours:
            self._is_ours = False
            self._mlflow().end_run(status)

    def _mlflow(self) -> ModuleType:
        return require_package("mlflow", "MLflowLogger")


class WandbLogger(Callback):
    """Logs every epoch, and the configuration of the run, to Weights & Biases.

    Needs the package wandb (`pip install wandb`), which is imported when training starts. An active run (`wandb.init`)
    is used and left open; otherwise a new run is started, and finished after training.

    Args:
        project: The project of a new run.
        name: The name of a new run.
        **init_arguments: Further arguments of `wandb.init`, such as `mode="offline"`, `dir` or `tags`.

    Attributes:
        run: The run, during training and afterwards.

    Raises:
        ImportError: Before the first epoch, if wandb is not installed.

    >>> logger = WandbLogger(project="digits", mode="offline")
    """

    is_writer = True
    written_logs = ()

    run: Any = None
    _is_ours = False
    _not_copied = ("training_state", "run", "_is_ours")

    def __init__(self, project: str | None = None, name: str | None = None, **init_arguments: object) -> None:
        self._arguments = {"project": project, "name": name, **init_arguments}

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Start a run, unless one is active."""
        wandb = require_package("wandb", "WandbLogger")
        self._is_ours = wandb.run is None
        self.run = wandb.init(**self._arguments) if self._is_ours else wandb.run
        self.run.config.update(run_config(self.model, self.params), allow_val_change=True)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Log the values of the epoch."""
        self.run.log({**numeric_logs(self.model, logs), "epoch": epoch + 1})

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Finish the run, if it was started here."""
        self._finish(0)

    def release_resources(self) -> None:
        """Mark the run as failed if training was interrupted before the run was finished."""
        self._finish(1)

    def _finish(self, exit_code: int) -> None:
        if self._is_ours:
            self._is_ours = False
            self.run.finish(exit_code=exit_code)
