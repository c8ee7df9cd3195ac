"""Receive the producers' drafts: each draft exactly once, in each producer's order, even if some are sent again."""

from __future__ import annotations

import contextlib
import logging
import struct
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
import zmq

from streamclf.errors import BusError, EventError
from streamclf.events.drafts import Draft
from streamclf.events.kinds import MAX_PREVIEW_BYTES
from streamclf.hub.publisher import LINK_IO_THREAD
from streamclf.net.names import valid_stream_name
from streamclf.net.zeromq import bind, is_readable, open_socket, receive_now, send_now
from streamclf.producer.link_protocol import CAPTURE_PREFIX, INSTANCE_BYTES, MAX_LINK_MESSAGE_BYTES, MAX_NAME_BYTES, U64

log = logging.getLogger(__name__)

_CONNECTION_TIMEOUT_S: Final = 10.0
"""Connections and producers that have sent nothing for this long are forgotten."""
_MAX_CONNECTIONS: Final = 1024
_MAX_BATCH_MESSAGES: Final = 64
_MAX_BATCH_DRAFTS: Final = 1024


@dataclass(slots=True)
class _LinkConnection:
    """One connection of a producer."""

    instance: bytes
    last_message_at: float
    ack_due: bool = False


@dataclass(slots=True)
class _Producer:
    """One run of a producing process, over any number of connections."""

    name: str
    seq: int
    dropped: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class ReceivedBatch:
    """The messages that one call of `LinkServer.receive` returns."""

    drafts: list[Draft] = field(default_factory=list)
    senders: list[bytes] = field(default_factory=list)
    """The instance that sent each draft."""
    sequences: dict[bytes, int] = field(default_factory=dict)
    """The last sequence number of each instance, to be committed with the drafts."""
    previews: list[tuple[str, bytes]] = field(default_factory=list)
    saved: list[tuple[str, bytes]] = field(default_factory=list)
    """Id of a request to save an example, and its result."""


