"""The link's sockets on the producer's side, and what is under way on them; used by its thread alone."""

from __future__ import annotations

import math
import struct
import time
from collections import deque
from types import TracebackType
from typing import Final

import orjson
import zmq

from streamclf.errors import BusError
from streamclf.net.zeromq import is_readable, receive_now, send_now

MAX_LINK_MESSAGE_BYTES: Final = 1 << 20
U64: Final = struct.Struct("<Q")
HELLO_S: Final = 1.0
TICK_S: Final = 0.05
_RETRY_S = (1.0, 5.0)


class ProducerConnection:
    """The two sockets of the link's thread, and what is under way on them."""

    def __init__(self, endpoint: str, instance: bytes, name: bytes) -> None:
        self._endpoint, self._instance, self._name = endpoint, instance, name
        self._context = zmq.Context(io_threads=1)
        self._drafts = self._open(zmq.DEALER, hwm=64)
        self._previews = self._open(zmq.DEALER, hwm=4)
        self._hub_run: bytes | None = None
        self._hello_at = 0.0
        self._patience_s = _RETRY_S[0]
        self._overdue_at = 0.0
        self._sent: deque[int] = deque()
        self._chain = 0
        self.acked = 0

    def __enter__(self) -> ProducerConnection:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self._drafts.close(0)
        self._previews.close(0)
        self._context.term()

    def _open(self, kind: int, hwm: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.linger = 0
        socket.sndhwm = hwm
        socket.immediate = True  # nothing waits in a queue for a hub that is not there; it is held here instead
        socket.maxmsgsize = MAX_LINK_MESSAGE_BYTES
        socket.reconnect_ivl, socket.reconnect_ivl_max = 50, 500
        try:
            socket.connect(self._endpoint)
        except zmq.ZMQError as error:
            self._context.destroy(linger=0)
            raise BusError(
                f"link {self._endpoint}: {error.strerror}; give the hub's ipc:// or tcp:// endpoint"
            ) from error
        return socket

    @property
    def in_flight(self) -> int:
        """Drafts sent and not confirmed."""
        return len(self._sent)

    def wait(self, wake_fd: int, timeout_s: float) -> bool:
        """Until the hub says something, `wake_fd` is readable, or time is up; whether `wake_fd` is."""
        poller = zmq.Poller()
        poller.register(self._drafts, zmq.POLLIN)
        poller.register(wake_fd, zmq.POLLIN)
        return wake_fd in dict(poller.poll(max(0, math.ceil(1000 * timeout_s))))

    @property
    def due_s(self) -> float:
        """Seconds until there is something to do though nothing comes: another hello, or to give up waiting."""
        at = min(self._hello_at, self._overdue_at) if self._sent else self._hello_at
        return at - time.monotonic()

    def receive(self) -> list[list[bytes]]:
        """What the hub has said."""
        messages: list[list[bytes]] = []
        while len(messages) < 256 and is_readable(self._drafts):
            messages.append(receive_now(self._drafts))
        return messages

    def send(self, batch: list[tuple[int, bytes]]) -> bool:
        """Send (seq, JSON) in order; False if there is no hub to take them now."""
        body = b"[" + b",".join(encoded for _, encoded in batch) + b"]"
        frames = [b"drafts", self._instance, self._name, U64.pack(self._chain), body]
        try:
            send_now(self._drafts, *frames)
        except zmq.Again:
            return False
        if not self._sent:
            self._overdue_at = time.monotonic() + self._patience_s
        self._sent.extend(seq for seq, _ in batch)
        self._chain = batch[-1][0]
        return True

    def send_preview(self, stream: str, jpeg: bytes) -> bool:
        """On the other socket; False if that is behind."""
        try:
            send_now(self._previews, b"preview", stream.encode(), jpeg)
        except zmq.Again:
            return False
        return True

    def hello_due(self) -> bool:
        """Whether it is time to say hello."""
        return time.monotonic() >= self._hello_at

    def hello(self, dropped: dict[str, int]) -> None:
        """Say who we are, and what was given up so far; the answer says which previews are wanted."""
        self._hello_at = time.monotonic() + HELLO_S
        frames = [b"hello", self._instance, self._name, orjson.dumps(dropped)]
        try:
            send_now(self._drafts, *frames)
        except zmq.Again:
            self._hello_at = time.monotonic() + TICK_S  # not connected yet: be quick once it is

    def is_new_hub(self, run: bytes) -> bool:
        """Whether another hub answers than before."""
        known, self._hub_run = self._hub_run, run
        return known is not None and known != run

    def progress(self, seq: int) -> None:
        """Everything up to `seq` is confirmed."""
        self.acked = max(self.acked, seq)
        while self._sent and self._sent[0] <= seq:
            self._sent.popleft()
        self._patience_s = _RETRY_S[0]
        self._overdue_at = time.monotonic() + self._patience_s

    def overdue(self) -> bool:
        """Whether a confirmation should have come by now."""
        return bool(self._sent) and time.monotonic() >= self._overdue_at

    def reopen(self) -> None:
        """A fresh socket: whatever the old one still carried is sent again anyway."""
        self._drafts.close(0)
        self._drafts = self._open(zmq.DEALER, hwm=64)
        self._hello_at = 0.0
        self._patience_s = min(2 * self._patience_s, _RETRY_S[1])

    def rewind(self, seq: int) -> None:
        """Everything after `seq` goes out again; a new journal may know less than the old one had confirmed."""
        self._sent.clear()
        self._chain = self.acked = seq
