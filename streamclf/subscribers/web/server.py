"""Run the page's application in uvicorn, with limits for connections that send no request."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from streamclf.errors import BusError
from streamclf.net.endpoints import is_loopback_host
from streamclf.runtime.stop_request import StopRequest
from streamclf.subscribers.web.middleware import MAX_HEAD_BYTES

MAX_CONNECTIONS: Final = 512
"""A browser has at most six connections to one server, and two WebSockets."""
REQUEST_S: Final = 10.0
"""A connection must send its whole request head within this time."""
MAX_WEBSOCKET_BYTES: Final = 1 << 20
"""Longest message of a browser."""
_POLL_S: Final = 0.2
_SWEEP_S: Final = 1.0
_LEAVE_S: Final = 2
"""Seconds that open connections get at the end."""


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises `BusError` if the port is taken or the address is not of this machine."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise BusError(f"{host}:{port}: {error.strerror or error}; give another --host") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if host == "::" else 1)
        listener.bind(address)
        listener.listen(512)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise BusError(f"{host}:{port}: {error.strerror}; give another --host or --port") from error
    return listener


def address_text(listener: socket.socket) -> str:
    """Return the bound address as HOST:PORT, for a URL."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def run_server(app: ASGIApp, listener: socket.socket, stop: StopRequest) -> None:
    """Serve `app` until the stop request."""
    asyncio.run(_serve(app, listener, stop))


async def _serve(app: ASGIApp, listener: socket.socket, stop: StopRequest) -> None:
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "nicegui"):
        logging.getLogger(name).setLevel(logging.ERROR)  # their lines hold addresses with their queries
    logging.getLogger("uvicorn.error").addFilter(_is_reported)
    connections = _Connections()
    config = uvicorn.Config(
        app,
        http=connections.make_protocol,  # type: ignore[arg-type]  # uvicorn calls it as it would call a class
        ws="websockets-sansio",
        ws_max_size=MAX_WEBSOCKET_BYTES,
        ws_ping_interval=15.0,
        ws_ping_timeout=15.0,
        ws_per_message_deflate=False,
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=_LEAVE_S,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
    )
    server = _Server(config)
    watch = asyncio.ensure_future(_watch(server, connections, stop))
    try:
        await server.serve(sockets=[listener])
    finally:
        watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watch


def _is_reported(record: logging.LogRecord) -> bool:
    """Return whether a record of uvicorn is logged. A film that a browser stops reading is no error."""
    return "returned without completing response" not in str(record.msg)


async def _watch(server: uvicorn.Server, connections: _Connections, stop: StopRequest) -> None:
    """Poll the stop request, which also extends the process's deadline, and close overdue connections."""
    swept_s = time.monotonic()
    while not stop.is_set:
        await asyncio.sleep(_POLL_S)
        if (now_s := time.monotonic()) - swept_s >= _SWEEP_S:
            swept_s = now_s
            connections.close_overdue(now_s)
    server.should_exit = True


class _Server(uvicorn.Server):
    """uvicorn without signal handlers of its own: the command and the outlet have theirs."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Connections:
    """All open HTTP connections. A WebSocket leaves them at its handshake; `wall` and NiceGUI limit those."""

    def __init__(self) -> None:
        self._open: dict[_Protocol, None] = {}  # the oldest first

    def make_protocol(self, *arguments: Any, **keywords: Any) -> _Protocol:
        return _Protocol(self, *arguments, **keywords)

    def add(self, new: _Protocol) -> bool:
        """Add a connection, closing another one if there are too many; return whether it may stay."""
        if len(self._open) >= MAX_CONNECTIONS:
            victim = self._choose_victim(new)
            if victim is None:
                return False
            self.remove(victim)
            victim.abort()
        self._open[new] = None
        return True

    def remove(self, connection: _Protocol) -> None:
        self._open.pop(connection, None)

    def close_overdue(self, now_s: float) -> None:
        """Close connections that have not sent their request in time."""
        for connection in [each for each in self._open if each.waits_since_s + REQUEST_S < now_s]:
            if connection.is_waiting:
                self.remove(connection)
                connection.abort()

    def _choose_victim(self, new: _Protocol) -> _Protocol | None:
        """Choose a connection that waits for its request; of the host with the most connections, the oldest.

        A connection of another machine never replaces one of this machine.
        """
        per_host = Counter(each.host for each in self._open)
        candidates = [each for each in self._open if each.is_waiting and (new.is_local or not each.is_local)]
        return max(candidates, key=lambda each: per_host[each.host], default=None)


class _Protocol(H11Protocol):
    """One HTTP connection."""

    def __init__(self, registry: _Connections, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._registry = registry
        self.waits_since_s = time.monotonic()

    @property
    def host(self) -> str:
        """Address of the client."""
        return self.client[0] if self.client else ""

    @property
    def is_local(self) -> bool:
        """Whether the client is on this machine."""
        return is_loopback_host(self.host)

    @property
    def is_waiting(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def abort(self) -> None:
        """Close the connection at once."""
        self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if not self._registry.add(self):
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._registry.remove(self)
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self.waits_since_s = time.monotonic()
        super().on_response_complete()

    def handle_websocket_upgrade(self, event: Any) -> None:
        self._registry.remove(self)
        super().handle_websocket_upgrade(event)
