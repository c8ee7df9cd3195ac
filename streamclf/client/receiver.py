"""Receive the events of one service over its sockets, and fetch those that did not arrive from the journal.

One thread at a time may call an `EventReceiver`; `streamclf.client.subscription` takes care of that.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Final, Literal, TypeAlias

import zmq

from streamclf.client.event_socket import EventSocket
from streamclf.client.gaps import GapTracker
from streamclf.client.replay import ReplayClient, Snapshot
from streamclf.errors import BusError, EventError
from streamclf.events.kinds import JOURNALLED
from streamclf.events.positions import Position
from streamclf.events.types import (
    HEARTBEAT_TOPIC,
    Event,
    Heartbeat,
    Lost,
    Received,
    Status,
    StreamEvent,
    parse_event,
    topic_of,
)
from streamclf.net.curve_client import ServiceAddress
from streamclf.net.endpoints import reachable_endpoint

Kind: TypeAlias = Literal["prediction", "action", "status", "clip", "heartbeat"]
KINDS: Final = (*JOURNALLED, "heartbeat")
POLL_S: Final = 0.5
"""Longest wait for one message; Ctrl-C, `close` and `patience_s` are noticed between two waits."""
_MAX_TOPICS: Final = 256
"""With more topics, subscribe to all streams and filter here: services limit the topics of a connection."""
_RETRY_POLL_S: Final = 0.1
"""Longest wait for a live message while the replay client pauses."""


class EventReceiver:
    """The sockets of a subscription, and the events that were received and not returned yet."""

    def __init__(
        self,
        address: ServiceAddress,
        streams: Collection[str] | None,
        types: Collection[Kind] | None,
        replay: bool,
        after: Position | None,
        patience_s: float | None,
        regions: Collection[str] | None = None,
        *,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
        replay_endpoint: str | None = None,
    ) -> None:
        """Connect. The node of a fleet shares a `context` with others, and has a known `replay_endpoint`."""
        self.endpoint = address.endpoint
        self._address = address
        self._streams = None if streams is None else frozenset(streams)
        self._regions = None if regions is None else frozenset(regions)
        self._types = frozenset(KINDS if types is None else types)
        self._patience_s = patience_s
        self._last_message_at = time.monotonic()
        self._ready: deque[Received] = deque()
        self.previews: dict[str, bytes] = {}
        self._watched: frozenset[str] = frozenset()
        self._tracker = GapTracker(self._streams, after) if replay else None
        self._known_replay = self._replay_endpoint = replay_endpoint
        self._replay_client: ReplayClient | None = None
        self.refused = 0
        self.missed = 0
        self._last_offsets: dict[str, int] = {}
        self._own_context = None if context else zmq.Context(io_threads=1)
        self._context = context or self._own_context or zmq.Context()
        self._closed = False
        try:
            self._socket = EventSocket(self._context, address, [HEARTBEAT_TOPIC, *self._event_topics()])
        except BusError:
            if self._own_context:
                self._own_context.destroy(linger=0)
            raise

    @property
    def position(self) -> Position | None:
        """See `Subscription.position`."""
        if self._tracker is None or self._ready:
            return self._tracker.returned if self._tracker else None
        return self._tracker.position

    def watch_previews(self, streams: Collection[str] | None) -> None:
        """See `Subscription.watch_previews`."""
        for topic in [b"preview/"] if streams is None else [topic_of("preview", stream) for stream in streams]:
            self._socket.subscribe(topic)

    def watch_only(self, streams: frozenset[str]) -> None:
        """See `Subscription.watch_only`."""
        for stream in self._watched - streams:
            self._socket.cancel(topic_of("preview", stream))
        for stream in streams - self._watched:
            self._socket.subscribe(topic_of("preview", stream))
        self._watched = streams

    def receive(self, timeout_s: float) -> Received | None:
        """Return the next event, or None if there is none within `timeout_s`. Raises `BusError`."""
        deadline = time.monotonic() + timeout_s
        while not self._ready:
            remaining_s = deadline - time.monotonic()
            wait_s = max(0.0, min(remaining_s, self._until_silent_s()))
            if self._is_behind():
                self._fetch_page(wait_s)
            else:
                self._receive_live(wait_s)
            if not self._ready and self._until_silent_s() < 0:
                raise self._silence_error(f"{time.monotonic() - self._last_message_at:.0f}")
            if remaining_s <= 0:
                break
        return self._pop_ready()

    def begin_check(self) -> None:
        """Ask the journal for the newest events, also if none is missing; `is_checking` until they are returned."""
        if self._tracker:
            self._tracker.check()

    @property
    def is_checking(self) -> bool:
        """Whether events are missing, or wait to be returned."""
        return bool(self._ready) or (self._tracker is not None and self._tracker.is_behind)

    @property
    def has_ready(self) -> bool:
        """Whether `receive` returns an event without reading a message."""
        return bool(self._ready)

    def explain_silence(self) -> str:
        """Return why no message has come, as far as the connection shows it."""
        return self._socket.explain_silence()

    def next_messages(self) -> tuple[Sequence[zmq.Socket[bytes]], float]:
        """Return the sockets whose message `receive` needs next, and for how many seconds to wait for one."""
        if not self._is_behind():
            return self._socket.sockets, POLL_S
        assert self._replay_client is not None
        if self._replay_client.is_pausing or self._replay_client.socket is None:
            return self._socket.sockets, _RETRY_POLL_S
        return [self._replay_client.socket], POLL_S

    def snapshot(self, timeout_s: float) -> Snapshot:
        """See `Subscription.snapshot`."""
        deadline = time.monotonic() + timeout_s
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
        return replace(found, events=tuple(event for event in found.events if self._is_wanted(event)))

    def close(self) -> None:
        """Disconnect. May be called twice."""
        if self._closed:
            return
        self._closed = True
        if self._replay_client:
            self._replay_client.close()
        self._socket.close()
        if self._own_context:
            self._own_context.term()

    def _event_topics(self) -> list[bytes]:
        # A stream's offsets run through all its types and regions, so finding gaps needs all its events.
        kinds = JOURNALLED if self._tracker else tuple(kind for kind in JOURNALLED if kind in self._types)
        regions = [None] if self._regions is None or self._tracker else sorted(self._regions)
        if self._streams is None or len(kinds) * len(self._streams) * len(regions) > _MAX_TOPICS:
            return [f"{kind}/".encode() for kind in kinds]
        return [
            topic_of(kind, stream, region)
            for stream in self._streams
            for kind in kinds
            for region in ([None] if kind == "status" else regions)
        ]

    def _until_silent_s(self) -> float:
        """Return for how long the service may still send nothing."""
        silent_s = time.monotonic() - self._last_message_at
        return POLL_S if self._patience_s is None else self._patience_s - silent_s

    def _silence_error(self, seconds: str) -> BusError:
        reason = self._socket.explain_silence() or "is the service running, and is this its `publish.events` endpoint?"
        return BusError(f"{self.endpoint}: no message for {seconds} s; {reason}")

    def _receive_live(self, timeout_s: float) -> None:
        frames = self._socket.receive(timeout_s)
        if frames is None:
            return
        self._last_message_at = time.monotonic()
        if len(frames) != 2:
            self.refused += 1
        elif frames[0].startswith(b"preview/"):
            self.previews[frames[0][len(b"preview/") : -1].decode("ascii", "replace")] = frames[1]
        else:
            self._handle_event(frames[1])

    def _handle_event(self, payload: bytes) -> None:
        try:
            event = parse_event(payload)
        except EventError:
            self.refused += 1
            return
        if isinstance(event, Heartbeat):
            self._replay_endpoint = self._known_replay or reachable_endpoint(event.replay, self.endpoint)
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
        gets_all = self._tracker or (self._types >= set(JOURNALLED) and self._regions is None)
        if known is not None and event.previous > known and gets_all:
            self.missed += 1
        self._last_offsets[event.stream] = event.offset

    def _add_ready(self, events: Collection[Received]) -> None:
        self._ready.extend(e for e in events if isinstance(e, Lost) or (e.type in self._types and self._is_wanted(e)))

    def _is_wanted(self, event: Event) -> bool:
        """Return whether an event is in a chosen region, or describes the whole stream or service."""
        if self._regions is None or isinstance(event, Status | Heartbeat):
            return True
        return event.region in self._regions

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
