"""Wrap the page's application: check access, limit requests, and add the headers that restrict browsers."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable
from html import escape
from typing import Any, Final
from urllib.parse import quote

from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from streamclf.subscribers.web.access import API_PREFIX, SHARED_PREFIX, Access, Refusal, Request, request_of

MAX_HEAD_BYTES: Final = 32 << 10
"""Longest head of a request."""
MAX_BODY_BYTES: Final = 1 << 20
"""Longest body of a request: a configuration is at most this long."""
BODY_S: Final = 15.0
"""Time in which the whole body of a request must arrive."""
_DROPPED_HEADERS: Final = frozenset({b"x-forwarded-prefix"})
"""NiceGUI writes this header's value into its pages."""
_HEADERS: Final = (
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_POLICY: Final = (
    "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; style-src 'self' 'unsafe-inline'; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; script-src 'self'"
)


def policy_for(nonce: str | None) -> str:
    """Return the Content-Security-Policy. With `nonce`, for a page of NiceGUI.

    NiceGUI's pages have inline scripts, which get the nonce. Vue compiles templates in the browser, for which it needs
    'unsafe-eval'. Vue and Quasar set style attributes, for which they need 'unsafe-inline' in `style-src`.
    """
    return _POLICY if nonce is None else f"{_POLICY} 'nonce-{nonce}' 'unsafe-eval'"


class PageGuard:
    """The outermost ASGI application. It wraps `app` and passes on only what `access` permits.

    `is_full` returns whether as many browsers are connected as the page serves.
    """

    def __init__(self, app: ASGIApp, access: Access, is_full: Callable[[], bool]) -> None:
        self.app = app
        self._access = access
        self._is_full = is_full

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request or WebSocket."""
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        request = request_of(scope)
        refusal = _check_size(scope) or self._access.check(request)
        scope["headers"] = [*_kept_headers(scope["headers"], request.path)]
        if scope["type"] == "websocket":
            if refusal is None:
                return await self.app(scope, receive, send)
            await receive()
            return await send({"type": "websocket.close", "code": 1008, "reason": "refused"})  # answers with 403
        guarded = _GuardedSend(send, is_static=request.path.startswith("/static/"))
        if refusal is None and _makes_page(request) and self._is_full():
            refusal = Refusal(
                503, "too many browsers are connected; close one of them, or try again later", {"Retry-After": "15"}
            )
        if refusal is None:
            return await self.app(scope, _BoundedBody(receive), guarded)
        return await answer_refusal(refusal, request)(scope, receive, guarded)


def answer_refusal(refusal: Refusal, request: Request) -> Response:
    """Return the answer to a refused request: the login form, a page, or JSON for a program."""
    if not _asks_for_page(request):
        return JSONResponse({"detail": refusal.reason}, refusal.status, dict(refusal.headers))
    if refusal.to_login:
        wanted = request.path + (f"?{request.query}" if request.query else "")
        return RedirectResponse("/login" if wanted == "/" else f"/login?next={quote(wanted)}", 303)
    reason = escape(refusal.reason[0].upper() + refusal.reason[1:])
    return HTMLResponse(_NOTICE.format(status=refusal.status, reason=reason), refusal.status, refusal.headers)


_NOTICE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>streamclf: {status}</title><link rel="stylesheet" href="/static/login.css"></head>
<body><main class="card"><h1>streamclf</h1><p role="alert">{reason}.</p>
<p><a href="/live">Open the page Live</a></p></main></body></html>
"""


def _makes_page(request: Request) -> bool:
    """Return whether the answer can be a page of NiceGUI, which stays in memory for some time."""
    own = request.path.startswith((API_PREFIX, SHARED_PREFIX, "/_nicegui", "/static/", "/login"))
    return request.method == "GET" and not own


def _asks_for_page(request: Request) -> bool:
    return _makes_page(request) and "text/html" in request.headers.get("accept", "")


def _check_size(scope: Scope) -> Refusal | None:
    """Refuse a long request head. The server's own limit does not count what arrives in one piece."""
    size = sum(len(name) + len(value) + 4 for name, value in scope["headers"])
    if size + len(scope["path"]) + len(scope.get("query_string", b"")) > MAX_HEAD_BYTES:
        return Refusal(431, f"the head of the request has more than {MAX_HEAD_BYTES >> 10} KiB")
    return None


def _kept_headers(headers: Iterable[tuple[bytes, bytes]], path: str) -> Iterable[tuple[bytes, bytes]]:
    """Yield the headers without those that the application must not see.

    Only NiceGUI's own files are compressed. The nonce has to be written into pages, and films are compressed already.
    """
    compressible = path.startswith(("/_nicegui/", "/static/"))
    for name, value in headers:
        if name not in _DROPPED_HEADERS and (compressible or name != b"accept-encoding"):
            yield name, value


class _BoundedBody:
    """Receive a request's body within a time and a size; a client beyond one of them counts as disconnected."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._left = MAX_BODY_BYTES
        self._end_s = time.monotonic() + BODY_S
        self._is_complete = False

    async def __call__(self) -> Message:
        """Return the next message."""
        if self._is_complete:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, self._end_s - time.monotonic()))
        except asyncio.TimeoutError:
            return {"type": "http.disconnect"}
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            self._is_complete = not message.get("more_body", False)
            if self._left < 0:
                return {"type": "http.disconnect"}
        return message


class _GuardedSend:
    """Send an answer with the restricting headers, and give a nonce to the scripts of NiceGUI's pages."""

    def __init__(self, send: Send, *, is_static: bool) -> None:
        self._send = send
        self._is_static = is_static
        self._nonce: str | None = None
        self._start: dict[str, Any] = {}
        self._body = b""

    async def __call__(self, message: Message) -> None:
        """Send one message of the answer."""
        if message["type"] == "http.response.start":
            headers = [(name.lower(), value) for name, value in message.get("headers", ())]
            is_nicegui = (b"x-nicegui-content", b"page") in headers
            self._nonce = secrets.token_urlsafe(16) if is_nicegui else None
            if self._is_static:
                headers.append((b"cache-control", b"no-cache"))  # an update of the page must not mix with old scripts
            headers += [*_HEADERS, (b"content-security-policy", policy_for(self._nonce).encode())]
            message = {**message, "headers": headers}
            if is_nicegui:
                self._start = message  # the body's length changes
                return
        elif self._nonce is not None and message["type"] == "http.response.body":
            self._body += message.get("body", b"")
            if message.get("more_body", False):
                return
            await self._send_page()
            return
        await self._send(message)

    async def _send_page(self) -> None:
        """Send the whole page. Text of events in it is escaped, so each `<script` is NiceGUI's own."""
        body = self._body.replace(b"<script", f'<script nonce="{self._nonce}"'.encode())
        headers = [(name, value) for name, value in self._start["headers"] if name != b"content-length"]
        await self._send({**self._start, "headers": [*headers, (b"content-length", str(len(body)).encode())]})
        await self._send({"type": "http.response.body", "body": body})
