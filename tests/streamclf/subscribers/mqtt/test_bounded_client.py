"""A hostile broker cannot make the client keep its bytes: the first packet that is no answer closes the connection."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

mqtt = pytest.importorskip("paho.mqtt.client", reason="needs the extra mqtt")

from streamclf.subscribers.mqtt.bounded_client import BoundedClient  # noqa: E402

DEADLINE_S = 60.0
CONNACK = b"\x20\x02\x00\x00"
MAX_SENT_BYTES = 32 << 20
"""More than the socket buffers of a loopback connection hold."""


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(DEADLINE_S)
        yield listener


@pytest.fixture
def client(listener: socket.socket) -> Iterator[BoundedClient]:
    client = BoundedClient(mqtt.CallbackAPIVersion.VERSION2)
    client.reconnect_delay_set(60, 60)
    client.connect_async(*listener.getsockname())
    client.loop_start()
    yield client
    client.disconnect()
    client.loop_stop()


@pytest.mark.parametrize(
    "hostile",
    [
        b"\x30\xff\xff\xff\x7f",  # a PUBLISH of 256 MiB
        b"\x40\xff\xff\xff\x7f",  # a PUBACK of 256 MiB
        b"\x34\x05\x00\x01t\x00\x01" * 1000,  # messages of QoS 2, which the library would keep
        b"\xc0\x00" * 1000,  # PINGREQs: their answers would wait
        b"\x90\x03\x00\x01\x00" * 1000,
        b"\x00\x00",
    ],
    ids=["publish", "puback", "qos 2", "pingreq", "suback", "no command"],
)
def test_a_packet_that_is_no_small_answer_closes_the_connection(
    listener: socket.socket, client: BoundedClient, hostile: bytes
) -> None:
    broker, _ = listener.accept()
    with broker:
        broker.settimeout(DEADLINE_S)
        assert broker.recv(1 << 16)[0] == 0x10, "CONNECT"
        broker.sendall(CONNACK + hostile)
        with pytest.raises(ConnectionError):
            broker.sendall(bytes(MAX_SENT_BYTES))


def test_answers_are_accepted(listener: socket.socket, client: BoundedClient) -> None:
    confirmed = threading.Event()
    client.on_publish = lambda *_: confirmed.set()
    broker, _ = listener.accept()
    with broker:
        broker.settimeout(DEADLINE_S)
        assert broker.recv(1 << 16)[0] == 0x10
        broker.sendall(CONNACK)
        mid = client.publish("topic", b"payload", qos=1).mid
        assert broker.recv(1 << 16)[0] & 0xF0 == 0x30, "PUBLISH"
        broker.sendall(b"\xd0\x00" + b"\x40\x02" + mid.to_bytes(2, "big"))
        assert confirmed.wait(DEADLINE_S)
