"""Fetch HTTP resources: redirects within a host, credentials for the configured server only, checked addresses."""

from __future__ import annotations

import base64
import contextlib
import http.client
import re
import socket
import ssl
import threading
import urllib.request
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, unquote, urljoin, urlsplit

from streamclf.errors import SourceError, SourceRefusedError
from streamclf.sources.rtsp.address import Credentials
from streamclf.sources.rtsp.auth import Authenticator, choose_challenge
from streamclf.sources.web.targets import Targets

USER_AGENT: Final = "streamclf"
MAX_REDIRECTIONS: Final = 3
MAX_URL_CHARS: Final = 3000
READ_S: Final = 60.0
"""A connection without data for this long is closed; FFmpeg gives up earlier, after the source's time-outs."""
MAX_IDLE: Final = 8
"""Idle connections that are kept for further requests."""
PORTS: Final = {"http": 80, "https": 443}
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_UNSAFE = re.compile(r"[^!-~]")


@dataclass(frozen=True, slots=True, kw_only=True)
class WebAddress:
    """A URL in parts, without user and password."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port."""
        return self.scheme, self.host, self.port

    @property
    def place(self) -> str:
        """Host and port as in a URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if PORTS[self.scheme] == self.port else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The whole URL."""
        return f"{self.scheme}://{self.place}{self.path}"


def parse_web_url(url: str) -> tuple[WebAddress, Credentials | None]:
    """Parse an http or https URL. Raises `ValueError` for any other."""
    text = _UNSAFE.sub(lambda match: quote(match[0], safe=""), url.strip())
    parts = urlsplit(text)
    scheme = parts.scheme.lower()
    if scheme not in PORTS or not parts.hostname or len(text) > MAX_URL_CHARS:
        raise ValueError(f"not an http or https URL of at most {MAX_URL_CHARS} characters")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    port = PORTS[scheme] if parts.port is None else parts.port
    address = WebAddress(scheme=scheme, host=parts.hostname.lower(), port=port, path=path)
    user, at, _ = parts.netloc.rpartition("@")
    name, _, password = user.partition(":")
    return address, Credentials(user=unquote(name), password=unquote(password)) if at else None


@dataclass(slots=True, kw_only=True)
class WebResponse:
    """A response whose body has not been read."""

    address: WebAddress
    """The address after redirects."""
    raw: http.client.HTTPResponse
    connection: http.client.HTTPConnection
    sock: socket.socket

    def read(self, size: int) -> bytes:
        """Return the bytes that are available, at most `size`; empty at the end. Raises `OSError`, `HTTPException`."""
        data = self.raw.read1(size)
        if not data and self.raw.length == 0:
            self.raw.read()  # before Python 3.12 only this ends the response
        return data

    @property
    def is_complete(self) -> bool:
        """Whether the body was read to its declared end."""
        return self.raw.isclosed() and not self.raw.length


