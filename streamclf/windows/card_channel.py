"""Send a capture process the memory of a GPU that the classifier shares: one channel for each view.

The channel is a pair of Unix sockets that the supervisor makes. A capture process asks for the memory when it starts.
The classifier answers with an offer, and sends another one whenever its memory changes. The latest offer counts.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from dataclasses import asdict, dataclass

import orjson

REQUEST = b"?"
MAX_MESSAGE_BYTES = 1024
MAX_MESSAGES = 64
"""A process reads so many messages at once at most; the rest comes with the next chunk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CardOffer:
    """Memory of a GPU with one slot for each slot of the view's ring; `number` 0 is the end of the last offer.

    Slot i begins at byte `i * stride`. `gpu` is the GPU's place on the PCI bus.
    """

    number: int = 0
    gpu: str = ""
    chunks: int = 0
    stride: int = 0
    nbytes: int = 0


def make_channel() -> tuple[int, int]:
    """Return the descriptors of the classifier's end and of the capture process's end. Neither blocks."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setblocking(False)
    return ends[0].detach(), ends[1].detach()


class CardChannel:
    """One end of the channel. It owns its descriptor."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(False)

    def fileno(self) -> int:
        """Return the descriptor, for a selector."""
        return self._socket.fileno()

    def request(self) -> None:
        """Ask the classifier for an offer."""
        self._send(REQUEST, ())

    def offer(self, offer: CardOffer, fd: int | None = None) -> None:
        """Send an offer, with the descriptor of its memory. A capture process that does not read asks again later."""
        self._send(orjson.dumps(asdict(offer)), () if fd is None else (fd,))

    def was_requested(self) -> bool:
        """Read what has arrived at the classifier's end, and return whether a capture process asks for an offer."""
        return any(data == REQUEST for data, _ in self._received(lambda fd: os.close(fd)))

    def latest_offer(self) -> tuple[CardOffer, int | None] | None:
        """Read what has arrived at the capture process's end; return the latest offer and its descriptor, if any.

        The caller closes the descriptor.
        """
        latest: tuple[CardOffer, int | None] | None = None
        for data, fd in self._received():
            if latest is not None and latest[1] is not None:
                os.close(latest[1])
            latest = CardOffer(**orjson.loads(data)), fd
        return latest

    def close(self) -> None:
        """Close the descriptor."""
        self._socket.close()

    def _send(self, data: bytes, fds: tuple[int, ...]) -> None:
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            socket.send_fds(self._socket, [data], fds)

    def _received(self, refuse: Callable[[int], None] | None = None) -> list[tuple[bytes, int | None]]:
        messages: list[tuple[bytes, int | None]] = []
        with contextlib.suppress(BlockingIOError, ConnectionResetError):
            while len(messages) < MAX_MESSAGES:
                data, fds, _, _ = socket.recv_fds(self._socket, MAX_MESSAGE_BYTES, 1)
                if not data:
                    break  # all processes at the other end are gone
                if refuse is not None:
                    for fd in fds:
                        refuse(fd)
                messages.append((data, fds[0] if fds and refuse is None else None))
        return messages
