"""Pages are served to this machine, or to a client with the token; slow connections do not block others."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from support.hub_process import wait_until

from streamclf.errors import BusError, UsageError
from streamclf.subscribers.metrics import http_server
from streamclf.subscribers.metrics.http_server import MAX_CONNECTIONS, PageServer, read_token

TOKEN = "0123456789abcdef-to-read"


def ask(server: str, path: str, **headers: str) -> tuple[int, str]:
    host, _, port = server.rpartition(":")
    with closing(http.client.HTTPConnection(host.strip("[]"), int(port), timeout=20)) as connection:
        connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def is_answered(server: str) -> bool:
    try:
        return ask(server, "/metrics")[1] == "numbers"
    except http.client.RemoteDisconnected:  # the server is still full
        return False


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


def test_idle_connections_are_cut_and_later_requests_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "_CONNECTION_S", 0.5)
    with PageServer("127.0.0.1", 0, PAGES, None) as server:
        port = int(server.address.rpartition(":")[2])
        idle = [socket.create_connection(("127.0.0.1", port), 20) for _ in range(MAX_CONNECTIONS + 10)]
        try:
            for each in idle:
                each.settimeout(20)
                assert each.recv(10) == b""  # beyond the limit at once, the others at the deadline
        finally:
            for each in idle:
                each.close()
        wait_until(lambda: is_answered(server.address), "an answer, once the server has counted the closed connections")


def test_a_port_in_use_and_a_short_token_are_errors_with_a_remedy(tmp_path: Path) -> None:
    with (
        PageServer("127.0.0.1", 0, PAGES, None) as server,
        pytest.raises(BusError, match="give another --host or --port"),
    ):
        PageServer("127.0.0.1", int(server.address.rpartition(":")[2]), PAGES, None)
    (tmp_path / "token").write_text("short")
    with pytest.raises(UsageError, match="a token of 5 characters; 16 to 4096"):
        read_token(tmp_path / "token")
    (tmp_path / "token").write_text(TOKEN + "\n")
    assert read_token(tmp_path / "token") == TOKEN
