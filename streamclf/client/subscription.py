"""Reading a service's events: `with streamclf.subscribe(ENDPOINT) as events: for event in events: ...`.

Plain subscribing sees what arrives. With `replay=True` nothing is missed: gaps show in the offsets and heartbeats, and
what is missing is pulled from the journal, page by page. Each event then comes at least once; its (epoch, offset) tells
a repetition. Without a stream filter all come in the journal's order, with one each stream's come in order.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, TypeAlias
from urllib.parse import urlsplit

import zmq

from streamclf.client.gaps import GapTracker
from streamclf.client.replay import ReplayClient, Snapshot
from streamclf.errors import BusError, EventError, UsageError
from streamclf.events.positions import Position
from streamclf.events.types import (
    HEARTBEAT_TOPIC,
    JOURNALLED,
    MAX_PREVIEW_BYTES,
    Heartbeat,
    Lost,
    Received,
    StreamEvent,
    parse_event,
    topic_of,
)
from streamclf.net.curve_client import HandshakeMonitor, ServiceAddress, resolve_service_address
from streamclf.net.names import valid_stream_name
from streamclf.net.zeromq import open_socket, receive_now

Kind: TypeAlias = Literal["prediction", "action", "status", "heartbeat"]
KINDS: Final = (*JOURNALLED, "heartbeat")
_RECEIVE_HIGH_WATER = 10_000
_MOST_TOPICS = 256
"""Of more streams than this allows, everything is asked for and ours are picked here: services limit topics."""
_POLL_S = 0.5
_ASYNC_POLL_S = 0.2


def subscribe(
    endpoint: str | Path,
    *,
    streams: Collection[str] | None = None,
    types: Collection[Kind] | None = None,
    replay: bool = False,
    after: Position | None = None,
    patience_s: float | None = None,
    keys: str | Path | None = None,
    server_key: str | Path | None = None,
) -> Subscription:
    """Connect to a service's events; nothing has to be there yet.

    A service with keys: `keys` is this subscriber's secret file (`streamclf keys`), `server_key` the service's public
    one. A file that was made for the service holds that, and where it is, and can stand as `endpoint` alone.

    `streams` and `types` (prediction, action, status, heartbeat) restrict what is returned; None means all. `after`
    (with `replay`) resumes behind a stored `Subscription.position`, or at `START`; None begins now. `patience_s`: raise
    `BusError` when a service has been silent for so long (a heartbeat comes each second); None waits for ever.
    """
    address = resolve_service_address(endpoint, keys, server_key)
    for stream in streams or ():
        if not valid_stream_name(stream):
            raise UsageError(f"stream {stream!r}: 1 to 64 of letters, digits, _ and -")
    for kind in types or ():
        if kind not in KINDS:
            raise UsageError(f"type {kind!r}: one of {', '.join(KINDS)}")
    if after is not None and not replay:
        raise UsageError("after=: only together with replay=True")
    return Subscription(address, streams, types, replay, after, patience_s)


def snapshot(
    endpoint: str | Path,
    *,
    streams: Collection[str] | None = None,
    types: Collection[Kind] | None = None,
    timeout_s: float = 5.0,
    keys: str | Path | None = None,
    server_key: str | Path | None = None,
) -> Snapshot:
    """The last event of each stream and type, for those who come late; raises `BusError` if nobody answers in time."""
    with subscribe(endpoint, streams=streams, types=types, keys=keys, server_key=server_key) as events:
        return events.snapshot(timeout_s)


class Subscription:
    """An iterator of typed events and a context manager; one thread. Use `subscribe` to make one."""

    def __init__(
        self,
        address: ServiceAddress,
        streams: Collection[str] | None,
        types: Collection[Kind] | None,
        replay: bool,
        after: Position | None,
        patience_s: float | None,
    ) -> None:
        self.endpoint = address.endpoint
        self._address = address
        self._handshakes = HandshakeMonitor(address)
        self._streams = None if streams is None else frozenset(streams)
        self._types = frozenset(KINDS if types is None else types)
        self._patience_s = patience_s
        self._heard_at = time.monotonic()
        self._ready: deque[Received] = deque()
        self._previews: dict[str, bytes] = {}
        self._tracker = GapTracker(self._streams, after) if replay else None
        self._preview_topics: set[bytes] = set()
        self._context = zmq.Context(io_threads=1)
        self._socket = self._connect()
        self._replay_endpoint: str | None = None
        self._puller: ReplayClient | None = None
        self.refused = 0
        """Messages that were not events."""
        self.missed = 0
        """Events that did not arrive over the live socket (with `replay` they were pulled instead)."""
        self._last_seen: dict[str, int] = {}
        self._in_use = threading.Lock()

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self.close()

    def __iter__(self) -> Iterator[Received]:
        while True:
            event = self.receive(_POLL_S)
            if event is not None:
                yield event

    async def __aiter__(self) -> AsyncIterator[Received]:
        """The same in an event loop: each wait is in a thread, and short, so that a cancelled task ends soon."""
        while True:
            event = self._ready_event() or await asyncio.to_thread(self.receive, _ASYNC_POLL_S)
            if event is not None:
                yield event

    @property
    def position(self) -> Position | None:
        """With `replay`: everything up to here has been returned. Store it, give it as `after` to resume."""
        if self._tracker is None or self._ready:
            return self._tracker.returned if self._tracker else None
        return self._tracker.position

    @property
    def previews(self) -> dict[str, bytes]:
        """Takes out the latest JPEG of each stream since the last call; see `watch_previews`."""
        taken, self._previews = self._previews, {}
        return taken

    def watch_previews(self, streams: Collection[str] | None = None) -> None:
        """Ask for small pictures, too; they cost the service work, so only while somebody looks."""
        for topic in [b"preview/"] if streams is None else [topic_of("preview", stream) for stream in streams]:
            self._preview_topics.add(topic)
            self._socket.subscribe(topic)

    def snapshot(self, timeout_s: float = 5.0) -> Snapshot:
        """The last event of each stream and type that this subscription is about.

        What arrives meanwhile is kept for `receive`, and may be in both. Raises `BusError` if nobody answers in time.
        """
        with self._in_use:
            return self._snapshot(timeout_s, time.monotonic() + timeout_s)

    def receive(self, timeout_s: float) -> Received | None:
        """The next event, or None when none came in `timeout_s`."""
        with self._in_use:
            return self._receive(timeout_s)

    def _receive(self, timeout_s: float) -> Received | None:
        if self._context.closed:
            return None
        deadline = time.monotonic() + timeout_s
        while not self._ready:
            remaining = deadline - time.monotonic()
            self._check_patience()
            if self._behind():
                self._pull(max(0.0, remaining))
            else:
                self._listen(max(0.0, remaining))
            if remaining <= 0:
                break
        return self._ready_event()

    def _snapshot(self, timeout_s: float, deadline: float) -> Snapshot:
        while self._replay_endpoint is None and (remaining := deadline - time.monotonic()) > 0:
            self._listen(remaining)
        if self._replay_endpoint is None:
            raise BusError(
                f"{self.endpoint}: nothing heard for {timeout_s:g} s; is the service running, and is this its "
                "`publish.events` endpoint?"
            )
        puller = ReplayClient(self._context, self._replay_endpoint, sorted(self._streams or ()), self._address)
        try:
            found = puller.snapshot(self._types.intersection(JOURNALLED), deadline)
        finally:
            puller.close()
        if found is None:
            raise BusError(
                f"{self._replay_endpoint}: no answer within {timeout_s:g} s though {self.endpoint} is alive; can its "
                "`publish.replay` endpoint be reached from here?"
            )
        return found

    def _ready_event(self) -> Received | None:
        if not self._ready:
            return None
        event = self._ready.popleft()
        if self._tracker:
            self._tracker.note_returned(event)
        return event

    def close(self) -> None:
        """Disconnect."""
        with self._in_use:  # the thread of a cancelled task may still wait for the socket
            self._close()

    def _close(self) -> None:
        if self._puller:
            self._puller.close()
        self._handshakes.detach()
        self._socket.close(0)
        self._context.term()

    def _connect(self) -> zmq.Socket[bytes]:
        socket = open_socket(self._context, zmq.SUB, max_bytes=MAX_PREVIEW_BYTES)
        socket.rcvhwm = _RECEIVE_HIGH_WATER
        socket.reconnect_ivl, socket.reconnect_ivl_max = 50, 1000
        socket.subscribe(HEARTBEAT_TOPIC)
        for topic in (*self._event_topics(), *self._preview_topics):
            socket.subscribe(topic)
        self._address.configure(socket)
        handshakes = self._handshakes.attach(socket)
        self._poller = zmq.Poller()
        for each in (socket, handshakes):
            self._poller.register(each, zmq.POLLIN)
        try:
            socket.connect(self.endpoint)
        except zmq.ZMQError as error:
            self._handshakes.detach()
            self._context.destroy(linger=0)
            raise BusError(f"{self.endpoint}: {error.strerror}; give an endpoint like tcp://127.0.0.1:5555") from error
        return socket

    def _event_topics(self) -> list[bytes]:
        # A stream's offsets run through all its types: who wants to see gaps must hear them all.
        kinds = JOURNALLED if self._tracker else tuple(kind for kind in JOURNALLED if kind in self._types)
        if self._streams is None or len(kinds) * len(self._streams) > _MOST_TOPICS:
            return [f"{kind}/".encode() for kind in kinds]
        return [topic_of(kind, stream) for kind in kinds for stream in self._streams]

    def _check_patience(self) -> None:
        silent_s = time.monotonic() - self._heard_at
        if self._patience_s is not None and silent_s > self._patience_s:
            raise BusError(
                f"{self.endpoint}: nothing heard for {silent_s:.0f} s; is the service running, and is this its "
                "`publish.events` endpoint?"
            )

    def _listen(self, timeout_s: float) -> None:
        if self._handshakes.check():
            self._handshakes.detach()
            self._socket.close(0)
            self._socket = self._connect()
        ready = dict(self._poller.poll(math.ceil(1000 * timeout_s)))
        if self._socket not in ready:
            return
        frames = receive_now(self._socket)
        self._heard_at = time.monotonic()
        if len(frames) != 2:
            self.refused += 1
        elif frames[0].startswith(b"preview/"):
            self._previews[frames[0][len(b"preview/") : -1].decode("ascii", "replace")] = frames[1]
        else:
            self._take(frames[1])

    def _take(self, payload: bytes) -> None:
        try:
            event = parse_event(payload)
        except EventError:
            self.refused += 1
            return
        if isinstance(event, Heartbeat):
            self._replay_endpoint = _reachable(event.replay, self.endpoint)
        elif self._streams is not None and event.stream not in self._streams:
            return
        else:
            self._count_missed(event)
        if self._tracker is None:
            self._return([event])
        elif isinstance(event, Heartbeat):
            self._return([event, *self._tracker.heartbeat(event)])
            self._meet(self._replay_endpoint)
        else:
            self._return(self._tracker.live(event))

    def _count_missed(self, event: StreamEvent) -> None:
        if event.offset is None:
            return
        known = self._last_seen.get(event.stream)
        if known is not None and event.previous > known and (self._tracker or self._types >= set(JOURNALLED)):
            self.missed += 1
        self._last_seen[event.stream] = event.offset

    def _return(self, events: Collection[Received]) -> None:
        self._ready.extend(e for e in events if isinstance(e, Lost) or e.type in self._types)

    def _behind(self) -> bool:
        return self._tracker is not None and self._tracker.behind and self._puller is not None

    def _meet(self, replay: str | None) -> None:
        if self._puller and self._puller.endpoint != replay:
            self._puller.close()
            self._puller = None
        if self._puller is None and replay is not None:
            self._puller = ReplayClient(self._context, replay, sorted(self._streams or ()), self._address)

    def _pull(self, timeout_s: float) -> None:
        assert self._tracker is not None
        assert self._puller is not None
        page = self._puller.pull(self._tracker.position, timeout_s)
        if page is not None:
            self._heard_at = time.monotonic()
            self._return(self._tracker.page(page))
        elif self._puller.resting:
            self._listen(min(timeout_s, 0.1))  # the service is away: its heartbeat will say when it is back


def _reachable(replay: str, events: str) -> str:
    """The service names its replay endpoint as it sees itself; from another machine only the port holds."""
    ours, theirs = urlsplit(events), urlsplit(replay)
    if ours.scheme != "tcp" or theirs.scheme != "tcp":
        return replay
    return f"tcp://{ours.netloc.rpartition(':')[0]}:{theirs.netloc.rpartition(':')[2]}"
