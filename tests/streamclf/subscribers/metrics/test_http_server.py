"""Pages are served to this machine, or to a client with the token; slow connections do not block others."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest

from streamclf.errors import BusError, UsageError
from streamclf.net.secret_files import read_token
from streamclf.subscribers.metrics import http_server
from streamclf.subscribers.metrics.http_server import MAX_CONNECTIONS, PageServer

TOKEN = "0123456789abcdef-to-read"


def ask(server: str, path: str, **headers: str) -> tuple[int, str]:
    host, _, port = server.rpartition(":")
    with closing(http.client.HTTPConnection(host.strip("[]"), int(port), timeout=20)) as connection:
        connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def connect(server: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(server.rpartition(":")[2])), 20)


PAGES: dict[str, Callable[[], tuple[int, str, bytes]]] = {
    "/metrics": lambda: (200, "text/plain", b"numbers"),
    "/healthz": lambda: (503, "text/plain", b"stream door: offline"),
}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", "127.0.0.1.example.org", ""])
def test_an_address_beyond_loopback_requires_a_token(host: str) -> None:
    with pytest.raises(UsageError, match="--token-file"):
        PageServer(host, 0, PAGES, None)


def test_without_the_token_a_client_gets_only_the_status_of_healthz() -> None:
    with PageServer("0.0.0.0", 0, PAGES, TOKEN) as server:
        address = server.address.replace("0.0.0.0", "127.0.0.1")
        assert ask(address, "/metrics")[0] == 401
        assert ask(address, "/metrics", Authorization="Bearer wrong")[0] == 401
        assert ask(address, "/metrics", Authorization=f"Bearer {TOKEN}") == (200, "numbers")
        assert ask(address, "/healthz") == (503, "")
        assert (
            ask(address, "/healthz", Authorization=f"Bearer {TOKEN}", Host="example.org")[1] == "stream door: offline"
        )
        assert ask(address, "/secret", Authorization=f"Bearer {TOKEN}")[0] == 404


def test_on_loopback_a_request_must_name_this_machine() -> None:
    with PageServer("127.0.0.1", 0, PAGES, None) as server:
        assert ask(server.address, "/metrics")[1] == "numbers"
        assert ask(server.address, "/metrics", Host="localhost:9108")[1] == "numbers"
        assert ask(server.address, "/metrics", Host="evil.example")[0] == 403
        assert ask(server.address, "/metrics?x=1")[0] == 200


@pytest.mark.parametrize("request_part", [b"", b"GET /healthz HTTP/1.1\r\nX-Slow: "])
def test_slow_connections_do_not_keep_a_probe_out(request_part: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection may reach its deadline: only the replacement of slow ones lets the probes in."""
    monkeypatch.setattr(http_server, "_CONNECTION_S", 1e6)
    monkeypatch.setattr(http_server._Handler, "timeout", 1e6)
    with PageServer("127.0.0.1", 0, PAGES, None) as server, ExitStack() as stack:
        for _ in range(3):
            for _ in range(MAX_CONNECTIONS):
                slow = stack.enter_context(connect(server.address))
                with suppress(ConnectionError):
                    slow.sendall(request_part)
            assert ask(server.address, "/healthz") == (503, "stream door: offline")


def test_connections_that_read_no_answer_do_not_keep_a_probe_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "_CONNECTION_S", 1e6)
    monkeypatch.setattr(http_server._Handler, "timeout", 1e6)
    body = bytes(16 << 20)  # more than the buffers of a connection hold
    pages = {**PAGES, "/metrics": lambda: (200, "text/plain", body)}
    with PageServer("127.0.0.1", 0, pages, None) as server, ExitStack() as stack:
        for _ in range(MAX_CONNECTIONS):
            stack.enter_context(connect(server.address)).sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert ask(server.address, "/healthz") == (503, "stream door: offline")


def test_overdue_connections_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "_CONNECTION_S", 0.2)
    with PageServer("127.0.0.1", 0, PAGES, None) as server, connect(server.address) as slow:
        slow.sendall(b"GET /healthz HTTP/1.1\r\n")
        assert slow.recv(10) == b""


@pytest.mark.parametrize(
    "line", [b"X-Filler: " + b"a" * 60_000 + b"\r\n", b"X: y\r\n"], ids=["long lines", "short lines"]
)
def test_a_request_of_many_bytes_is_refused(line: bytes) -> None:
    lines = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + line * (2 if len(line) > 1000 else 90)
    with PageServer("127.0.0.1", 0, PAGES, None) as server, connect(server.address) as client:
        client.sendall(lines + b"\r\n")
        status = client.recv(100).split(b" ")[1]
        assert status == (b"431" if len(lines) > http_server.MAX_HEAD_BYTES else b"503")


def connection(host: str, *, is_answering: bool = False) -> http_server._Connection:
    return http_server._Connection(host=host, is_local=host == "127.0.0.1", is_answering=is_answering)


@pytest.mark.parametrize(
    ("hosts", "new", "victim"),
    [
        (["127.0.0.1", "127.0.0.1"], "127.0.0.1", 0),
        (["127.0.0.1", "192.0.2.1"], "127.0.0.1", 1),
        (["127.0.0.1", "192.0.2.1"], "192.0.2.2", 1),
        (["192.0.2.1", "192.0.2.2", "192.0.2.2"], "192.0.2.1", 1),
        (["127.0.0.1", "127.0.0.1"], "192.0.2.1", None),
        (["192.0.2.1!", "192.0.2.1"], "192.0.2.2", 1),
        (["192.0.2.1!", "127.0.0.1"], "127.0.0.1", 1),
    ],
    ids=lambda value: str(value),
)
def test_the_connection_to_replace(hosts: list[str], new: str, victim: int | None) -> None:
    """A `!` marks a connection whose request has arrived."""
    sockets = [socket.socket() for _ in hosts]
    try:
        connections = {
            each: connection(host.rstrip("!"), is_answering=host.endswith("!"))
            for each, host in zip(sockets, hosts, strict=True)
        }
        chosen = http_server._choose_victim(connections, connection(new))
        assert chosen is (None if victim is None else sockets[victim])
    finally:
        for each in sockets:
            each.close()


def test_a_port_in_use_and_a_short_token_are_errors_with_a_remedy(tmp_path: Path) -> None:
    with (
        PageServer("127.0.0.1", 0, PAGES, None) as server,
        pytest.raises(BusError, match="give another --host or --port"),
    ):
        PageServer("127.0.0.1", int(server.address.rpartition(":")[2]), PAGES, None)
    (tmp_path / "token").write_text("short")
    with pytest.raises(UsageError, match="a token of 5 bytes; 16 to 4096"):
        read_token(tmp_path / "token")
    (tmp_path / "token").write_text(TOKEN + "\n")
    (tmp_path / "token").chmod(0o644)
    with pytest.raises(UsageError, match="mode 0644 lets others read the secret; chmod 600"):
        read_token(tmp_path / "token")
    (tmp_path / "token").chmod(0o600)
    assert read_token(tmp_path / "token") == TOKEN