class WebClient:
    """Fetch resources for one source. Thread-safe."""

    def __init__(self, url: str, *, shown: str, context: ssl.SSLContext, timeout_s: float) -> None:
        """`url`: the configured one. Errors begin with `shown`. Raises `SourceError` for a URL that is none."""
        try:
            self.address, self._credentials = parse_web_url(url)
        except ValueError as error:
            raise SourceError(f"{shown}: {error}; check the URL") from None
        self._shown = shown
        self._context = context
        self._timeout_s = timeout_s
        self._targets = Targets(self.address.host, shown)
        self._lock = threading.Lock()
        self._authenticator: Authenticator | None = None
        self._idle: list[tuple[tuple[str, str, int], http.client.HTTPConnection]] = []
        self._open: set[socket.socket] = set()
        self._closed = False
        self._proxies = urllib.request.getproxies()

    def fetch(self, address: WebAddress, byte_range: str | None) -> WebResponse:
        """Request `address`, and follow redirects.

        Raises `SourceRefusedError` for what a server must not do, `OSError` and `http.client.HTTPException` for
        failures.
        """
        for _ in range(MAX_REDIRECTIONS + 1):
            response = self._authenticated(address, byte_range)
            location = response.raw.getheader("Location")
            if response.raw.status not in REDIRECTS or not location:
                return response
            self.release(response)
            address = self._redirected(address, location)
        raise SourceRefusedError(f"{self._shown}: redirects more than {MAX_REDIRECTIONS} times; check the server")

    def release(self, response: WebResponse) -> None:
        """End a response: keep its connection if it was read to its end, else close it."""
        raw, connection = response.raw, response.connection
        with self._lock:
            self._open.discard(response.sock)
            if response.is_complete and connection.sock is not None and not self._closed and len(self._idle) < MAX_IDLE:
                self._idle.append((response.address.origin, connection))
                return
        raw.close()
        connection.close()

    def close(self) -> None:
        """Close all connections, also those that another thread reads."""
        with self._lock:
            self._closed = True
            reading, idle = list(self._open), [connection for _, connection in self._idle]
            self._idle.clear()
        for sock in reading:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # wakes the thread that reads it, also with TLS
        for connection in idle:
            connection.close()

    def _redirected(self, address: WebAddress, location: str) -> WebAddress:
        try:
            found, _ = parse_web_url(urljoin(address.url, location))
        except ValueError as error:
            raise SourceRefusedError(f"{self._shown}: redirects to an invalid address: {error}") from None
        if found.host != address.host:
            raise SourceRefusedError(
                f"{self._shown}: redirects to another host; configure the URL of that host if you trust it"
            )
        if address.scheme == "https" and found.scheme != "https":
            raise SourceRefusedError(
                f"{self._shown}: redirects from https to http, without encryption; configure that URL if you trust it"
            )
        return found

    def _authenticated(self, address: WebAddress, byte_range: str | None) -> WebResponse:
        """Request `address`; answer a challenge of the configured server with the configured credentials."""
        may_know = self._may_know_credentials(address)
        response = self._request(address, byte_range, self._authorization(address) if may_know else None)
        if response.raw.status != 401 or self._credentials is None or not may_know:
            return response
        challenge = choose_challenge(response.raw.headers.get_all("WWW-Authenticate") or [])
        if challenge is None or (self._authenticator is not None and not challenge.is_stale):
            return response
        self.release(response)
        self._authenticator = Authenticator(self._credentials, challenge)
        return self._request(address, byte_range, self._authorization(address))

    def _may_know_credentials(self, address: WebAddress) -> bool:
        """Return whether `address` is the configured server, or the same host with encryption."""
        own = self.address
        return address.origin == own.origin or (
            address.host == own.host and (own.scheme, address.scheme) == ("http", "https")
        )

    def _authorization(self, address: WebAddress) -> str | None:
        return None if self._authenticator is None else self._authenticator.header("GET", address.path)

    def _request(self, address: WebAddress, byte_range: str | None, authorization: str | None) -> WebResponse:
        headers = {"User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity"}
        if byte_range:
            headers["Range"] = byte_range
        if authorization:
            headers["Authorization"] = authorization
        proxy = self._proxy(address)
        path = address.path
        if proxy is not None and address.scheme == "http":
            path = address.url
            headers |= _proxy_headers(proxy[1])
        while True:
            connection = self._idle_connection(address)
            is_reused = connection is not None
            connection = connection or self._new_connection(address, proxy)
            try:
                connection.request("GET", path, headers=headers)
                sock = connection.sock
                sock.settimeout(self._timeout_s)
                self._register(sock)
                raw = connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if is_reused and not isinstance(error, TimeoutError) and not self._closed:
                    continue  # the server has closed the idle connection
                raise
            sock.settimeout(READ_S)
            return WebResponse(address=address, raw=raw, connection=connection, sock=sock)

    def _idle_connection(self, address: WebAddress) -> http.client.HTTPConnection | None:
        with self._lock:
            for i, (origin, connection) in enumerate(self._idle):
                if origin == address.origin:
                    del self._idle[i]
                    return connection
        return None

    def _register(self, sock: socket.socket) -> None:
        with self._lock:
            if self._closed:
                raise ConnectionAbortedError("closed")
            # A connection that failed has closed its socket.
            self._open = {other for other in self._open if other.fileno() >= 0} | {sock}

    def _new_connection(
        self, address: WebAddress, proxy: tuple[WebAddress, Credentials | None] | None
    ) -> http.client.HTTPConnection:
        peer = address if proxy is None else proxy[0]
        timeout_s = self._timeout_s

        def dial(place: tuple[str, int], *_: Any) -> Any:
            if proxy is None:
                return self._targets.connect(place[0], place[1], timeout_s)
            self._check_behind_proxy(address)
            return Targets(place[0], self._shown).connect(place[0], place[1], timeout_s)

        connection: Any
        if address.scheme == "https":
            connection = http.client.HTTPSConnection(peer.host, peer.port, timeout=timeout_s, context=self._context)
            if proxy is not None:
                connection.set_tunnel(address.host, address.port, headers=_proxy_headers(proxy[1]))
        else:
            connection = http.client.HTTPConnection(peer.host, peer.port, timeout=timeout_s)
        connection._create_connection = dial  # the standard library has no public way to choose the address
        return connection  # type: ignore[no-any-return]

    def _check_behind_proxy(self, address: WebAddress) -> None:
        """Refuse private targets behind a proxy as far as names can be resolved here."""
        try:
            self._targets.resolve(address.host, address.port)
        except OSError:
            return

    def _proxy(self, address: WebAddress) -> tuple[WebAddress, Credentials | None] | None:
        url = self._proxies.get(address.scheme) or self._proxies.get("http")
        if not url or urllib.request.proxy_bypass(f"{address.host}:{address.port}"):
            return None
        try:
            return parse_web_url(url if "://" in url else f"http://{url}")
        except ValueError:
            raise SourceError(f"{self._shown}: http_proxy is not an http URL; correct or unset it") from None


def _proxy_headers(credentials: Credentials | None) -> dict[str, str]:
    if credentials is None:
        return {}
    pair = f"{credentials.user}:{credentials.password}".encode()
    return {"Proxy-Authorization": f"Basic {base64.b64encode(pair).decode()}"}
