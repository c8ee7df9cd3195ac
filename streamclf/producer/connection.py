"""Connect a producer to the hub: its two sockets, and the drafts that are sent but not confirmed."""

from __future__ import annotations

import math
import time
from collections import deque
from types import TracebackType
from typing import Final

import orjson
import zmq

from streamclf.errors import BusError
from streamclf.net.zeromq import is_readable, receive_now, send_now
from streamclf.producer.link_protocol import HELLO_S, MAX_LINK_MESSAGE_BYTES, U64

RETRY_SEND_S: Final = 0.05
"""Pause before the next attempt to send, while no hub accepts messages."""
_DRAFTS_HIGH_WATER: Final = 64
_PREVIEWS_HIGH_WATER: Final = 4
"""Messages that libzmq queues on each socket."""
_MAX_REPLIES: Final = 256
"""Replies that one call of `receive` returns at most."""
_ACK_TIMEOUT_S: Final = (1.0, 5.0)
"""The first time-out, and the longest after it has doubled with each reconnection."""


class ProducerConnection:
    """The two sockets of a producer, for drafts and for previews; used by the producer's thread only."""

    def __init__(self, endpoint: str, instance: bytes, name: bytes) -> None:
        self._endpoint, self._instance, self._name = endpoint, instance, name
        self._context = zmq.Context(io_threads=1)
        self._drafts = self._open(_DRAFTS_HIGH_WATER)
        self._previews = self._open(_PREVIEWS_HIGH_WATER)
        self._hub_run: bytes | None = None
        self._hello_at = 0.0
        self._ack_timeout_s = _ACK_TIMEOUT_S[0]
        self._ack_due_at = 0.0
        self._unconfirmed: deque[int] = deque()
        self._last_sent = 0
        self.confirmed = 0
        """The sequence number up to which the hub has confirmed every draft."""

    def __enter__(self) -> ProducerConnection:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self._drafts.close(0)
        self._previews.close(0)
        self._context.term()

    @property
    def in_flight(self) -> int:
        """The number of drafts that are sent and not confirmed."""
        return len(self._unconfirmed)

    @property
    def due_s(self) -> float:
        """Seconds until the next hello, or until a confirmation is overdue."""
        at = min(self._hello_at, self._ack_due_at) if self._unconfirmed else self._hello_at
        return at - time.monotonic()

    def wait(self, wake_fd: int, timeout_s: float) -> bool:
        """Wait for a reply of the hub, for `wake_fd` or for `timeout_s`; return whether `wake_fd` is readable."""
        poller = zmq.Poller()
        poller.register(self._drafts, zmq.POLLIN)
        poller.register(wake_fd, zmq.POLLIN)
        return wake_fd in dict(poller.poll(max(0, math.ceil(1000 * timeout_s))))

    def receive(self) -> list[list[bytes]]:
        """Return the hub's replies that have arrived, each as its frames."""
        messages: list[list[bytes]] = []
        while len(messages) < _MAX_REPLIES and is_readable(self._drafts):
            messages.append(receive_now(self._drafts))
        return messages

    def send(self, batch: list[tuple[int, bytes]]) -> bool:
        """Send drafts as (seq, JSON), in order; return False if no hub can accept them now."""
        body = b"[" + b",".join(encoded for _, encoded in batch) + b"]"
        frames = [b"drafts", self._instance, self._name, U64.pack(self._last_sent), body]
        try:
            send_now(self._drafts, *frames)
        except zmq.Again:
            return False
        if not self._unconfirmed:
            self._ack_due_at = time.monotonic() + self._ack_timeout_s
        self._unconfirmed.extend(seq for seq, _ in batch)
        self._last_sent = batch[-1][0]
        return True

    def send_preview(self, stream: str, jpeg: bytes) -> bool:
        """Send a preview over the second socket; return False if its queue is full."""
        try:
            send_now(self._previews, b"preview", stream.encode(), jpeg)
        except zmq.Again:
            return False
        return True

    def send_saved(self, request_id: str, result: bytes) -> bool:
        """Send the result of a request to save an example; return False if the queue is full."""
        try:
            send_now(self._drafts, b"saved", request_id.encode(), result)
        except zmq.Again:
            return False
        return True

    def hello_due(self) -> bool:
        """Return whether it is time to send hello."""
        return time.monotonic() >= self._hello_at

    def send_hello(self, dropped: dict[str, int]) -> None:
        """Send the producer's identity and the drafts dropped so far; the answer lists the wanted previews."""
        self._hello_at = time.monotonic() + HELLO_S
        frames = [b"hello", self._instance, self._name, orjson.dumps(dropped)]
        try:
            send_now(self._drafts, *frames)
        except zmq.Again:
            self._hello_at = time.monotonic() + RETRY_SEND_S  # not connected yet: send it soon after connecting

    def is_new_hub(self, run: bytes) -> bool:
        """Return whether `run` names another hub process than the last call did; remember it."""
        known, self._hub_run = self._hub_run, run
        return known is not None and known != run

    def confirm(self, seq: int) -> None:
        """Record that the hub has confirmed every draft up to `seq`."""
        self.confirmed = max(self.confirmed, seq)
        while self._unconfirmed and self._unconfirmed[0] <= seq:
            self._unconfirmed.popleft()
        self._ack_timeout_s = _ACK_TIMEOUT_S[0]
        self._ack_due_at = time.monotonic() + self._ack_timeout_s

    def ack_overdue(self) -> bool:
        """Return whether a confirmation should have come by now."""
        return bool(self._unconfirmed) and time.monotonic() >= self._ack_due_at

    def reopen(self) -> None:
        """Open a new socket for drafts; the drafts that the old one still carried are sent again anyway."""
        self._drafts.close(0)
        self._drafts = self._open(_DRAFTS_HIGH_WATER)
        self._hello_at = 0.0
        self._ack_timeout_s = min(2 * self._ack_timeout_s, _ACK_TIMEOUT_S[1])

    def rewind(self, seq: int) -> None:
        """Continue after `seq`. A hub with a new journal may lack drafts that the old one had confirmed."""
        self._unconfirmed.clear()
        self._last_sent = self.confirmed = seq

    def _open(self, high_water: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.DEALER)
        socket.linger = 0
        socket.sndhwm = high_water
        socket.immediate = True  # libzmq queues nothing without a connection to a hub; the producer holds the drafts
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
