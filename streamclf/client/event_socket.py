"""Receive the messages of a service's events endpoint over one SUB socket, with CURVE keys if the service has them."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Final

import zmq

from streamclf.errors import BusError
from streamclf.events.kinds import MAX_PREVIEW_BYTES
from streamclf.net.curve_client import HandshakeMonitor, ServiceAddress
from streamclf.net.zeromq import open_socket, receive_now

RECEIVE_HIGH_WATER: Final = 10_000
"""Messages queued for a subscriber that reads slowly."""


class EventSocket:
    """A SUB socket that reconnects, and that opens again after a handshake that libzmq does not repeat."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], address: ServiceAddress, topics: Collection[bytes]
    ) -> None:
        """Connect to the service and subscribe to `topics`. Raises `BusError` for an endpoint that cannot be used."""
        self._context, self._address = context, address
        self._topics = list(topics)
        self._handshakes = HandshakeMonitor(address)
        self._open()

    def subscribe(self, topic: bytes) -> None:
        """Subscribe to one more topic."""
        self._topics.append(topic)
        self._socket.subscribe(topic)

    def cancel(self, topic: bytes) -> None:
        """Cancel the subscription to a topic."""
        self._topics.remove(topic)
        self._socket.unsubscribe(topic)

    def receive(self, timeout_s: float) -> list[bytes] | None:
        """Return the frames of the next message, or None if there is none within `timeout_s`.

        Raises `BusError` if the service goes on refusing this client.
        """
        if self._handshakes.check():
            self.close()
            self._open()
        ready = dict(self._poller.poll(math.ceil(1000 * timeout_s)))
        return receive_now(self._socket) if self._socket in ready else None

    @property
    def sockets(self) -> list[zmq.Socket[bytes]]:
        """The sockets for which `receive` waits: the messages, and the monitor of handshakes."""
        return self._polled

    def explain_silence(self) -> str:
        """Return why no message has come: no service, or one that refuses this client; "" where that is unknown."""
        return self._handshakes.explain_silence()

    def close(self) -> None:
        """Disconnect."""
        self._handshakes.detach()
        self._socket.close(0)

    def _open(self) -> None:
        self._socket = open_socket(self._context, zmq.SUB, max_bytes=MAX_PREVIEW_BYTES)
        self._socket.rcvhwm = RECEIVE_HIGH_WATER
        self._socket.reconnect_ivl, self._socket.reconnect_ivl_max = 50, 1000
        for topic in self._topics:
            self._socket.subscribe(topic)
        self._address.configure(self._socket)
        monitor = self._handshakes.attach(self._socket)
        self._poller = zmq.Poller()
        self._polled = [self._socket, monitor]
        for socket in self._polled:
            self._poller.register(socket, zmq.POLLIN)
        endpoint = self._address.endpoint
        try:
            self._socket.connect(endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise BusError(f"{endpoint}: {error.strerror}; give an endpoint like tcp://127.0.0.1:5555") from error
