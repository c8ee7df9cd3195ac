"""Request events from the replay endpoint, page by page: one request at a time, each with a deadline."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeVar

import orjson
import zmq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from streamclf.errors import BusError, EventError
from streamclf.events.kinds import MAX_EVENT_BYTES
from streamclf.events.positions import Position
from streamclf.events.types import Epoch, Heartbeat, Offset, StreamEvent, parse_event
from streamclf.net.curve_client import ServiceAddress
from streamclf.net.zeromq import open_socket

_REPLY_TIMEOUT_S = 2.0
"""A request without a reply for this long is sent again."""
_RETRY_PAUSE_S = (0.1, 2.0)
"""The first pause after a request without a reply, and the longest after it has doubled."""
_MAX_FRAMES = 2048
LATER_TYPES: Final = frozenset({"clip"})
"""Types of events that the first versions do not have; they refuse a request that names one."""
_AnyHeader = TypeVar("_AnyHeader", bound="_Header")


class _Header(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    v: Literal[1]
    id: Annotated[str, Field(max_length=64)]
    epoch: Epoch
    oldest: Offset
    head: Offset


class _SnapshotHeader(_Header):
    reply: Literal["snapshot"]


class _PageHeader(_Header):
    reply: Literal["replay"]
    upto: Offset
    lost: Annotated[tuple[tuple[Offset, Offset], ...], Field(max_length=_MAX_FRAMES)] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One reply: all events up to `upto` that match the filter, except events in the `lost` ranges."""

    epoch: str
    head: int
    upto: int
    lost: tuple[tuple[int, int], ...]
    events: tuple[StreamEvent, ...]
    from_start: bool
    """Whether the events start at the beginning of this epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The last event of each stream, type and view, oldest first, and the journal's range at that moment."""

    epoch: str
    oldest: int
    head: int
    events: tuple[StreamEvent, ...]
    others: tuple[tuple[str, int], ...] = ()
    """Of a fleet: (epoch, head) of the other journals."""

    @property
    def position(self) -> Position:
        """The position to continue from: `subscribe(…, replay=True, after=snapshot.position)`."""
        return Position(self.epoch, self.head, self.others)