class LinkServer:
    """Bind the link, return new drafts, and acknowledge them once they are committed."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str, sequence_of: Callable[[bytes], int]
    ) -> None:
        """Bind `endpoint`; `sequence_of` returns the last journalled sequence number of a producer's instance."""
        self.socket = open_socket(context, zmq.ROUTER, max_bytes=MAX_LINK_MESSAGE_BYTES, io_thread=LINK_IO_THREAD)
        try:
            self.endpoint = bind(self.socket, endpoint, "link")
        except BusError:
            self.socket.close(0)
            raise
        self._sequence_of = sequence_of
        self._run = uuid.uuid4().bytes
        self._connections: dict[bytes, _LinkConnection] = {}
        self._producers: dict[bytes, _Producer] = {}
        self._active: set[bytes] = set()
        self._wanted = b"[]"
        self.refused = 0
        """The number of messages and drafts that were malformed."""

    def close(self) -> None:
        """Unbind; producers keep the drafts that were not acknowledged."""
        self.socket.close(0)

    def receive(self) -> ReceivedBatch:
        """Return the waiting messages, up to one batch. Call `acknowledge` after the commit."""
        batch = ReceivedBatch()
        for _ in range(_MAX_BATCH_MESSAGES):
            if len(batch.drafts) >= _MAX_BATCH_DRAFTS or not is_readable(self.socket):
                break
            self._handle(receive_now(self.socket), batch)
        return batch

    def acknowledge(self) -> None:
        """Tell the producers which drafts are committed."""
        for route, connection in self._connections.items():
            if connection.ack_due:
                connection.ack_due = False
                self._send(route, b"ack", U64.pack(self._producers[connection.instance].seq))

    def want_previews(self, streams: frozenset[str]) -> None:
        """Tell all producers which previews are wanted from now on."""
        self._wanted = orjson.dumps(sorted(streams))
        for route in self._connections:
            self._send(route, b"wanted", self._run, self._wanted)

    def send_action(self, stream: str, start: int, event: bytes) -> None:
        """Send the committed event of an action to the process that captures `stream`, for its clips.

        `start` is the offset of the action's start event, 0 if it is unknown.
        """
        name = CAPTURE_PREFIX + stream
        for route, connection in self._connections.items():
            if self._producers[connection.instance].name == name:
                self._send(route, b"action", U64.pack(start), event)

    def send_save(self, stream: str, request_id: str, request: bytes) -> bool:
        """Send the request for an example to the process that captures `stream`; return whether there is one."""
        name = CAPTURE_PREFIX + stream
        routes = [route for route, each in self._connections.items() if self._producers[each.instance].name == name]
        if not routes:
            return False
        # A connection of an ended process stays in the list for some seconds; the newest one answers.
        newest = max(routes, key=lambda route: self._connections[route].last_message_at)
        self._send(newest, b"save", request_id.encode(), request)
        return True

    def dropped(self) -> dict[str, int]:
        """Return how many drafts all known producers dropped while they had no hub, by stream."""
        total: dict[str, int] = {}
        for producer in self._producers.values():
            for stream, count in producer.dropped.items():
                total[stream] = total.get(stream, 0) + count
        return total

    def active_producers(self) -> set[bytes]:
        """Return the instances that sent anything since the last call."""
        active, self._active = self._active, set()
        return active

    def forget_silent(self) -> None:
        """Forget connections and producers that have ended; the journal still has their sequence numbers."""
        oldest = time.monotonic() - _CONNECTION_TIMEOUT_S
        self._connections = {route: each for route, each in self._connections.items() if each.last_message_at > oldest}
        if len(self._producers) > _MAX_CONNECTIONS:
            present = {connection.instance for connection in self._connections.values()}
            self._producers = {key: value for key, value in self._producers.items() if key in present}

    def _handle(self, frames: list[bytes], batch: ReceivedBatch) -> None:
        try:
            self._parse(frames, batch)
        except (EventError, ValueError, TypeError, struct.error) as error:
            self._refuse(str(error))

    def _parse(self, frames: list[bytes], batch: ReceivedBatch) -> None:
        match frames:
            case [_, b"preview", stream, jpeg]:
                name = stream.decode()
                if not valid_stream_name(name) or len(jpeg) > MAX_PREVIEW_BYTES:
                    raise EventError(f"preview of {len(jpeg)} bytes for {name[:64]!r}")
                batch.previews.append((name, jpeg))
            case [_, b"saved", request_id, result] if len(request_id) <= MAX_NAME_BYTES:
                batch.saved.append((request_id.decode(), result))
            case [route, b"hello", instance, name_bytes, dropped]:
                _, producer = self._identify(route, instance, name_bytes)
                producer.dropped = _parse_counts(orjson.loads(dropped))
                self._send(route, b"wanted", self._run, self._wanted)
            case [route, b"drafts", instance, name_bytes, after, body]:
                connection, producer = self._identify(route, instance, name_bytes)
                if U64.unpack(after)[0] > producer.seq:
                    # Drafts before these were lost with an earlier hub.
                    self._send(route, b"again", U64.pack(producer.seq))
                    return
                connection.ack_due = True
                self._add_drafts(orjson.loads(body), producer, batch)
                batch.senders += [instance] * (len(batch.drafts) - len(batch.senders))
                batch.sequences[instance] = producer.seq
            case _:
                raise EventError(f"{len(frames)} frames that are no message of the link")

    def _identify(self, route: bytes, instance: bytes, name: bytes) -> tuple[_LinkConnection, _Producer]:
        if len(instance) != INSTANCE_BYTES or not 1 <= len(name) <= MAX_NAME_BYTES:
            raise EventError(
                f"instance of {len(instance)} bytes, name of {len(name)}: must be {INSTANCE_BYTES}, "
                f"and 1 to {MAX_NAME_BYTES}"
            )
        now = time.monotonic()
        if instance not in self._producers:
            self._producers[instance] = _Producer(name.decode(), self._sequence_of(instance))
        if route not in self._connections:
            if len(self._connections) >= _MAX_CONNECTIONS:
                raise EventError(f"more than {_MAX_CONNECTIONS} producers at once")
            self._connections[route] = _LinkConnection(instance, now)
        producer, connection = self._producers[instance], self._connections[route]
        connection.last_message_at = now
        self._active.add(instance)
        connection.instance = instance
        return connection, producer

    def _add_drafts(self, items: Any, producer: _Producer, batch: ReceivedBatch) -> None:
        if not isinstance(items, list):
            raise EventError("drafts that are not a list")
        for item in items:
            seq, kind, stream, captured_ns, body = item
            if type(seq) is not int or seq <= producer.seq:
                continue  # sent again, but already committed
            producer.seq = seq
            try:
                batch.drafts.append(_parse_draft(kind, stream, body, captured_ns))
            except EventError as error:
                self._refuse(f"{producer.name}: {error}")

    def _refuse(self, why: str) -> None:
        self.refused += 1
        if self.refused <= 10 or self.refused % 1000 == 0:
            log.warning("link: refused message %d: %s", self.refused, why)

    def _send(self, route: bytes, *frames: bytes) -> None:
        # A producer that does not read now asks again by itself.
        with contextlib.suppress(zmq.Again):
            send_now(self.socket, route, *frames)


def _parse_draft(kind: Any, stream: Any, body: Any, captured_ns: Any) -> Draft:
    if not isinstance(body, dict) or not isinstance(captured_ns, int | None):
        raise EventError("a draft's body must be an object, its captured_ns a number or null")
    return Draft(kind, stream, body, captured_ns)


def _parse_counts(value: Any) -> dict[str, int]:
    if not isinstance(value, dict) or len(value) > _MAX_CONNECTIONS:
        raise EventError("dropped totals that are not an object")
    return {
        stream: count
        for stream, count in value.items()
        if valid_stream_name(stream) and type(count) is int and count >= 0
    }
