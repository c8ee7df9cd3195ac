"""Give FFmpeg the data of a web server through a port of this process, with limits on bytes, requests and targets."""

from __future__ import annotations

import contextlib
import http.client
import secrets
import socket
import socketserver
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler
from typing import Any, Final
from urllib.parse import urlsplit

from streamclf.errors import SourceError, SourceRefusedError
from streamclf.sources.web.client import PORTS, WebAddress, WebClient, WebResponse, parse_web_url
from streamclf.sources.web.playlist import MAX_PLAYLIST_BYTES, START, rewrite_playlist

MAX_BYTES: Final = 64 << 20
"""The most data before the first frame, and between two frames. A segment of 4K video has up to 40 MB."""
MAX_REQUESTS: Final = 200
"""The most requests before the first frame, and between two frames."""
MAX_CONNECTIONS: Final = 64
POLL_S: Final = 0.1
"""A stop request is noticed within this time."""
READ_BYTES: Final = 1 << 16
SEND_BUFFER_BYTES: Final = 1 << 18
"""Data waits here until FFmpeg reads it. The system's own size, several MB for each connection, is too much."""
PLAYLIST_TYPES: Final = frozenset(
    {"application/vnd.apple.mpegurl", "application/x-mpegurl", "audio/mpegurl", "audio/x-mpegurl"}
)
PLAYLIST_SUFFIXES: Final = (".m3u8", ".m3u", ".hls")
HEADERS: Final = ("Content-Type", "Content-Range", "Accept-Ranges")


