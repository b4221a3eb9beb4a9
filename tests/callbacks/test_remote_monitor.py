import json
import socket
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Event, Thread
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
        server.received = received  # type: ignore[attr-defined]
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


@pytest.fixture
def raw_server():
    """Return a function that starts a server which answers every connection with `answer(connection)`."""
    sockets = []

    def start(answer):
        listening = socket.create_server(("127.0.0.1", 0))
        sockets.append(listening)

        def serve():
            with suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    with connection, suppress(OSError):
                        connection.settimeout(5)
                        connection.recv(65536)
                        answer(connection)
                        connection.shutdown(socket.SHUT_WR)
                        while connection.recv(65536):  # Closing with unread data would reset the connection.
                            pass

        Thread(target=serve, daemon=True).start()
        return f"http://127.0.0.1:{listening.getsockname()[1]}"

    yield start
    for listening in sockets:
        listening.close()


OTHER_SERVER = "it redirects to"
ANSWERS = {
    "no HTTP": (b"SSH-2.0-OpenSSH_9.6\r\n", "SSH"),
    "a long header": (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70000 + b"\r\n\r\n", "more than 65536 bytes"),
    "many headers": (b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 200 + b"\r\n", "100 headers"),
    "no answer": (b"", "closed connection"),
    "an error": (b"HTTP/1.1 500 Oops\r\n\r\n", "500"),
    "a redirect to ftp": (b"HTTP/1.1 302 Found\r\nLocation: ftp://127.0.0.1/a\r\n\r\n", OTHER_SERVER),
    "a redirect to a file": (b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n", OTHER_SERVER),
    "a redirect to https": (b"HTTP/1.1 307 Found\r\nLocation: https://127.0.0.1/\r\n\r\n", OTHER_SERVER),
    "a redirect to nowhere": (b"HTTP/1.1 302 Found\r\nLocation: http://[::1/\r\n\r\n", "Invalid"),
    "a redirect to a bad port": (b"HTTP/1.1 302 Found\r\nLocation: http://a:b/ c\r\n\r\n", OTHER_SERVER),
    "redirects without an end": (b"HTTP/1.1 301 Moved\r\nLocation: /again\r\n\r\n", "again and again"),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_any_answer_is_survived(kind, raw_server):
    answer, problem = ANSWERS[kind]
    monitor = RemoteMonitor(raw_server(lambda connection: connection.sendall(answer)))
    with pytest.warns(UserWarning, match=rf"could not reach http://127.0.0.1.*{problem}"):
        monitor.on_epoch_end(0, {"loss": 0.5})


def test_there_is_one_deadline_for_the_whole_answer(raw_server, monkeypatch):
    done = Event()

    def drip(connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
        while not done.wait(0.05):
            connection.sendall(b"x")

    monkeypatch.setattr("torchfit.callbacks.loggers._TIMEOUT_SECONDS", 0.3)
    monitor = RemoteMonitor(raw_server(drip))
    with pytest.warns(UserWarning, match=r"no complete answer within 0\.3 seconds"):
        monitor.on_epoch_end(0, {})
    with pytest.warns(UserWarning, match="the last message is still on its way"):
        monitor.on_epoch_end(1, {})
    done.set()


def test_a_redirect_on_the_same_server_gets_the_data(raw_server):
    received = []

    def answer(connection):
        if not received:
            received.append("redirected")
            connection.sendall(b"HTTP/1.1 301 Moved\r\nLocation: /new\r\nConnection: close\r\n\r\n")
        else:
            received.append("taken")
            connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")

    RemoteMonitor(raw_server(answer)).on_epoch_end(0, {"loss": 0.5})
    assert received == ["redirected", "taken"]


def test_values_that_json_does_not_know_are_sent_as_text(server):
    RemoteMonitor(root(server), send_as_json=True).on_epoch_end(0, {"note": 1j})
    ((_, _, body),) = server.received
    assert json.loads(body) == {"epoch": 0, "note": "1j"}


@pytest.mark.parametrize("path", ["/a b", "/a\r\nX-Injected: 1"])
def test_an_address_with_spaces_is_refused_at_once(path):
    with pytest.raises(ValueError, match="expected an address without spaces"):
        RemoteMonitor(path=path)
