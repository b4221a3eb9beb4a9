"""RemoteMonitor: send every epoch to a server."""

import json
import re
import warnings
from collections.abc import Mapping
from http.client import HTTPMessage
from threading import Thread
from typing import IO, Any
from urllib.error import HTTPError
from urllib.parse import urlencode, urljoin, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from torchfit._types import Logs
from torchfit._utils.errors import describe, printable
from torchfit.callbacks.base import Callback

_TIMEOUT_SECONDS = 10.0
_MAX_REDIRECTS = 5


class RemoteMonitor(Callback):
    """Send the logs of every epoch to a server by HTTP POST, without any extra package.

    The message is a JSON object with `epoch` (from 0) and the logs. If it cannot be delivered within ten seconds, for
    whatever reason, a warning says so and training continues. Redirects are followed on the same server only.

    Args:
        root: address of the server, `http://` or `https://`.
        path: path on the server.
        field: name of the form field that holds the JSON, unless `send_as_json`.
        headers: further HTTP headers.
        send_as_json: send the JSON itself (`application/json`) instead of a form.

    Raises:
        ValueError: if `root` and `path` are not an HTTP address.

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
            warnings.warn(f"RemoteMonitor: could not reach {self.root}: {printable(problem)}", stacklevel=2)

    def _send(self, request: Request) -> str:
        """Send a request, and return what went wrong, an empty text if nothing did.

        It is sent in a thread, because the timeout of a socket starts again with every byte that comes.
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
    """Sends the data again to where a server redirects to, if that is on the same server."""

    hops = 0

    def http_error_302(self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage) -> Any:
        """Send the request to the new address.

        Raises:
            ValueError: if it is on another server, or there were too many of them.
        """
        fp.close()
        self.hops += 1
        address = urljoin(req.full_url, headers.get("location", ""))
        if self.hops > _MAX_REDIRECTS:
            raise ValueError("it redirects again and again")
        if urlsplit(address)[:2] != urlsplit(req.full_url)[:2]:
            raise ValueError(f"it redirects to {address}. Pass that address if it is right.")
        return self.parent.open(Request(address, req.data, dict(req.header_items())), timeout=_TIMEOUT_SECONDS)

    http_error_301 = http_error_307 = http_error_308 = http_error_302

    def http_error_303(self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage) -> Any:
        """Return the answer: the data were received."""
        return fp


def _deliver(request: Request, problems: list[str]) -> None:
    try:
        build_opener(_SameServerRedirects).open(request, timeout=_TIMEOUT_SECONDS).close()
    except Exception as error:  # A server may answer anything, and training must continue.
        problems.append(str(error) or type(error).__name__)
        if isinstance(error, HTTPError):
            error.close()


def _plain(value: object) -> Any:
    """Return arrays and array scalars as lists and numbers."""
    return value.tolist() if hasattr(value, "tolist") else value
