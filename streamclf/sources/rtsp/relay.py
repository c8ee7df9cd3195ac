"""Give FFmpeg the connection to an RTSP server through a port of this process: with limits, and without the password.

FFmpeg would read descriptions of any size, follow redirections to any host, and send the password there. The relay
connects to the configured host only, authenticates, and passes on what our own client would accept as well. UDP media
does not go through it.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from streamclf.errors import SourceError
from streamclf.sources.rtsp.address import parse_url, resolve_redirect
from streamclf.sources.rtsp.auth import Authenticator, choose_challenge
from streamclf.sources.rtsp.connection import RtspConnection, StopRequestedError
from streamclf.sources.rtsp.message import MAX_HEAD_BYTES, MalformedMessageError, RtspMessage, parse_head

MAX_REDIRECTIONS: Final = 3
MAX_JUNK_BYTES: Final = 256 << 10
MAX_BYTES: Final = 64 << 20
"""The most data before the first frame, and between two frames, over TCP."""
READ_BYTES: Final = 1 << 16
POLL_S: Final = 0.25
SEND_S: Final = 10.0
REDIRECTS: Final = frozenset({301, 302, 303, 305, 307, 308})
_SOURCE = re.compile(r";\s*source=[^;]*", re.IGNORECASE)
_AUTHORIZATION = re.compile(rb"\r\nauthorization:[^\r]*", re.IGNORECASE)


class RtspRelay:
    """A port on the loopback interface that stands for one RTSP server."""

    def __init__(
        self,
        url: str,
        *,
        shown: str,
        context: Callable[[], ssl.SSLContext],
        deadline: float,
        stop: threading.Event,
    ) -> None:
        """Connect to the server. `context` makes the TLS context of an rtsps URL.

        Raises `SourceError`, `OSError`, `TimeoutError` at `deadline`, `StopRequestedError`.
        """
        self._shown = shown
        self._address, self._credentials = parse_url(url, shown)
        self._context = context() if self._address.tls else None
        self._deadline = deadline
        self._stop = stop
        self._closed = threading.Event()
        self._redirections = 0
        self._bytes = 0
        self.failure: SourceError | None = None
        """The reason why the relay has ended the connection, if it has."""
        self._server: RtspConnection | None = self._connect()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(POLL_S)
        self._prefix = f"rtsp://127.0.0.1:{self._listener.getsockname()[1]}/{secrets.token_urlsafe(16)}"
        self.url = self._prefix + self._split(self._address.url)[1]
        """The URL that FFmpeg opens."""
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)
        self._thread.start()

    def add_frame(self) -> None:
        """Begin to count anew: a frame was decoded."""
        self._bytes = 0

    def add_bytes(self, count: int) -> None:
        """Count data of the server. Raises `SourceError` at the limit."""
        self._bytes += count
        if self._bytes > MAX_BYTES:
            raise SourceError(f"{self._shown}: {MAX_BYTES >> 20} MiB without a frame; check the camera")

    def close(self) -> None:
        """Close all connections."""
        self._closed.set()
        self._thread.join(2)

    def _connect(self) -> RtspConnection:
        return RtspConnection(self._address, context=self._context, deadline=self._deadline, stop=self._stop)

    def _split(self, url: str) -> tuple[str, str]:
        """Return scheme and host of a URL, and the rest of it."""
        end = re.search(r"[/?]", url[url.index("//") + 2 :])
        at = len(url) if end is None else url.index("//") + 2 + end.start()
        return url[:at], url[at:]

    def _run(self) -> None:
        try:
            while not self.is_closed:
                try:
                    client, _ = self._listener.accept()
                except TimeoutError:
                    continue
                with client, contextlib.suppress(OSError, StopRequestedError):
                    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    server = self._server or self._connect()
                    self._server = None
                    try:
                        _Pump(self, client, server).run()
                    except (MalformedMessageError, SourceError) as error:
                        self._fail(error)  # before FFmpeg notices the end of its connection
                        return
                    finally:
                        server.close()
        finally:
            self._listener.close()
            if self._server is not None:
                self._server.close()

    def _fail(self, error: Exception) -> None:
        if isinstance(error, SourceError):
            self.failure = error
        else:
            self.failure = SourceError(f"{self._shown}: the server sends {error}; check address and server")

    @property
    def is_closed(self) -> bool:
        """Whether the relay is to end."""
        return self._closed.is_set() or self._stop.is_set()

    def authenticator(self, response: RtspMessage) -> Authenticator | None:
        """Return what answers the challenge of a response; None if that is impossible."""
        challenge = choose_challenge(response.headers.get("www-authenticate", []))
        if challenge is None or self._credentials is None:
            return None
        return Authenticator(self._credentials, challenge)

    def to_server(self, url: str) -> str | None:
        """Return a URL of FFmpeg as the server knows it."""
        return self._split(self._address.url)[0] + url[len(self._prefix) :] if url.startswith(self._prefix) else None

    def redirected(self, location: str) -> str:
        """Follow a redirection with the next connection. Returns the URL for FFmpeg. Raises `SourceError`."""
        self._redirections += 1
        if self._redirections > MAX_REDIRECTIONS:
            raise SourceError(f"{self._shown}: redirects more than {MAX_REDIRECTIONS} times; check the server")
        self._address = resolve_redirect(self._address, location, self._shown)
        return self._prefix + self._split(self._address.url)[1]


class _Pump:
    """Pass data between FFmpeg and the server until one of them ends."""

    def __init__(self, relay: RtspRelay, client: socket.socket, server: RtspConnection) -> None:
        self._relay = relay
        self._client = client
        self._server = server
        self._from_client = b""
        self._from_server = b""
        self._request: tuple[bytes, str, str] = (b"", "", "")  # data, method, URL
        self._authenticator: Authenticator | None = None
        self._is_known = False
        self._is_retried = False
        self._has_played = False
        self._junk = 0

    def run(self) -> None:
        """Run until the end. Raises `MalformedMessageError` and `SourceError` for what the server must not send."""
        poll = select.poll()
        self._client.setblocking(False)
        poll.register(self._client, select.POLLIN)
        poll.register(self._server.fileno(), select.POLLIN)
        while not self._relay.is_closed:
            ready = [fileno for fileno, _ in poll.poll(POLL_S * 1000)]
            if self._client.fileno() in ready:
                data = self._client.recv(READ_BYTES)
                if not data:
                    return
                self._from_client += data
                if not self._pass_requests():
                    return
            if self._server.fileno() in ready:
                while (received := self._server.receive()) is not None:
                    if not received:
                        return
                    self._relay.add_bytes(len(received))
                    self._from_server += received
                    self._pass_responses()
                    if not self._server.holds_data:
                        break

    def _pass_requests(self) -> bool:
        """Pass on what FFmpeg sends. Returns False if it is not FFmpeg that sends."""
        while self._from_client:
            if self._from_client[:1] == b"$":
                end = _packet_end(self._from_client)
                if end is None:
                    return True
                self._server.send(self._from_client[:end], time.monotonic() + SEND_S)
            else:
                end = self._from_client.find(b"\r\n\r\n") + 4
                if end < 4:
                    return len(self._from_client) < MAX_HEAD_BYTES
                if not self._pass_request(self._from_client[:end]):
                    return False
            self._from_client = self._from_client[end:]
        return True

    def _pass_request(self, data: bytes) -> bool:
        line, rest = data.split(b"\r\n", 1)
        words = line.decode("latin-1").split(" ")
        if len(words) != 3 or words[0].startswith("RTSP/"):
            if self._is_known:
                self._server.send(data, time.monotonic() + SEND_S)  # a response to the server
            return self._is_known
        url = self._relay.to_server(words[1])
        self._is_known |= url is not None
        url = url or words[1]
        self._has_played |= words[0] == "PLAY"
        self._request = (rest, words[0], url)
        self._is_retried = False
        if self._is_known:
            self._send_request()
        return self._is_known

    def _send_request(self) -> None:
        rest, method, url = self._request
        line = f"{method} {url} RTSP/1.0\r\n"
        if self._authenticator is not None:
            rest = _AUTHORIZATION.sub(b"", b"\r\n" + rest)[2:]
            line += f"Authorization: {self._authenticator.header(method, url)}\r\n"
        self._server.send(line.encode("latin-1", "replace") + rest, time.monotonic() + SEND_S)

    def _pass_responses(self) -> None:
        data, at, passed = self._from_server, 0, bytearray()
        while at < len(data):
            if data[at] == 0x24:
                end = _packet_end(data, at)
                if end is None:
                    break
                passed += data[at:end]
                at, self._junk = end, 0
            elif data[at] in b"\r\n":
                at += 1
            elif data[at : at + 1].isalpha():
                found = self._message(at, passed)
                if found == at:
                    break
                at = found
            else:
                at = self._skip(at)
        self._from_server = data[at:]
        self._send_client(bytes(passed))

    def _message(self, at: int, passed: bytearray) -> int:
        """Pass on the message that begins at `at`. Returns its end; `at` if it is not complete."""
        data = self._from_server
        head_end = data.find(b"\r\n\r\n", at, at + MAX_HEAD_BYTES)
        if head_end < 0:
            return at if len(data) - at < MAX_HEAD_BYTES and data[at : at + 5].isascii() else self._skip(at)
        try:
            message, length = parse_head(data[at:head_end])
        except MalformedMessageError:
            if not self._has_played:
                raise
            return self._skip(at)
        end = head_end + 4 + length
        if end > len(data):
            return at
        self._junk = 0
        self._pass_message(replace(message, body=data[head_end + 4 : end]), data[at:head_end], passed)
        return end

    def _pass_message(self, message: RtspMessage, head: bytes, passed: bytearray) -> None:
        if message.status == 401 and not self._is_retried:
            authenticator = self._relay.authenticator(message)
            if authenticator is not None:
                self._authenticator, self._is_retried = authenticator, True
                self._send_request()
                return
        lines = head.decode("utf-8", "replace").split("\r\n")
        if message.status in REDIRECTS:
            location = self._relay.redirected(message.header("location"))
            lines = [line for line in lines if not line.lower().startswith("location:")] + [f"Location: {location}"]
        # FFmpeg sends its own packets to this address.
        lines = [
            f"{_SOURCE.sub('', line)};source={self._server.peer}" if _is_udp_transport(line) else line for line in lines
        ]
        passed += "\r\n".join([*lines, "", ""]).encode() + message.body

    def _skip(self, at: int) -> int:
        """Skip junk up to where a packet or response may begin."""
        if not self._has_played:
            raise MalformedMessageError("a response that is not RTSP")
        found = [i for i in (self._from_server.find(mark, at + 1) for mark in (b"$", b"RTSP/")) if i > 0]
        end = min(found, default=len(self._from_server))
        self._junk += end - at
        if self._junk > MAX_JUNK_BYTES:
            raise MalformedMessageError(f"{self._junk} bytes without a packet")
        return end

    def _send_client(self, data: bytes) -> None:
        """Send to FFmpeg, however long it does not read: a server that sends meanwhile waits."""
        rest = memoryview(data)
        poll = select.poll()
        poll.register(self._client, select.POLLOUT)
        while rest and not self._relay.is_closed:
            if poll.poll(POLL_S * 1000):
                rest = rest[self._client.send(rest) :]


def _is_udp_transport(line: str) -> bool:
    name, _, value = line.lower().partition(":")
    return name.strip() == "transport" and "/tcp" not in value and "multicast" not in value


def _packet_end(data: bytes, at: int = 0) -> int | None:
    """Return the end of the interleaved packet at `at`; None if it is not complete."""
    if len(data) - at < 4:
        return None
    end = at + 4 + (data[at + 2] << 8 | data[at + 3])
    return end if end <= len(data) else None
