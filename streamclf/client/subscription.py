"""Receive a service's events: `with streamclf.subscribe(ENDPOINT) as events: for event in events: ...`.

A plain subscription returns the events that arrive. With `replay=True` it misses none: it finds gaps from the offsets
and heartbeats, and fetches the missing events from the journal, page by page. Each event is then returned at least
once; its (epoch, offset) identifies a repetition. Without a stream filter, all events are returned in the journal's
order. With a filter, the events of each stream are returned in order.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, TypeAlias

import zmq

from streamclf.client.event_socket import EventSocket
from streamclf.client.gaps import GapTracker
from streamclf.client.replay import ReplayClient, Snapshot
from streamclf.errors import BusError, EventError, UsageError
from streamclf.events.positions import Position
from streamclf.events.types import (
    HEARTBEAT_TOPIC,
    JOURNALLED,
    Heartbeat,
    Lost,
    Received,
    StreamEvent,
    parse_event,
    topic_of,
)
from streamclf.net.curve_client import ServiceAddress, resolve_service_address
from streamclf.net.endpoints import reachable_endpoint
from streamclf.net.names import STREAM_NAME_RULE, valid_stream_name

Kind: TypeAlias = Literal["prediction", "action", "status", "heartbeat"]
KINDS: Final = (*JOURNALLED, "heartbeat")
_MAX_TOPICS: Final = 256
"""With more topics, subscribe to all streams and filter here: services limit the topics of a connection."""
_POLL_S: Final = 0.5
"""Longest wait of the iterator for one message; Ctrl-C and `patience_s` are noticed between two waits."""
_ASYNC_POLL_S: Final = 0.2
"""The same for the asynchronous iterator: a cancelled task ends within this time."""
_RETRY_POLL_S: Final = 0.1
"""Longest wait for a live message while the replay client pauses."""


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
    """Subscribe to a service's events; the service may start later.

    `streams` and `types` (prediction, action, status, heartbeat) restrict the returned events; None means all. `after`
    (with `replay`) resumes after a stored `Subscription.position`, or at `START`; None starts with the next event.
    `patience_s` is the time without any message after which `BusError` is raised (the service sends a heartbeat each
    second); with None there is no limit.

    For a service with keys, `keys` is this subscriber's secret file (`streamclf keys`) and `server_key` the service's
    public file. A secret file that was made for the service holds the public key and the endpoint too; then give that
    file as `endpoint` and nothing else.
    """
    address = resolve_service_address(endpoint, keys, server_key)
    for stream in streams or ():
        if not valid_stream_name(stream):
            raise UsageError(f"stream {stream!r}: must be {STREAM_NAME_RULE}")
    for kind in types or ():
        if kind not in KINDS:
            raise UsageError(f"type {kind!r}: must be one of {', '.join(KINDS)}")
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
    """Fetch the last event of each stream and type. Raises `BusError` if there is no answer within `timeout_s`."""
    with subscribe(endpoint, streams=streams, types=types, keys=keys, server_key=server_key) as events:
        return events.snapshot(timeout_s)


class Subscription:
    """An iterator of typed events and a context manager, for one thread. Use `subscribe` to make one."""

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
        self._streams = None if streams is None else frozenset(streams)
        self._types = frozenset(KINDS if types is None else types)
        self._patience_s = patience_s
        self._last_message_at = time.monotonic()
        self._ready: deque[Received] = deque()
        self._previews: dict[str, bytes] = {}
        self._tracker = GapTracker(self._streams, after) if replay else None
        self._replay_endpoint: str | None = None
        self._replay_client: ReplayClient | None = None
        self.refused = 0
        """The number of messages that were not events."""
        self.missed = 0
        """The number of events that did not arrive over the live socket (with `replay` they were fetched instead)."""
        self._last_offsets: dict[str, int] = {}
        self._in_use = threading.Lock()
        self._context = zmq.Context(io_threads=1)
        try:
            self._socket = EventSocket(self._context, address, [HEARTBEAT_TOPIC, *self._event_topics()])
        except BusError:
            self._context.destroy(linger=0)
            raise

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
        """Iterate in an event loop; each wait is short and in a thread, so that a cancelled task ends soon."""
        while True:
            event = self._pop_ready() or await asyncio.to_thread(self.receive, _ASYNC_POLL_S)
            if event is not None:
                yield event

    @property
    def position(self) -> Position | None:
        """With `replay`, the position up to which everything was returned; store it, and resume with it as `after`."""
        if self._tracker is None or self._ready:
            return self._tracker.returned if self._tracker else None
        return self._tracker.position

    @property
    def previews(self) -> dict[str, bytes]:
        """The latest JPEG of each stream since the last access, which clears them; see `watch_previews`."""
        previews, self._previews = self._previews, {}
        return previews

    def watch_previews(self, streams: Collection[str] | None = None) -> None:
        """Subscribe to previews, too. They cost the service work, so subscribe only while somebody watches."""
        for topic in [b"preview/"] if streams is None else [topic_of("preview", stream) for stream in streams]:
            self._socket.subscribe(topic)

    def snapshot(self, timeout_s: float = 5.0) -> Snapshot:
        """Fetch the last event of each stream and type of this subscription.

        Events that arrive meanwhile are kept for `receive`; they may also be in the snapshot. Raises `BusError` if
        there is no answer within `timeout_s`.
        """
        with self._in_use:
            return self._snapshot(timeout_s, time.monotonic() + timeout_s)

    def receive(self, timeout_s: float) -> Received | None:
        """Return the next event, or None if there is none within `timeout_s`."""
        with self._in_use:
            return self._receive(timeout_s)

    def close(self) -> None:
        """Disconnect."""
        with self._in_use:  # the thread of a cancelled task may still wait for the socket
            if self._replay_client:
                self._replay_client.close()
            self._socket.close()
            self._context.term()

    def _receive(self, timeout_s: float) -> Received | None:
        if self._context.closed:
            return None
        deadline = time.monotonic() + timeout_s
        while not self._ready:
            remaining_s = deadline - time.monotonic()
            self._check_silence()
            if self._is_behind():
                self._fetch_page(max(0.0, remaining_s))
            else:
                self._receive_live(max(0.0, remaining_s))
            if remaining_s <= 0:
                break
        return self._pop_ready()

    def _snapshot(self, timeout_s: float, deadline: float) -> Snapshot:
        while self._replay_endpoint is None and (remaining_s := deadline - time.monotonic()) > 0:
            self._receive_live(remaining_s)
        if self._replay_endpoint is None:
            raise self._silence_error(f"{timeout_s:g}")
        client = self._make_replay_client(self._replay_endpoint)
        try:
            found = client.snapshot(self._types.intersection(JOURNALLED), deadline)
        finally:
            client.close()
        if found is None:
            raise BusError(
                f"{self._replay_endpoint}: no answer within {timeout_s:g} s though {self.endpoint} is alive; can its "
                "`publish.replay` endpoint be reached from here?"
            )
        return found

    def _event_topics(self) -> list[bytes]:
        # A stream's offsets run through all its types, so finding gaps needs events of every type.
        kinds = JOURNALLED if self._tracker else tuple(kind for kind in JOURNALLED if kind in self._types)
        if self._streams is None or len(kinds) * len(self._streams) > _MAX_TOPICS:
            return [f"{kind}/".encode() for kind in kinds]
        return [topic_of(kind, stream) for kind in kinds for stream in self._streams]

    def _check_silence(self) -> None:
        silent_s = time.monotonic() - self._last_message_at
        if self._patience_s is not None and silent_s > self._patience_s:
            raise self._silence_error(f"{silent_s:.0f}")

    def _silence_error(self, seconds: str) -> BusError:
        return BusError(
            f"{self.endpoint}: no message for {seconds} s; is the service running, and is this its "
            "`publish.events` endpoint?"
        )

    def _receive_live(self, timeout_s: float) -> None:
        frames = self._socket.receive(timeout_s)
        if frames is None:
            return
        self._last_message_at = time.monotonic()
        if len(frames) != 2:
            self.refused += 1
        elif frames[0].startswith(b"preview/"):
            self._previews[frames[0][len(b"preview/") : -1].decode("ascii", "replace")] = frames[1]
        else:
            self._handle_event(frames[1])

    def _handle_event(self, payload: bytes) -> None:
        try:
            event = parse_event(payload)
        except EventError:
            self.refused += 1
            return
        if isinstance(event, Heartbeat):
            self._replay_endpoint = reachable_endpoint(event.replay, self.endpoint)
        elif self._streams is not None and event.stream not in self._streams:
            return
        else:
            self._count_missed(event)
        if self._tracker is None:
            self._add_ready([event])
        elif isinstance(event, Heartbeat):
            self._add_ready([event, *self._tracker.add_heartbeat(event)])
            self._use_replay_endpoint(self._replay_endpoint)
        else:
            self._add_ready(self._tracker.add_event(event))

    def _count_missed(self, event: StreamEvent) -> None:
        if event.offset is None:
            return
        known = self._last_offsets.get(event.stream)
        if known is not None and event.previous > known and (self._tracker or self._types >= set(JOURNALLED)):
            self.missed += 1
        self._last_offsets[event.stream] = event.offset

    def _add_ready(self, events: Collection[Received]) -> None:
        self._ready.extend(e for e in events if isinstance(e, Lost) or e.type in self._types)

    def _pop_ready(self) -> Received | None:
        if not self._ready:
            return None
        event = self._ready.popleft()
        if self._tracker:
            self._tracker.note_returned(event)
        return event

    def _is_behind(self) -> bool:
        return self._tracker is not None and self._tracker.is_behind and self._replay_client is not None

    def _use_replay_endpoint(self, replay: str | None) -> None:
        if self._replay_client and self._replay_client.endpoint != replay:
            self._replay_client.close()
            self._replay_client = None
        if self._replay_client is None and replay is not None:
            self._replay_client = self._make_replay_client(replay)

    def _make_replay_client(self, replay: str) -> ReplayClient:
        return ReplayClient(self._context, replay, sorted(self._streams or ()), self._address)

    def _fetch_page(self, timeout_s: float) -> None:
        assert self._tracker is not None
        assert self._replay_client is not None
        page = self._replay_client.fetch_page(self._tracker.position, timeout_s)
        if page is not None:
            self._last_message_at = time.monotonic()
            self._add_ready(self._tracker.add_page(page))
        elif self._replay_client.is_pausing:
            self._receive_live(
                min(timeout_s, _RETRY_POLL_S)
            )  # the service cannot be reached; a heartbeat shows when it is back