class WebRelay:
    """A server on a loopback port that fetches for FFmpeg, which itself contacts no other server."""

    def __init__(self, url: str, *, shown: str, context: ssl.SSLContext, open_s: float, stop: threading.Event) -> None:
        """Request `url`, and wait for the response's header. All connections end when `stop` is set.

        Raises `SourceRefusedError` for what a server must not do, `OSError` (`TimeoutError`) and
        `http.client.HTTPException` if there is no response.
        """
        self.shown = shown
        self._lock = threading.Lock()
        self._bytes = self._requests = 0
        self._socks: set[socket.socket] = set()
        self.failure: SourceError | None = None
        """The reason why the relay gives FFmpeg no more data."""
        self._token = secrets.token_urlsafe(16)
        self._client = WebClient(url, shown=shown, context=context, timeout_s=open_s)
        self._stop = stop
        deadline = time.monotonic() + open_s
        has_answered = threading.Event()

        def give_up_late() -> None:
            while not has_answered.wait(POLL_S):
                if stop.is_set() or time.monotonic() >= deadline:
                    self._client.close()
                    return

        threading.Thread(target=give_up_late, name="relay", daemon=True).start()
        try:
            self._first: WebResponse | None = self._client.fetch(self._client.address, "bytes=0-")
        except (OSError, http.client.HTTPException):
            self._client.close()
            if time.monotonic() >= deadline:
                raise TimeoutError from None
            raise
        except SourceError:
            self._client.close()
            raise
        finally:
            has_answered.set()
        self.content_type = (self._first.raw.getheader("Content-Type") or "").lower()
        self._server = _Server(self)
        port = self._server.server_address[1]
        self._base = f"http://127.0.0.1:{port}/{self._token}"
        self.url = self._url_for(self._client.address)
        """The URL that FFmpeg opens."""
        self.options = {"http_proxy": f"http://127.0.0.1:{port}", "protocol_whitelist": "http,tcp,crypto,hls,data"}
        """FFmpeg's options: everything goes through this port, whatever the environment says."""
        self._thread = threading.Thread(target=self._server.serve_forever, args=(POLL_S,), name="relay", daemon=True)
        self._thread.start()

    @property
    def is_playlist(self) -> bool:
        """Whether FFmpeg takes the response for an HLS playlist: by its type, or by the suffix of its URL."""
        path = self._client.address.path.partition("?")[0].lower()
        return self.content_type.partition(";")[0].strip() in PLAYLIST_TYPES or path.endswith(PLAYLIST_SUFFIXES)

    def add_frame(self) -> None:
        """Begin to count anew: a frame was decoded."""
        self._bytes = self._requests = 0

    def close(self) -> None:
        """Close all connections."""
        self._end_connections()
        with self._lock:
            first, self._first = self._first, None
        if first is not None:  # FFmpeg has never asked for it
            self._client.release(first)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(2)

    def fail(self, error: SourceError) -> None:
        """Record why FFmpeg gets no more data, and end the connections."""
        with self._lock:
            self.failure = self.failure or error
        self._end_connections()

    def end_if_stopped(self) -> None:
        """End the connections if a stop is requested."""
        if self._stop.is_set():
            self._end_connections()

    def _end_connections(self) -> None:
        self._client.close()
        with self._lock:
            socks = list(self._socks)
        for sock in socks:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def begin(self, sock: socket.socket) -> bool:
        """Add a connection of FFmpeg. Returns whether it may be served."""
        with self._lock:
            if self.failure is not None or len(self._socks) >= MAX_CONNECTIONS:
                return False
            self._socks.add(sock)
            return True

    def end(self, sock: socket.socket) -> None:
        """Remove a connection of FFmpeg."""
        with self._lock:
            self._socks.discard(sock)

    def add_bytes(self, count: int) -> None:
        """Count data. Raises `SourceRefusedError` at the limit."""
        with self._lock:
            self._bytes += count
            is_too_much = self._bytes > MAX_BYTES
        if is_too_much:
            raise SourceRefusedError(
                f"{self.shown}: {MAX_BYTES >> 20} MiB without a frame; check that the URL is that of a video"
            )

    def fetch(self, target: str, byte_range: str | None) -> WebResponse:
        """Fetch the URL that `url_for` has put into a path of this relay. Raises as `WebClient.fetch`, `ValueError`."""
        with self._lock:
            self._requests += 1
            is_too_much = self._requests > MAX_REQUESTS
            first, is_first = self._first, self._first is not None and byte_range in (None, "bytes=0-")
            if is_first:
                self._first = None
        if is_too_much:
            raise SourceRefusedError(
                f"{self.shown}: {MAX_REQUESTS} requests without a frame; give the URL of one variant of the stream"
            )
        address = self._target(target)
        if first is not None and is_first:
            if address == self._client.address:
                return first
            self._client.release(first)
        return self._client.fetch(address, byte_range)

    def release(self, response: WebResponse) -> None:
        """End a response."""
        self._client.release(response)

    def rewritten(self, response: WebResponse, head: bytes) -> bytes:
        """Read a playlist that begins with `head`. Returns it with the relay's URLs."""
        body = bytearray(head)
        while data := response.read(READ_BYTES):
            body += data
            if len(body) > MAX_PLAYLIST_BYTES:
                raise SourceRefusedError(
                    f"{self.shown}: a playlist of more than {MAX_PLAYLIST_BYTES >> 20} MiB; make it shorter"
                )
        try:
            return rewrite_playlist(bytes(body), response.address.url, self._relayed)
        except ValueError as error:
            raise SourceRefusedError(f"{self.shown}: its playlist has a target that is not allowed: {error}") from None

    def is_path(self, path: str) -> bool:
        """Return whether `path` has the secret part."""
        return secrets.compare_digest(path[1 : 1 + len(self._token)].encode(), self._token.encode())

    def _relayed(self, url: str) -> str:
        address, _ = parse_web_url(url)
        return self._url_for(address)

    def _url_for(self, address: WebAddress) -> str:
        return f"{self._base}/{address.scheme}/{address.place}{address.path}"

    def _target(self, path: str) -> WebAddress:
        scheme, _, rest = path[2 + len(self._token) :].partition("/")
        if scheme not in PORTS:
            raise ValueError("not a path of this relay")
        return parse_web_url(f"{scheme}://{rest}")[0]


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 16

    def __init__(self, relay: WebRelay) -> None:
        self.relay = relay
        super().__init__(("127.0.0.1", 0), _Handler)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        return self.relay.begin(request)

    def shutdown_request(self, request: Any) -> None:
        self.relay.end(request)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        self.relay.end_if_stopped()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Do nothing: FFmpeg has closed the connection."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def do_GET(self) -> None:
        """Fetch for FFmpeg."""
        relay = self.server.relay
        path = self.path
        if path.startswith("http://"):  # a request to a proxy
            parts = urlsplit(path)
            path = parts.path + (f"?{parts.query}" if parts.query else "")
        if not relay.is_path(path):
            self._answer_empty(403)
            return
        try:
            response = relay.fetch(path, self.headers.get("Range"))
        except SourceError as error:
            relay.fail(error)
            self._answer_empty(403)
        except ValueError:
            self._answer_empty(400)
        except (OSError, http.client.HTTPException):
            self._answer_empty(502)
        else:
            try:
                self._pass_on(relay, response)
            except SourceError as error:
                self.close_connection = True
                relay.fail(error)
            except (OSError, http.client.HTTPException):
                self.close_connection = True  # one side has closed its connection
            finally:
                relay.release(response)

    def _pass_on(self, relay: WebRelay, response: WebResponse) -> None:
        raw = response.raw
        if (raw.getheader("Content-Encoding") or "identity").lower() != "identity":
            raise SourceRefusedError(f"{relay.shown}: the server compresses its responses; switch that off there")
        head = b""
        while len(head) < len(START) and (data := response.read(READ_BYTES)):
            head += data
        if raw.status in (200, 206) and head.startswith(START):
            head = relay.rewritten(response, head)
            self._begin(200, {"Content-Type": raw.getheader("Content-Type")}, len(head))
        else:
            length = raw.getheader("Content-Length") if raw.length is not None or raw.isclosed() else None
            self._begin(raw.status, {name: raw.getheader(name) for name in HEADERS}, length)
        self._send(relay, head)
        while data := response.read(READ_BYTES):
            self._send(relay, data)
        if not response.is_complete:
            self.close_connection = True  # it has ended early

    def _send(self, relay: WebRelay, data: bytes) -> None:
        relay.add_bytes(len(data))
        self.wfile.write(data)

    def _begin(self, status: int, headers: dict[str, str | None], length: str | int | None) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if value is not None and value.isprintable():
                self.send_header(name, value)
        if length is None:
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(length))
        if self.close_connection:  # FFmpeg would send its next request on this connection, even if it requested its end
            self.send_header("Connection", "close")
        self.end_headers()

    def _answer_empty(self, status: int) -> None:
        with contextlib.suppress(OSError):
            self._begin(status, {}, 0)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class has this name
        """Log nothing."""
