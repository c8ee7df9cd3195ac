"""The server in a thread, with a small application, and clients that send no whole request."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

pytest.importorskip("uvicorn", reason="the extra [web] is not installed")

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from support.hub_process import wait_until

from streamclf.errors import BusError
from streamclf.runtime.stop_request import StopRequest
from streamclf.subscribers.web import server
from streamclf.subscribers.web.server import address_text, bind, run_server


@contextmanager
def running() -> Iterator[int]:
    async def answer(request: Request) -> Response:
        return PlainTextResponse("here")

    stop = StopRequest()
    with bind("127.0.0.1", 0) as listener:
        port = int(address_text(listener).rpartition(":")[2])
        app = Starlette(routes=[Route("/", answer)])
        thread = threading.Thread(target=run_server, args=(app, listener, stop))
        thread.start()
        try:
            yield port
        finally:
            stop.request()
            thread.join(60)
            assert not thread.is_alive()


def get(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/")
    status = connection.getresponse().status
    connection.close()
    return status


def is_closed(client: socket.socket) -> bool:
    client.settimeout(0.01)
    try:
        return client.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def test_too_many_silent_connections_replace_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 8)
    with running() as port:
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
        try:
            for each in clients:
                each.sendall(b"GET / HT")
            wait_until(lambda: sum(map(is_closed, clients)) >= 12, "the oldest are closed")
            assert get(port) == 200
            assert not is_closed(clients[-1])
        finally:
            for each in clients:
                each.close()


def test_a_request_that_never_ends_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "REQUEST_S", 0.2)
    monkeypatch.setattr(server, "_SWEEP_S", 0.1)
    with running() as port, socket.create_connection(("127.0.0.1", port)) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        wait_until(lambda: is_closed(slow), "the slow connection is closed")
        assert get(port) == 200


def test_a_port_in_use_is_named() -> None:
    with bind("127.0.0.1", 0) as first:
        port = int(address_text(first).rpartition(":")[2])
        with pytest.raises(BusError, match=rf":{port}: Address already in use; give another --host or --port"):
            bind("127.0.0.1", port)


def test_an_address_of_another_machine_is_named() -> None:
    with pytest.raises(BusError, match=r"192\.0\.2\.1:8080: .*; give another --host"):
        bind("192.0.2.1", 8080)
    with pytest.raises(BusError, match=r"no\.such\.host\.invalid:8080: .*; give another --host"):
        bind("no.such.host.invalid", 8080)