class ReplayClient:
    """Request pages and snapshots with the Lazy Pirate pattern (ZeroMQ guide, chapter 4).

    After a deadline without a reply, the client closes its socket, and repeats the request after a pause.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: str,
        streams: Sequence[str],
        address: ServiceAddress | None = None,
        types: Collection[str] = (),
        limit: int | None = None,
    ) -> None:
        """Request pages with events of `streams` and `types` only; without any, with all.

        A page has `limit` events at most; None takes as many as the service sends.
        """
        self.endpoint = endpoint
        self._address = address
        self._types = sorted(types)
        self._limit = limit
        self._context, self._streams = context, list(streams)
        self._socket: zmq.Socket[bytes] | None = None
        self._requested: Position | None = None
        self._id = 0
        self._reply_due_at = 0.0
        self._pause_until = 0.0
        self._pause_s = _RETRY_PAUSE_S[0]
        self._unknown_types: frozenset[str] = frozenset()
        """Types that the service refuses, because its version is older."""
        self.refused = 0
        """The number of frames in replies that were not events."""

    def close(self) -> None:
        """Close the socket."""
        if self._socket:
            self._socket.close(0)
        self._socket = None

    @property
    def socket(self) -> zmq.Socket[bytes] | None:
        """The socket on which the reply to the latest request arrives; None if there is none."""
        return self._socket

    @property
    def is_pausing(self) -> bool:
        """Whether the client pauses after a request without a reply."""
        return time.monotonic() < self._pause_until

    def fetch_page(self, after: Position | None, timeout_s: float) -> Page | None:
        """Return the page after a position, or None if it has not arrived within `timeout_s`: then call again."""
        assert after is not None
        if self.is_pausing:
            return None
        if self._socket is None or self._requested != after:
            self._request_page(after)
        assert self._socket is not None
        deadline = min(time.monotonic() + timeout_s, self._reply_due_at)
        while self._socket.poll(max(0, math.ceil(1000 * (deadline - time.monotonic())))):
            try:
                page = self._parse(self._socket.recv_multipart())
            except EventError:
                self._start_pause()
                return None
            if page is not None:
                self._requested = None
                self._pause_s = _RETRY_PAUSE_S[0]
                return page
        if time.monotonic() >= self._reply_due_at:
            self._start_pause()
        return None

    def wait_for_page(self, after: Position, deadline: float) -> Page | None:
        """Return the page after a position, or None without a reply by the monotonic `deadline`."""
        while (now := time.monotonic()) < deadline:
            if self.is_pausing:
                time.sleep(max(0.0, min(self._pause_until, deadline) - now))
                continue
            page = self.fetch_page(after, deadline - now)
            if page is not None:
                return page
        return None

    def snapshot(self, types: Collection[str], deadline: float) -> Snapshot | None:
        """Return the last event of each stream and type, or None without a reply by the monotonic `deadline`."""
        self._requested = None
        while (now := time.monotonic()) < deadline:
            if self.is_pausing:
                time.sleep(max(0.0, min(self._pause_until, deadline) - now))
                continue
            socket = self._send({"request": "snapshot", "streams": self._streams}, types)
            while socket.poll(max(0, math.ceil(1000 * (min(deadline, self._reply_due_at) - time.monotonic())))):
                try:
                    header, events = self._read(socket.recv_multipart(), _SnapshotHeader)
                except EventError:  # or the journal cannot be read now: repeat the request a little later
                    break
                if header.id == str(self._id):
                    self._pause_s = _RETRY_PAUSE_S[0]
                    return Snapshot(epoch=header.epoch, oldest=header.oldest, head=header.head, events=events)
            self._start_pause()
        return None

    def _request_page(self, after: Position) -> None:
        self._requested = after
        request = {"request": "replay", "epoch": after.epoch or None, "after": after.offset}
        limit = {} if self._limit is None else {"limit": self._limit}
        self._send({**request, "streams": self._streams, **limit}, self._types)

    def _send(self, request: dict[str, Any], types: Collection[str]) -> zmq.Socket[bytes]:
        if self._socket is None:
            self._socket = open_socket(self._context, zmq.DEALER, max_bytes=MAX_EVENT_BYTES)
            if self._address:
                self._address.configure(self._socket)
            try:
                self._socket.connect(self.endpoint)
            except zmq.ZMQError as error:
                raise BusError(f"replay {self.endpoint}: {error.strerror}") from error
        self._id += 1
        self._reply_due_at = time.monotonic() + _REPLY_TIMEOUT_S
        known = sorted(set(types) - self._unknown_types) or sorted(types)
        self._socket.send(orjson.dumps({"v": 1, "id": str(self._id), **request, "types": known}), zmq.NOBLOCK)
        return self._socket

    def _parse(self, frames: list[bytes]) -> Page | None:
        header, events = self._read(frames, _PageHeader)
        if header.id != str(self._id):
            return None  # the reply to an older request
        assert self._requested is not None
        return Page(
            epoch=header.epoch,
            head=header.head,
            upto=header.upto,
            lost=header.lost,
            events=events,
            from_start=self._requested.offset == 0 or self._requested.epoch not in ("", header.epoch),
        )

    def _read(self, frames: list[bytes], kind: type[_AnyHeader]) -> tuple[_AnyHeader, tuple[StreamEvent, ...]]:
        if len(frames) > _MAX_FRAMES:
            raise EventError(f"a reply of {len(frames)} frames: at most {_MAX_FRAMES}")
        try:
            header = kind.model_validate_json(frames[0])
        except ValidationError as error:
            if _refuses_types(frames[0]):
                self._unknown_types = LATER_TYPES
            raise EventError(f"header of a reply: {error.error_count()} faults") from None
        if header.id != str(self._id):
            return header, ()
        events = [self._event(frame) for frame in frames[1:]]
        return header, tuple(event for event in events if event is not None)

    def _event(self, frame: bytes) -> StreamEvent | None:
        try:
            event = parse_event(frame)
        except EventError:
            event = None
        if event is None or isinstance(event, Heartbeat):
            self.refused += 1  # one event that cannot be read must not block all later ones
            return None
        return event

    def _start_pause(self) -> None:
        self.close()
        self._requested = None
        self._pause_until = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, _RETRY_PAUSE_S[1])


def _refuses_types(reply: bytes) -> bool:
    """Return whether a reply is an error about the types of the request."""
    try:
        body = orjson.loads(reply)
    except orjson.JSONDecodeError:
        return False
    return isinstance(body, dict) and body.get("reply") == "error" and str(body.get("error")).startswith("types")
