"""The hub's end of the producers' links: each draft once, in each producer's order, whatever was sent again."""

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
from streamclf.events.types import MAX_PREVIEW_BYTES
from streamclf.hub.publisher import LINK_IO_THREAD
from streamclf.net.names import valid_stream_name
from streamclf.net.zeromq import bind, is_readable, open_socket, receive_now, send_now
from streamclf.producer.link_protocol import MAX_LINK_MESSAGE_BYTES, U64

log = logging.getLogger(__name__)

_PEER_SILENT_S: Final = 10.0
_MAX_PEERS: Final = 1024
_MESSAGES_A_TURN = 64
_DRAFTS_A_TURN = 1024


@dataclass(slots=True)
class _Peer:
    """One connection of a producer."""

    instance: bytes
    heard_at: float
    ack_due: bool = False


@dataclass(slots=True)
class _Producer:
    """One life of one producing process, over any number of connections."""

    name: str
    seq: int
    dropped: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class ReceivedBatch:
    """What came in one turn of the hub's loop."""

    drafts: list[Draft] = field(default_factory=list)
    senders: list[bytes] = field(default_factory=list)
    """The instance that sent each draft."""
    sequences: dict[bytes, int] = field(default_factory=dict)
    previews: list[tuple[str, bytes]] = field(default_factory=list)


