"""Test how a subscriber's arguments become a service's address with keys, and how it explains a refusal."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import zmq
from support.hostile_clients import greeting

from streamclf.client.event_socket import EventSocket
from streamclf.errors import BusError, UsageError
from streamclf.net.curve_client import ServiceAddress, resolve_service_address
from streamclf.net.curve_keys import load_certificate, make_keys


def test_key_file_made_for_a_service_is_a_complete_address(tmp_path: Path) -> None:
    server, _ = make_keys(tmp_path, "server")
    _, secret = make_keys(tmp_path, "viewer", service=server, endpoint="tcp://192.0.2.7:5555")
    assert resolve_service_address(secret) == ServiceAddress(
        endpoint="tcp://192.0.2.7:5555",
        keys=load_certificate(secret, secret=True),
        server_key=load_certificate(server).public,
    )


def test_missing_argument_is_named(tmp_path: Path) -> None:
    server, _ = make_keys(tmp_path, "server")
    _, bare = make_keys(tmp_path, "bare")
    _, nowhere = make_keys(tmp_path, "nowhere", service=server)
    for arguments, message in [
        ({"endpoint": tmp_path / "missing.key_secret"}, "a file made by"),
        ({"endpoint": nowhere}, "names no endpoint"),
        ({"endpoint": "tcp://127.0.0.1:9", "keys": bare}, "names no service"),
        ({"endpoint": "tcp://127.0.0.1:9", "server_key": server}, "only together with keys"),
    ]:
        with pytest.raises(UsageError, match=message):
            resolve_service_address(**arguments)  # type: ignore[arg-type]


class ClosingService:
    """Close every connection; `serve` says what is sent before."""

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self._serve = serve
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(0.05)
        self.endpoint = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> ClosingService:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)
        self._server.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(OSError):
                peer, _ = self._server.accept()
                with peer:
                    peer.settimeout(10)
                    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close with RST
                    self._serve(peer)


def closes_before_its_mechanism(mechanism: bytes) -> Callable[[socket.socket], None]:
    """Act as libzmq does when the client's version and mechanism arrive together: libzmq sends no mechanism then."""
    whole = greeting(mechanism)

    def serve(peer: socket.socket) -> None:
        peer.sendall(whole[:10])
        received = peer.recv(64)
        if len(received) == 11:  # the version came without a mechanism
            peer.sendall(whole[10:])
        else:
            peer.sendall(whole[10:11])
        while len(received) < 64 and (data := peer.recv(64)):
            received += data

    return serve


@pytest.fixture
def address(tmp_path: Path) -> ServiceAddress:
    server, _ = make_keys(tmp_path, "server")
    _, viewer = make_keys(tmp_path, "viewer", service=server)
    return resolve_service_address("tcp://127.0.0.1:9", viewer)


def refusal(address: ServiceAddress, monkeypatch: pytest.MonkeyPatch) -> tuple[str, set[str]]:
    """Return the error for a service that refuses, and the explanations of the time before it."""
    monkeypatch.setattr("streamclf.net.curve_client.REFUSED_S", 0.6)
    monkeypatch.setattr("streamclf.net.curve_client.REOPEN_AFTER_S", 0.1)
    explanations = set()
    with zmq.Context() as context:
        events = EventSocket(context, address, [b""])
        try:
            end = time.monotonic() + 60
            while time.monotonic() < end:
                assert events.receive(0.02) is None
                explanations.add(events.explain_silence())
        except BusError as error:
            return str(error), explanations
        finally:
            events.close()
    raise AssertionError("no error")


@pytest.mark.parametrize(
    ("mechanism", "reason"),
    [(b"NULL", "the service does not use keys; "), (b"CURVE", "the service's key is not the one that ")],
)
def test_service_that_closes_before_it_sends_its_mechanism_is_asked_for_it(
    address: ServiceAddress, monkeypatch: pytest.MonkeyPatch, mechanism: bytes, reason: str
) -> None:
    with ClosingService(closes_before_its_mechanism(mechanism)) as service:
        error, _ = refusal(replace(address, endpoint=service.endpoint), monkeypatch)
    assert error.startswith(f"{service.endpoint}: {reason}")


def test_service_that_names_no_mechanism_gives_an_error_with_every_possible_cause(
    address: ServiceAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamclf.net.mechanism._ANSWER_S", 1.0)
    with ClosingService(lambda peer: None) as service:
        error, _ = refusal(replace(address, endpoint=service.endpoint), monkeypatch)
    assert error.startswith(f"{service.endpoint}: closed during the handshake: ")
    for cause in ("does not use keys", "its key is not the one", "not a streamclf service"):
        assert cause in error


def test_reason_is_kept_when_it_is_asked_for_and_later_connections_are_closed_without_one(
    address: ServiceAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    connections = 0

    def refuse(peer: socket.socket) -> None:
        nonlocal connections
        connections += 1
        if connections == 1:
            peer.sendall(greeting(b"NULL"))
            while peer.recv(64):
                pass

    with ClosingService(refuse) as service:
        error, explanations = refusal(replace(address, endpoint=service.endpoint), monkeypatch)
    assert connections > 2
    assert "does not use keys; give its endpoint" in error
    assert len({text for text in explanations if "keys" in text}) == 1
