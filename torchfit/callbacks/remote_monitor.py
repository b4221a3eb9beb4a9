"""RemoteMonitor: send every epoch to a server."""

import json
import warnings
from collections.abc import Mapping
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from torchfit._utils.errors import describe
from torchfit.callbacks.base import Callback

_SECONDS_TO_WAIT = 10


class RemoteMonitor(Callback):
    """Send the logs of every epoch to a server by HTTP POST, without any extra package.

    The message is a JSON object with `epoch` (from 0) and the logs. If the server cannot be reached within ten
    seconds, a warning says so and training continues.

    Args:
        root: address of the server, `http://` or `https://`.
        path: path on the server.
        field: name of the form field that holds the JSON, unless `send_as_json`.
        headers: further HTTP headers.
        send_as_json: send the JSON itself (`application/json`) instead of a form.

    Raises:
        ValueError: if `root` is not an HTTP address.
    """

    written_logs = ()

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
        self.root = root
        self.path = path
        self.field = field
        self.headers = headers
        self.send_as_json = send_as_json

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Send the values of the epoch."""
        event = {"epoch": epoch, **{name: _plain(value) for name, value in (logs or {}).items()}}
        text = json.dumps(event)
        body = text if self.send_as_json else urlencode({self.field: text})
        headers = {"Content-Type": "application/json"} if self.send_as_json else {}
        request = Request(self.root + self.path, body.encode(), {**headers, **(self.headers or {})})
        try:
            urlopen(request, timeout=_SECONDS_TO_WAIT).close()
        except (URLError, OSError) as error:
            warnings.warn(f"RemoteMonitor: could not reach {self.root}: {error}", stacklevel=2)


def _plain(value: Any) -> Any:
    """Return arrays and array scalars as lists and numbers."""
    return value.tolist() if hasattr(value, "tolist") else value
