"""Handshakes side by side: silent, slow, wrong and too many connections do not keep the rightful program out."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from streamclf.net.push_protocol import ACCEPTED, GREETING_BYTES, MAGIC, NONCE_BYTES, REFUSED, VERDICT_BYTES, make_proof
from streamclf.sources import push_handshake
from streamclf.sources.push_handshake import MAX_PENDING, HandshakeServer

DEADLINE_S = 60.0
SECRET = "correct horse battery"


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=MAX_PENDING) as listener:
        yield listener


def connect(listener: socket.socket) -> socket.socket:
    return socket.create_connection(listener.getsockname(), DEADLINE_S)


def receive(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (part := connection.recv(count - len(data))):
        data += part
    return data


def authenticate(listener: socket.socket, secret: str = SECRET) -> bytes:
    """Connect as a program does, and return the server's verdict."""
    with connect(listener) as program:
        greeting = receive(program, GREETING_BYTES)
        challenge, nonce = greeting.removeprefix(MAGIC), os.urandom(NONCE_BYTES)
        answer = nonce + make_proof(secret, b"program", challenge, nonce)
        program.sendall(answer[:10])
        program.sendall(answer[10:])
        return receive(program, VERDICT_BYTES)[:1]


def accepted(listener: socket.socket, handshakes: HandshakeServer, secret: str = SECRET, wait_s: float = 5.0) -> bytes:
    """Return the verdict on a program with `secret`, while the server waits."""
    verdicts: list[bytes] = []
    thread = threading.Thread(target=lambda: verdicts.append(authenticate(listener, secret)))
    thread.start()
    while thread.is_alive():
        if connection := handshakes.wait(wait_s if secret == SECRET else 0.05):
            connection.close()
            break
    thread.join(DEADLINE_S)
    return verdicts[0]


@pytest.mark.parametrize("silent", [1, 12, MAX_PENDING - 1, 3 * MAX_PENDING])
def test_silent_connections_do_not_delay_a_program(
    listener: socket.socket, silent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No handshake may expire: only side by side can the program get its turn."""
    monkeypatch.setattr(push_handshake, "HANDSHAKE_S", 1e6)
    with ExitStack() as stack, HandshakeServer(listener, SECRET) as handshakes:
        for _ in range(silent):
            stack.enter_context(connect(listener))
            assert handshakes.wait(0.0) is None
        assert accepted(listener, handshakes) == ACCEPTED


def test_a_connection_that_answers_in_part_does_not_delay_a_program(listener: socket.socket) -> None:
    with HandshakeServer(listener, SECRET) as handshakes, connect(listener) as slow:
        slow.sendall(b"x")
        assert accepted(listener, handshakes) == ACCEPTED


def test_a_wrong_secret_is_refused_and_the_next_program_accepted(listener: socket.socket) -> None:
    with HandshakeServer(listener, SECRET) as handshakes:
        assert accepted(listener, handshakes, "a wrong secret") == REFUSED
        assert accepted(listener, handshakes) == ACCEPTED


def test_the_oldest_of_too_many_connections_is_closed(listener: socket.socket) -> None:
    with ExitStack() as stack, HandshakeServer(listener, SECRET) as handshakes:
        connections = []
        for _ in range(MAX_PENDING + 1):
            connections.append(stack.enter_context(connect(listener)))
            assert handshakes.wait(0.0) is None
        receive(connections[0], GREETING_BYTES)
        assert connections[0].recv(1) == b"", "closed"
        assert len(receive(connections[1], GREETING_BYTES)) == GREETING_BYTES
        connections[1].settimeout(0.05)
        with pytest.raises(TimeoutError):
            connections[1].recv(1)


def test_a_silent_connection_is_closed_after_its_deadline(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push_handshake, "HANDSHAKE_S", 0.0)
    with HandshakeServer(listener, SECRET) as handshakes, connect(listener) as silent:
        while True:
            assert handshakes.wait(0.01) is None
            silent.settimeout(0.01)
            try:
                if silent.recv(GREETING_BYTES) == b"":
                    break
            except TimeoutError:
                continue


def test_all_connections_are_closed_at_the_end(listener: socket.socket) -> None:
    with connect(listener) as silent:
        with HandshakeServer(listener, SECRET) as handshakes:
            assert handshakes.wait(0.05) is None
        assert len(receive(silent, GREETING_BYTES + 1)) == GREETING_BYTES
