"""A web server that accepts webhook requests, or fails in the ways that real receivers do."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

import orjson

DEADLINE_S = 60.0


@dataclass(frozen=True)
class Request:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


@dataclass(frozen=True)
class Response:
    """An answer. With `status` 0 the server closes the connection; with `is_endless` it sends headers forever."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    is_endless: bool = False


class Receiver:
    """Record all requests. `answer` chooses the response to each; by default that is 200."""

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self._changed = threading.Condition()
        self._tls = tls
        self.port = 0
        self.requests: list[Request] = []
        self.accepted: list[Request] = []
        """The requests answered with 2xx."""
        self.answer: Callable[[Request], Response] = lambda request: Response(200)
        self.stopping = threading.Event()
        self.start()

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}/hook"

    def start(self) -> None:
        self.stopping.clear()
        self._server = _Server(("127.0.0.1", self.port), _Handler)
        self._server.receiver = self
        if self._tls:
            self._server.socket = self._tls.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        if self.stopping.is_set():
            return
        self.stopping.set()
        self._server.shutdown()
        self._thread.join(DEADLINE_S)
        self._server.server_close()

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        with self._changed:
            if not self._changed.wait_for(condition, DEADLINE_S):
                raise AssertionError(f"not within {DEADLINE_S} s: {what}; {len(self.requests)} requests")

    def handle(self, request: Request) -> Response:
        response = self.answer(request)
        with self._changed:
            self.requests.append(request)
            if 200 <= response.status < 300:
                self.accepted.append(request)
            self._changed.notify_all()
        return response


class _Server(ThreadingHTTPServer):
    receiver: Receiver
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    timeout = 5.0

    def do_POST(self) -> None:
        receiver = self.server.receiver
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if receiver.stopping.is_set():
            self.close_connection = True
            return
        response = receiver.handle(Request(self.path, dict(self.headers), body))
        if response.status == 0:
            self.close_connection = True
            return
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        if response.is_endless:
            self.flush_headers()
        while response.is_endless and not receiver.stopping.wait(0.05):
            self.wfile.write(b"X-More: 1\r\n")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass
