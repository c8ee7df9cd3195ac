"""A web server that takes events, or does what receivers do on bad days."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

import orjson

DEADLINE_S = 20.0


@dataclass(frozen=True)
class Request:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


@dataclass(frozen=True)
class Say:
    """What it answers; `status` 0: it hangs up without a word. `drip`: one header after another, without end."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    drip: bool = False


class Receiver:
    """`answer` chooses what is said to each request; by default it takes all."""

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self._changed = threading.Condition()
        self._tls = tls
        self.port = 0
        self.requests: list[Request] = []
        self.taken: list[Request] = []
        """Those answered with 2xx."""
        self.answer: Callable[[Request], Say] = lambda request: Say(200)
        self.leaving = threading.Event()
        self.start()

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}/hook"

    def start(self) -> None:
        self.leaving.clear()
        self._server = _Server(("127.0.0.1", self.port), _Handler)
        self._server.receiver = self
        if self._tls:
            self._server.socket = self._tls.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        if self.leaving.is_set():
            return
        self.leaving.set()
        self._server.shutdown()
        self._thread.join(DEADLINE_S)
        self._server.server_close()

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        with self._changed:
            if not self._changed.wait_for(condition, DEADLINE_S):
                raise AssertionError(f"not within {DEADLINE_S} s: {what}; {len(self.requests)} requests")

    def take(self, request: Request) -> Say:
        said = self.answer(request)
        with self._changed:
            self.requests.append(request)
            if 200 <= said.status < 300:
                self.taken.append(request)
            self._changed.notify_all()
        return said


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
        if receiver.leaving.is_set():
            self.close_connection = True
            return
        said = receiver.take(Request(self.path, dict(self.headers), body))
        if said.status == 0:
            self.close_connection = True
            return
        self.send_response(said.status)
        for name, value in said.headers.items():
            self.send_header(name, value)
        if said.drip:
            self.flush_headers()
        while said.drip and not receiver.leaving.wait(0.05):
            self.wfile.write(b"X-More: 1\r\n")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass
