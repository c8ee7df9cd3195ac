"""Test the question for a service's security mechanism, with libzmq and with programs that are not ZeroMQ."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from support.hostile_clients import greeting

from streamclf.net.mechanism import MechanismQuery


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    with zmq.Context() as context:
        yield context


def answer(query: MechanismQuery) -> bytes:
    """Return what a query says at its end."""
    end = time.monotonic() + 60
    while query.is_open:
        assert time.monotonic() < end, "the query does not end"
        query.read()
        time.sleep(0.01)
    return query.read()


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
@pytest.mark.parametrize("mechanism", [b"NULL", b"CURVE"])
def test_libzmq_names_its_mechanism(
    context: zmq.Context[zmq.Socket[bytes]], tmp_path: Path, transport: str, mechanism: bytes
) -> None:
    with context.socket(zmq.XPUB) as service:
        service.linger = 0
        if mechanism == b"CURVE":
            service.curve_server = True
            service.curve_publickey, service.curve_secretkey = zmq.curve_keypair()
        service.bind("tcp://127.0.0.1:*" if transport == "tcp" else f"ipc://{tmp_path}/s")
        assert answer(MechanismQuery(context, service.getsockopt_string(zmq.LAST_ENDPOINT))) == mechanism


@pytest.mark.parametrize(
    "sent",
    [b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", b"NULL" * 16, greeting(b"NULL")[:31], b""],
    ids=["http", "no signature", "part of a greeting", "nothing"],
)
def test_other_programs_name_none(
    context: zmq.Context[zmq.Socket[bytes]], monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr("streamclf.net.mechanism._ANSWER_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        query = MechanismQuery(context, f"tcp://127.0.0.1:{server.getsockname()[1]}")
        server.settimeout(60)
        peer, _ = server.accept()
        with peer:
            peer.sendall(sent)
            assert answer(query) == b""
