"""A broker for publishers of MQTT 3.1.1: sign-in, last will, retained messages and QoS 1. It refuses MQTT 5."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO

DEADLINE_S = 60.0
_CONNECT, _PUBLISH, _PINGREQ, _DISCONNECT = 1, 3, 12, 14


@dataclass(frozen=True)
class Published:
    topic: str
    payload: str
    retain: bool


class MqttBroker:
    """Keep all published messages. The broker can stop, and start again on the same port."""

    def __init__(self, *, user: str = "", password: str = "", tls: ssl.SSLContext | None = None) -> None:
        self._credentials, self._tls = (user, password), tls
        self._changed = threading.Condition()
        self._connections: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self.port = 0
        self.confirms = True
        """Whether to answer with PUBACK. An unconfirmed message is not kept."""
        self.is_silent = False
        """Whether a client of MQTT 5 gets no answer before its connection is closed."""
        self.refused_5 = 0
        self.published: list[Published] = []
        self.unconfirmed = 0
        self.retained: dict[str, str] = {}
        self.sign_ins: list[str] = []
        self.faults: list[str] = []
        self.start()

    def __enter__(self) -> MqttBroker:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self.stop()
        assert not self.faults

    @property
    def url(self) -> str:
        return f"mqtt{'s' if self._tls else ''}://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port), reuse_port=False)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def stop(self, *, lose_retained: bool = False) -> None:
        """Stop listening and cut all connections; optionally lose the retained messages, as without a disk."""
        listener, self._listener = self._listener, None
        if listener:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the thread in accept
            listener.close()
        self.disconnect_all()
        with self._changed:
            assert self._changed.wait_for(lambda: not self._connections, DEADLINE_S)
            if lose_retained:
                self.retained.clear()

    def disconnect_all(self) -> None:
        """Cut all connections."""
        with self._changed:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        with self._changed:
            if not self._changed.wait_for(condition, DEADLINE_S):
                raise AssertionError(f"not within {DEADLINE_S} s: {what}; last: {self.published[-5:]}")

    def on(self, topic: str) -> list[str]:
        """Return the payloads of all messages on `topic`, in order."""
        with self._changed:
            return [each.payload for each in self.published if each.topic == topic]

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with self._changed:
            self._connections.add(connection)
        will: Published | None = None
        served = connection
        try:
            if self._tls:
                served = self._tls.wrap_socket(connection, server_side=True)
                with self._changed:
                    self._connections.symmetric_difference_update({connection, served})
            with served.makefile("rb") as stream:
                will = self._sign_in(served, stream)
                while (packet := _read(stream)) is not None:
                    kind, flags, body = packet
                    if kind == _DISCONNECT:
                        will = None
                        break
                    self._handle(served, kind, flags, body)
        except OSError:
            pass
        except Exception as error:
            self.faults.append(repr(error))
        finally:
            if will:
                self._keep(will)
            served.close()
            with self._changed:
                self._connections.discard(served)
                self._changed.notify_all()

    def _sign_in(self, connection: socket.socket, stream: BinaryIO) -> Published | None:
        packet = _read(stream)
        if packet is None:
            return None
        kind, _, body = packet
        assert kind == _CONNECT
        if body[:7] == b"\0\4MQTT\5":
            self.refused_5 += 1
            if not self.is_silent:
                connection.sendall(b"\x20\2\0\1")  # unacceptable protocol version
            raise OSError("refused")
        assert body[:7] == b"\0\4MQTT\4", body[:7]
        flags, rest = body[7], body[10:]
        client_id, rest = _string(rest)
        assert 1 <= len(client_id) <= 23
        will = None
        if flags & 0x04:
            topic, rest = _string(rest)
            payload, rest = _string(rest)
            will = Published(topic, payload, bool(flags & 0x20))
        user = password = ""
        if flags & 0x80:
            user, rest = _string(rest)
        if flags & 0x40:
            password, rest = _string(rest)
        is_known = (user, password) == self._credentials
        connection.sendall(bytes([0x20, 2, 0, 0 if is_known else 4]))
        if not is_known:
            raise OSError("refused")
        with self._changed:
            self.sign_ins.append(client_id)
            self._changed.notify_all()
        return will

    def _handle(self, connection: socket.socket, kind: int, flags: int, body: bytes) -> None:
        if kind == _PINGREQ:
            connection.sendall(b"\xd0\0")
            return
        assert kind == _PUBLISH, kind
        assert (flags >> 1) & 3 == 1, "QoS 1"
        topic, rest = _string(body)
        if not self.confirms:
            with self._changed:
                self.unconfirmed += 1
                self._changed.notify_all()
            return
        self._keep(Published(topic, rest[2:].decode(), bool(flags & 1)))
        connection.sendall(b"\x40\2" + rest[:2])

    def _keep(self, message: Published) -> None:
        with self._changed:
            self.published.append(message)
            if message.retain:
                self.retained[message.topic] = message.payload
            self._changed.notify_all()


def _read(stream: BinaryIO) -> tuple[int, int, bytes] | None:
    first = stream.read(1)
    if not first:
        return None
    length = shift = 0
    while True:
        (byte,) = stream.read(1)
        length |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            break
    body = stream.read(length)
    return (first[0] >> 4, first[0] & 15, body) if len(body) == length else None


def _string(data: bytes) -> tuple[str, bytes]:
    size = int.from_bytes(data[:2], "big")
    return data[2 : 2 + size].decode(), data[2 + size :]
