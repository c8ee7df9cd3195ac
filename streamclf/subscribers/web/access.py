"""Decide which requests the page answers: their Host and Origin, the login, and tokens in the wrong place.

On loopback there is no login. A web page of another origin could still send requests to the loopback address, or
resolve its own name to it (DNS rebinding); the Host, Origin and Sec-Fetch headers show both. Beyond loopback each
request needs the cookie of a login, or for REST the token in a header.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from streamclf.net.endpoints import is_loopback_host
from streamclf.net.signer import Signer
from streamclf.subscribers.web.sessions import LoginLimit, Sessions

COOKIE: Final = "streamclf_session"
SHARED_PREFIX: Final = "/shared/"
"""Paths under it need no login: each holds a signature of its own, which its route verifies."""
API_PREFIX: Final = "/api/"
_OPEN_PATHS: Final = ("/login", "/favicon.ico", "/static/favicon.svg", "/static/login.css", "/static/page.css")
_TOKEN_KEYS: Final = frozenset({"token", "access_token", "auth", "authorization", "password", "secret", "bearer"})
_REFUSED_ADDRESS: Final = "a token in the address is refused; log in, or send Authorization: Bearer TOKEN"
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_MAX_COOKIE_CHARS: Final = 8192
_PROXY_HEADERS: Final = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")


@dataclass(frozen=True, slots=True)
class Request:
    """The parts of an HTTP request or a WebSocket handshake that decide on access. Header names are lower case."""

    path: str
    query: str
    method: str
    headers: Mapping[str, str]
    client: str
    """Address of the client."""
    is_websocket: bool = False

    @property
    def cookie(self) -> str:
        """The value of the session cookie; empty without one."""
        text = self.headers.get("cookie", "")
        try:
            found = SimpleCookie(text).get(COOKIE) if len(text) <= _MAX_COOKIE_CHARS else None
        except CookieError:
            found = None
        return found.value if found else ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer instead of the requested one."""

    status: int
    reason: str
    headers: Mapping[str, str] = field(default_factory=dict)
    to_login: bool = False
    """Whether a browser is sent to the login form."""


def request_of(scope: Mapping[str, Any]) -> Request:
    """Make the `Request` of an ASGI scope of the type http or websocket."""
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        key = name.decode("latin-1").lower()
        headers[key] = f"{headers[key]}; {value.decode('latin-1')}" if key in headers else value.decode("latin-1")
    return Request(
        path=scope["path"],
        query=scope.get("query_string", b"").decode("latin-1"),
        method=scope.get("method", "GET"),
        headers=headers,
        client=scope["client"][0] if scope.get("client") else "",
        is_websocket=scope["type"] == "websocket",
    )


class Access:
    """Check each request before anything else reads it. `token` is None only on loopback."""

    def __init__(self, token: str | None) -> None:
        self._token = token
        self.signer = Signer(token)
        self.sessions = Sessions(self.signer)
        self.limit = LoginLimit()

    @property
    def needs_login(self) -> bool:
        """Whether a browser must log in."""
        return self._token is not None

    def check(self, request: Request) -> Refusal | None:
        """Return why `request` is refused; None if it may pass."""
        return (
            self._check_keys(request)
            or self._check_sender(request)
            or self._check_login(request)
            or self._check_values(request)
        )

    def try_token(self, given: str, client: str) -> Refusal | None:
        """Check a token that `client` gives, and count a failure; None if it is right."""
        now_s = time.monotonic()
        wait_s = self.limit.wait_s(client, now_s)
        if wait_s > 0:
            return Refusal(
                429,
                f"too many failed logins from this address; try again in {wait_s:.0f} s",
                {"Retry-After": str(int(wait_s) + 1)},
            )
        if self._token is None or hmac.compare_digest(given.encode("utf-8", "replace"), self._token.encode()):
            self.limit.note_success(client)
            return None
        self.limit.note_failure(client, now_s)
        return Refusal(401, "wrong token", {"WWW-Authenticate": "Bearer"})

    @staticmethod
    def _check_keys(request: Request) -> Refusal | None:
        """Refuse a token in the address: it would stay in histories and in logs of proxies."""
        is_named = any(key.lower() in _TOKEN_KEYS for key, _ in _parameters(request.query))
        return Refusal(400, _REFUSED_ADDRESS) if is_named else None

    def _check_values(self, request: Request) -> Refusal | None:
        """Refuse the token under any name, after the login only: else the answer would confirm a guess of the token."""
        token = self._token
        if token is None or _needs_no_login(request.path):
            return None
        is_given = any(token in value for _, value in _parameters(request.query))
        return Refusal(400, _REFUSED_ADDRESS) if is_given else None

    def _check_sender(self, request: Request) -> Refusal | None:
        headers = request.headers
        host = headers.get("host", "")
        if self._token is None:
            if not _names_loopback(host):
                return Refusal(
                    403, f"the Host header {host[:200]!r} does not name this machine; open http://127.0.0.1:PORT"
                )
            if any(name in headers for name in _PROXY_HEADERS):
                return Refusal(
                    403, "the request came through a proxy; set a token for the page (outlets.web.token_file)"
                )
        origin = headers.get("origin")
        changes = request.is_websocket or request.method not in _SAFE_METHODS
        if origin is not None and (changes or origin == "null") and not _same_host(origin, host):
            return Refusal(403, f"the Origin header does not match the Host header {host[:200]!r}")
        site = headers.get("sec-fetch-site", "none")
        if site in ("cross-site", "same-site") and (changes or headers.get("sec-fetch-mode") != "navigate"):
            return Refusal(403, "a page of another origin sent this request; open this page itself")
        if changes and origin is None and site == "none" and request.cookie and not request.is_websocket:
            return Refusal(403, "a request with a cookie needs an Origin header; programs send Authorization: Bearer")
        return None

    def _check_login(self, request: Request) -> Refusal | None:
        path = request.path
        if self._token is None or _needs_no_login(path):
            return None
        if self.sessions.is_valid(request.cookie):
            return None
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and path.startswith(API_PREFIX):
            return self.try_token(given.strip(), request.client)
        return Refusal(
            401, "log in, or send Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"}, to_login=True
        )


def _needs_no_login(path: str) -> bool:
    return path in _OPEN_PATHS or path.startswith(SHARED_PREFIX)


def local_path(text: str) -> str:
    """Return `text` if it is a path on this page, to go to after the login; else the first page."""
    is_local = text.startswith("/") and not text.startswith(("//", "/\\")) and text.isprintable() and len(text) < 2048
    return text if is_local and not text.startswith("/login") else "/"


def _parameters(query: str) -> Iterable[tuple[str, str]]:
    try:
        return parse_qsl(query, keep_blank_values=True, max_num_fields=64)
    except ValueError:
        return [("token", "")]  # more parameters than any request of the page has


def _names_loopback(host: str) -> bool:
    try:
        return is_loopback_host(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return False


def _same_host(origin: str, host: str) -> bool:
    """Return whether the origin is that of the requested host. A proxy may end TLS, so the scheme may differ."""
    try:
        parts = urlsplit(origin)
        own = urlsplit(f"//{host}")
        default = {"http": 80, "https": 443}.get(parts.scheme)
        if default is None or not parts.hostname:
            return False
        return parts.hostname == own.hostname and (parts.port or default) == (own.port or default)
    except ValueError:
        return False