class LinkServer:
    """Binds the link; hands out new drafts and acknowledges them once they are committed."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str, sequence_of: Callable[[bytes], int]
    ) -> None:
        self.socket = open_socket(context, zmq.ROUTER, max_bytes=MAX_LINK_MESSAGE_BYTES, io_thread=LINK_IO_THREAD)
        try:
            self.endpoint = bind(self.socket, endpoint, "link")
        except BusError:
            self.socket.close(0)
            raise
        self._sequence_of = sequence_of
        self._run = uuid.uuid4().bytes
        self._peers: dict[bytes, _Peer] = {}
        self._producers: dict[bytes, _Producer] = {}
        self._heard: set[bytes] = set()
        self._wanted = b"[]"
        self.refused = 0
        """Messages and drafts that were not what a link sends."""

    def close(self) -> None:
        """Unbind; producers keep what was not acknowledged."""
        self.socket.close(0)

    def receive(self) -> ReceivedBatch:
        """Everything that waits, up to one turn's worth. Call `acknowledge` after the commit."""
        turn = ReceivedBatch()
        for _ in range(_MESSAGES_A_TURN):
            if len(turn.drafts) >= _DRAFTS_A_TURN or not is_readable(self.socket):
                break
            self._offer(receive_now(self.socket), turn)
        return turn

    def acknowledge(self) -> None:
        """Tell the producers what is committed."""
        for route, peer in self._peers.items():
            if peer.ack_due:
                peer.ack_due = False
                self._send(route, b"ack", U64.pack(self._producers[peer.instance].seq))

    def want_previews(self, streams: frozenset[str]) -> None:
        """Tell all producers which previews are watched from now on."""
        self._wanted = orjson.dumps(sorted(streams))
        for route in self._peers:
            self._send(route, b"wanted", self._run, self._wanted)

    def dropped(self) -> dict[str, int]:
        """Drafts that producers gave up because the hub was away, by stream, summed over those still known."""
        total: dict[str, int] = {}
        for producer in self._producers.values():
            for stream, count in producer.dropped.items():
                total[stream] = total.get(stream, 0) + count
        return total

    def heard(self) -> set[bytes]:
        """The producers' instances that sent anything since the last call."""
        heard, self._heard = self._heard, set()
        return heard

    def forget_silent(self) -> None:
        """Let go of connections and producers that are gone; the journal still knows their sequence numbers."""
        now = time.monotonic()
        self._peers = {route: peer for route, peer in self._peers.items() if now - peer.heard_at < _PEER_SILENT_S}
        if len(self._producers) > _MAX_PEERS:
            present = {peer.instance for peer in self._peers.values()}
            self._producers = {key: value for key, value in self._producers.items() if key in present}

    def _offer(self, frames: list[bytes], turn: ReceivedBatch) -> None:
        try:
            self._take(frames, turn)
        except (EventError, ValueError, TypeError, struct.error) as error:
            self._refuse(str(error))

    def _take(self, frames: list[bytes], turn: ReceivedBatch) -> None:
        match frames:
            case [_, b"preview", stream, jpeg]:
                name = stream.decode()
                if not valid_stream_name(name) or len(jpeg) > MAX_PREVIEW_BYTES:
                    raise EventError(f"preview of {len(jpeg)} bytes for {name[:64]!r}")
                turn.previews.append((name, jpeg))
            case [route, b"hello", instance, name_bytes, dropped]:
                _, producer = self._known(route, instance, name_bytes)
                producer.dropped = _counts(orjson.loads(dropped))
                self._send(route, b"wanted", self._run, self._wanted)
            case [route, b"drafts", instance, name_bytes, after, body]:
                peer, producer = self._known(route, instance, name_bytes)
                if U64.unpack(after)[0] > producer.seq:
                    # Something before these was on its way to a hub that is gone.
                    self._send(route, b"again", U64.pack(producer.seq))
                    return
                peer.ack_due = True
                self._new_drafts(orjson.loads(body), producer, turn)
                turn.senders += [instance] * (len(turn.drafts) - len(turn.senders))
                turn.sequences[instance] = producer.seq
            case _:
                raise EventError(f"{len(frames)} frames that no link sends")

    def _known(self, route: bytes, instance: bytes, name: bytes) -> tuple[_Peer, _Producer]:
        if len(instance) != 16 or not 1 <= len(name) <= 128:
            raise EventError(f"instance of {len(instance)} bytes, name of {len(name)}: 16, and 1 to 128")
        now = time.monotonic()
        if instance not in self._producers:
            self._producers[instance] = _Producer(name.decode(), self._sequence_of(instance))
        if route not in self._peers:
            if len(self._peers) >= _MAX_PEERS:
                raise EventError(f"more than {_MAX_PEERS} producers at once")
            self._peers[route] = _Peer(instance, now)
        producer, peer = self._producers[instance], self._peers[route]
        peer.heard_at = now
        self._heard.add(instance)
        peer.instance = instance
        return peer, producer

    def _new_drafts(self, items: Any, producer: _Producer, turn: ReceivedBatch) -> None:
        if not isinstance(items, list):
            raise EventError("drafts that are not a list")
        for item in items:
            seq, kind, stream, captured_ns, body = item
            if type(seq) is not int or seq <= producer.seq:
                continue  # sent again, and committed before
            producer.seq = seq
            try:
                turn.drafts.append(_draft(kind, stream, body, captured_ns))
            except EventError as error:
                self._refuse(f"{producer.name}: {error}")

    def _refuse(self, why: str) -> None:
        self.refused += 1
        if self.refused <= 10 or self.refused % 1000 == 0:
            log.warning("link: refused message %d: %s", self.refused, why)

    def _send(self, route: bytes, *frames: bytes) -> None:
        # A producer that is gone or does not read asks again by itself.
        with contextlib.suppress(zmq.Again):
            send_now(self.socket, route, *frames)


def _draft(kind: Any, stream: Any, body: Any, captured_ns: Any) -> Draft:
    if not isinstance(body, dict) or not isinstance(captured_ns, int | None):
        raise EventError("a draft's body is an object, its captured_ns a number or null")
    return Draft(kind, stream, body, captured_ns)


def _counts(value: Any) -> dict[str, int]:
    if not isinstance(value, dict) or len(value) > _MAX_PEERS:
        raise EventError("dropped totals that are not an object")
    return {
        stream: count
        for stream, count in value.items()
        if valid_stream_name(stream) and type(count) is int and count >= 0
    }
