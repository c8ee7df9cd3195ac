"""Serve pages for other programs over HTTP: a token beyond loopback, and limits for slow clients.

Each connection has a thread and a deadline. When there are too many, a connection that has not sent its request is
closed, not the newest one: a probe sends its request at once, so slow clients cannot keep it out.
"""

from __future__ import annotations

import contextlib
import hmac
import http.client
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, BinaryIO, Final, TypeAlias
from urllib.parse import urlsplit

from streamclf.errors import BusError, UsageError
from streamclf.net.endpoints import is_loopback_host

PageFunction: TypeAlias = Callable[[], tuple[int, str, bytes]]
"""Make a page: return HTTP status, content type and body."""

MAX_CONNECTIONS: Final = 64
MAX_HEAD_BYTES: Final = 16 << 10
"""The longest request. The library accepts 100 header lines of 64 KiB each, on every connection."""
_REQUEST_S = 5.0
"""Time-out of each read and write of a connection."""
_CONNECTION_S = 10.0
"""Longest duration of a connection, also of one that sends a byte now and then."""
_POLL_S = 0.2
"""Interval at which the server checks for its end and for overdue connections."""


class PageServer:
    """Serve `pages` in threads of its own while inside `with`.

    Raises `UsageError` for an address beyond loopback without a token, and `BusError` for a port in use.
    """

    def __init__(self, host: str, port: int, pages: Mapping[str, PageFunction], token: str | None) -> None:
        if not 0 <= port <= 65535:
            raise UsageError(f"port={port}: 0 (any free port) to 65535")
        is_loopback = is_loopback_host(host)
        if not is_loopback and token is None:
            raise UsageError(
                f"host {host}: anybody in the network could read the pages; give --token-file FILE, "
                "or stay on 127.0.0.1"
            )
        server_class = _Ipv6HttpServer if ":" in host else _HttpServer
        try:
            self._server = server_class((host, port), _Handler)
        except OSError as error:
            raise BusError(f"{host}:{port}: {error.strerror}; give another --host or --port") from error
        self._server.pages, self._server.token = pages, token
        self._server.checks_host = is_loopback and token is None
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_S,), name="metrics-http", daemon=True
        )

    def __enter__(self) -> PageServer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._thread.join(2.0)
        self._server.server_close()

    @property
    def address(self) -> str:
        """The bound address as HOST:PORT."""
        host, port = self._server.server_address[:2]
        return f"[{host!s}]:{port}" if ":" in str(host) else f"{host!s}:{port}"


@dataclass(slots=True, kw_only=True)
class _Connection:
    """A connection of `host`; `is_answering` once its request has arrived."""

    host: str
    is_local: bool
    is_answering: bool = False
    deadline_s: float = field(default_factory=lambda: time.monotonic() + _CONNECTION_S)


def _choose_victim(connections: Mapping[socket.socket, _Connection], new: _Connection) -> socket.socket | None:
    """Choose the connection that `new` replaces; None if `new` may replace none.

    Connections that wait for their request go first, then those of the host with the most connections, then the oldest.
    A connection from another machine never replaces one of this machine, where the probes of a supervisor come from.
    """
    per_host = Counter(each.host for each in connections.values())
    candidates = [
        (each.is_answering, each.is_local, -per_host[each.host], age, request)
        for age, (request, each) in enumerate(connections.items())
        if new.is_local or not each.is_local
    ]
    return min(candidates)[-1] if candidates else None


def _shut_down(request: socket.socket) -> None:
    with contextlib.suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)


class _HttpServer(ThreadingHTTPServer):
    """Limit the number of connections and the duration of each."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 512
    pages: Mapping[str, PageFunction]
    token: str | None = None
    checks_host = True
    """Whether a request must name this machine in its Host header."""

    def __init__(self, *arguments: Any) -> None:
        self._connections: dict[socket.socket, _Connection] = {}  # the oldest first
        self._lock = threading.Lock()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        new = _Connection(host=client_address[0], is_local=is_loopback_host(client_address[0]))
        with self._lock:
            victim = request if len(self._connections) >= MAX_CONNECTIONS else None
            if victim is not None:
                victim = _choose_victim(self._connections, new) or request
                self._connections.pop(victim, None)
            if victim is not request:
                self._connections[request] = new
        if victim is not None:
            _shut_down(victim)  # its thread closes it
        if victim is request:
            self.shutdown_request(request)
        else:
            super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Close connections whose deadline has passed, such as one that sends a byte now and then.

        `serve_forever` calls this between connections and several times a second.
        """
        with self._lock:
            overdue = [request for request, each in self._connections.items() if time.monotonic() > each.deadline_s]
        for request in overdue:
            _shut_down(request)

    def mark_answering(self, request: Any) -> None:
        """Note that the whole request of this connection has arrived."""
        with self._lock:
            if connection := self._connections.get(request):
                connection.is_answering = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a client that disconnected; the library would print a traceback."""


class _Ipv6HttpServer(_HttpServer):
    address_family = socket.AF_INET6


class _HeadReader:
    """Read the lines of one request, `MAX_HEAD_BYTES` at most."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._left = file, MAX_HEAD_BYTES

    def readline(self, size: int) -> bytes:
        """Read a line of at most `size` bytes. Raises `LineTooLong`, which the library answers with status 431."""
        line = self._file.readline(min(size, self._left + 1))
        self._left -= len(line)
        if self._left < 0:
            raise http.client.LineTooLong(f"request of more than {MAX_HEAD_BYTES} bytes")
        return line

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class _Handler(BaseHTTPRequestHandler):
    """Answer one request a connection."""

    server: _HttpServer
    server_version = "streamclf"
    sys_version = ""
    timeout = _REQUEST_S

    def setup(self) -> None:
        super().setup()
        self.rfile: Any = _HeadReader(self.rfile)

    def do_GET(self) -> None:
        """Send the page if this client may read it."""
        self.server.mark_answering(self.connection)
        path = urlsplit(self.path).path
        page = self.server.pages.get(path)
        if page is None:
            return self._send(404, "text/plain", f"one of {', '.join(self.server.pages)}\n".encode())
        if self.server.checks_host and not self._names_this_machine():
            return self._send(403, "text/plain", b"the Host header does not name this machine\n")
        if not self._may_read():
            if path != "/healthz":
                return self._send(401, "text/plain", b"Authorization: Bearer TOKEN\n", {"WWW-Authenticate": "Bearer"})
            return self._send(page()[0], "text/plain", b"")  # a probe needs the status only; the body names streams
        return self._send(*page())

    def _may_read(self) -> bool:
        token = self.server.token
        given = self.headers.get("Authorization", "").encode("utf-8", "replace")
        return token is None or hmac.compare_digest(given, f"Bearer {token}".encode())

    def _names_this_machine(self) -> bool:
        """Check the Host header. Otherwise a web page could read them through a domain that resolves to 127.0.0.1."""
        try:
            return is_loopback_host(urlsplit(f"//{self.headers.get('Host', '')}").hostname or "127.0.0.1")
        except ValueError:
            return False

    def _send(self, status: int, content_type: str, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Log nothing: each scrape would add a line."""
