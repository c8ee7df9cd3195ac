"""Bound the bytes that a broker can make paho-mqtt keep: this client only publishes, so it expects small answers only.

The library stores whole packets of up to 256 MiB, and messages that nobody subscribed to, without a limit.
"""

from __future__ import annotations

from typing import Any, Final

from paho.mqtt.client import CONNACK, DISCONNECT, PINGRESP, PUBACK, Client

MAX_PACKET_BYTES: Final = 4096
"""The answers that a publisher gets have at most 4 bytes in MQTT 3.1.1, and in MQTT 5 a few short properties."""
ANSWERS: Final = frozenset({CONNACK, PUBACK, PINGRESP, DISCONNECT})
"""A broker sends DISCONNECT in MQTT 5 only, with the reason; in MQTT 3.1.1 the library ends the connection."""


class BoundedClient(Client):
    """A client that closes the connection at the first packet that is no small answer to its own."""

    def _sock_recv(self, bufsize: int) -> bytes:
        """Receive bytes. The library calls this for the command, then for each byte of the length, then for the rest.

        Raises `ConnectionAbortedError`, as for a lost connection, if the packet so far is not acceptable.
        """
        packet: dict[str, Any] = self._in_packet  # type: ignore[assignment]
        command, length = packet["command"] & 0xF0, packet["remaining_length"]
        if packet["command"] and (command not in ANSWERS or length > MAX_PACKET_BYTES):
            raise ConnectionAbortedError(f"packet {command:#x} of {length} bytes")
        return super()._sock_recv(bufsize)
