"""Receive a service's events: `with streamclf.subscribe(ENDPOINT) as events: for event in events: ...`.

A plain subscription returns the events that arrive. With `replay=True` it misses none: it finds gaps from the offsets
and heartbeats, and fetches the missing events from the journal, page by page. Each event is then returned at least
once; its (epoch, offset) identifies a repetition. Without a stream filter, all events are returned in the journal's
order. With a filter, the events of each stream are returned in order.

In an event loop: `async with streamclf.subscribe(ENDPOINT) as events: async for event in events: ...`. The wait for the
next event is then a wait for sockets. No event leaves the subscription before it is returned, so cancelling a task that
waits loses none.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final

from streamclf.client.fleet_receiver import FleetReceiver
from streamclf.client.receiver import KINDS, POLL_S, EventReceiver, Kind
from streamclf.client.replay import Snapshot
from streamclf.client.socket_wait import SocketWait
from streamclf.errors import UsageError
from streamclf.events.positions import Position
from streamclf.events.types import Received
from streamclf.net.curve_client import ServiceAddress, resolve_service_address
from streamclf.net.endpoints import FLEET_SCHEME
from streamclf.net.names import STREAM_NAME_RULE, valid_stream_name

_MAX_WITHOUT_PAUSE: Final = 100
"""After this many events without a wait, the asynchronous iterator lets other tasks run."""


def subscribe(
    endpoint: str | Path,
    *,
    streams: Collection[str] | None = None,
    regions: Collection[str] | None = None,
    types: Collection[Kind] | None = None,
    replay: bool = False,
    after: Position | None = None,
    patience_s: float | None = None,
    keys: str | Path | None = None,
    server_key: str | Path | None = None,
) -> Subscription:
    """Subscribe to a service's events; the service may start later.

    `streams` and `types` (prediction, action, status, clip, heartbeat) restrict the returned events; None means all. A
    stream includes its regions. With `regions`, only events of regions with these names are returned, and statuses.
    `after` (with `replay`) resumes after a stored `Subscription.position`, or at `START`; None starts with the next
    event. `patience_s` is the time without any message after which `BusError` is raised (the service sends a heartbeat
    each second); with None there is no limit.

    For a service with keys, `keys` is this subscriber's secret file (`streamclf keys`) and `server_key` the service's
    public file. A secret file that was made for the service holds the public key and the endpoint too; then give that
    file as `endpoint` and nothing else.
    """
    address = resolve_service_address(endpoint, keys, server_key)
    for stream in streams or ():
        if not valid_stream_name(stream):
            raise UsageError(f"stream {stream!r}: must be {STREAM_NAME_RULE}")
    for region in regions or ():
        if not valid_stream_name(region):
            raise UsageError(f"region {region!r}: must be {STREAM_NAME_RULE}")
    for kind in types or ():
        if kind not in KINDS:
            raise UsageError(f"type {kind!r}: must be one of {', '.join(KINDS)}")
    if after is not None and not replay:
        raise UsageError("after=: only together with replay=True")
    return Subscription(address, streams, types, replay, after, patience_s, regions)


def snapshot(
    endpoint: str | Path,
    *,
    streams: Collection[str] | None = None,
    regions: Collection[str] | None = None,
    types: Collection[Kind] | None = None,
    timeout_s: float = 5.0,
    keys: str | Path | None = None,
    server_key: str | Path | None = None,
) -> Snapshot:
    """Fetch the last event of each stream, type and view.

    Raises `BusError` if there is no answer within `timeout_s`.
    """
    with subscribe(endpoint, streams=streams, regions=regions, types=types, keys=keys, server_key=server_key) as events:
        return events.snapshot(timeout_s)


class Subscription:
    """Typed events, by `for` or `async for`, and a context manager, by `with` or `async with`. Made by `subscribe`.

    One thread, or one task, uses a subscription at a time. A task closes it in the event loop in which it iterates.
    After `close` the iterators end.
    """

    def __init__(
        self,
        address: ServiceAddress,
        streams: Collection[str] | None,
        types: Collection[Kind] | None,
        replay: bool,
        after: Position | None,
        patience_s: float | None,
        regions: Collection[str] | None = None,
    ) -> None:
        self.endpoint = address.endpoint
        self.streams = streams
        """The streams of the returned events; None for all."""
        kind = FleetReceiver if address.endpoint.startswith(FLEET_SCHEME) else EventReceiver
        self._receiver: EventReceiver | FleetReceiver = kind(
            address, streams, types, replay, after, patience_s, regions
        )
        self._in_use = threading.Lock()
        self._closed = False
        self._wait = SocketWait()
        self._without_pause = 0

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Subscription:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self.close()

    def __iter__(self) -> Iterator[Received]:
        while not self._closed:
            event = self._receive(POLL_S)
            if event is not None:
                yield event

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Received:
        """Return the next event; raises `StopAsyncIteration` after `close`. May be cancelled, and called again."""
        if self._without_pause >= _MAX_WITHOUT_PAUSE:
            self._without_pause = 0
            await asyncio.sleep(0)
        self._without_pause += 1
        while (event := self._receive_now()) is None:
            if self._closed:
                raise StopAsyncIteration
            self._without_pause = 0
            await self._wait.wait(*self._receiver.next_messages())
        return event

    @property
    def position(self) -> Position | None:
        """With `replay`, the position up to which everything was returned; store it, and resume with it as `after`."""
        return self._receiver.position

    @property
    def refused(self) -> int:
        """The number of messages that were not events."""
        return self._receiver.refused

    @property
    def missed(self) -> int:
        """The number of events that did not arrive over the live socket (with `replay` they were fetched instead)."""
        return self._receiver.missed

    @property
    def previews(self) -> dict[str, bytes]:
        """The latest JPEG of each stream since the last access, which clears them; see `watch_previews`."""
        previews, self._receiver.previews = self._receiver.previews, {}
        return previews

    def watch_previews(self, streams: Collection[str] | None = None) -> None:
        """Subscribe to previews, too. They cost the service work, so subscribe only while somebody watches."""
        self._receiver.watch_previews(streams)

    def watch_only(self, streams: Collection[str]) -> None:
        """Subscribe to the previews of these streams, and of no others, from now on."""
        self._receiver.watch_only(frozenset(streams))

    def snapshot(self, timeout_s: float = 5.0) -> Snapshot:
        """Fetch the last event of each stream, type and view of this subscription.

        Events that arrive meanwhile are kept for `receive`; they may also be in the snapshot. Raises `BusError` if
        there is no answer within `timeout_s`.
        """
        self._check_open()
        with self._in_use:
            return self._receiver.snapshot(timeout_s)

    def receive(self, timeout_s: float) -> Received | None:
        """Return the next event, or None if there is none within `timeout_s`. Raises `UsageError` after `close`."""
        self._check_open()
        return self._receive(timeout_s)

    def close(self) -> None:
        """Disconnect. May be called twice, and by another thread than the one that iterates."""
        self._wait.cancel()
        self._closed = True
        with self._in_use:  # another thread may wait for a message
            self._receiver.close()

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError(f"{self.endpoint}: the subscription is closed; subscribe again")

    def _receive(self, timeout_s: float) -> Received | None:
        with self._in_use:
            return None if self._closed else self._receiver.receive(timeout_s)

    def _receive_now(self) -> Received | None:
        if not self._in_use.acquire(blocking=False):
            raise UsageError("a thread receives events of this subscription; give each thread or task its own")
        self._in_use.release()
        return self._receive(0.0)
