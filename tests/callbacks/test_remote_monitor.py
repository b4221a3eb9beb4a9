import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from urllib.parse import parse_qs

import numpy as np
import pytest

from torchfit.callbacks import RemoteMonitor


@pytest.fixture
def server():
    received = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            received.append((self.path, self.headers, body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        server.received = received
        yield server
        server.shutdown()
        thread.join()


def root(server):
    return f"http://127.0.0.1:{server.server_port}"


def test_a_form(server):
    RemoteMonitor(root(server)).on_epoch_end(3, {"loss": 0.5, "matrix": np.float32(2)})
    ((path, _, body),) = server.received
    assert path == "/publish/epoch/end/"
    assert json.loads(parse_qs(body)["data"][0]) == {"epoch": 3, "loss": 0.5, "matrix": 2.0}


def test_json(server):
    RemoteMonitor(root(server), path="/log", headers={"X-Run": "7"}, send_as_json=True).on_epoch_end(0, {})
    ((path, headers, body),) = server.received
    assert (path, headers["X-Run"], headers["Content-Type"]) == ("/log", "7", "application/json")
    assert json.loads(body) == {"epoch": 0}


def test_a_server_that_is_not_there_is_a_warning(server):
    server.server_close()
    with pytest.warns(UserWarning, match=r"could not reach http://127.0.0.1"):
        RemoteMonitor("http://127.0.0.1:9").on_epoch_end(0, {})


def test_only_http():
    with pytest.raises(ValueError, match="root: expected an address with http://"):
        RemoteMonitor("file:///etc/passwd")
