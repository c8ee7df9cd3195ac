"""Answer consumers' SNAPSHOT and REPLAY requests from the journal, in a thread with its own reader.

A request is one JSON frame. A reply is a JSON header and then one frame per event, byte for byte as published. REQ and
DEALER sockets both work. The consumer requests page by page, so a slow consumer delays nobody else.
"""

from __future__ import annotations

import errno
import json
import logging
import sqlite3
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias

import orjson
import zmq
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from streamclf.config.service import MAX_STREAMS
from streamclf.errors import BusError, EventError
from streamclf.events.example_request import parse_example_request
from streamclf.events.types import JOURNALLED, MAX_OFFSET, Epoch, StreamName
from streamclf.hub.example_requests import ExampleRequests
from streamclf.hub.guard.curve_gate import CurveGate
from streamclf.hub.guard.peers import FRAME_BYTES, Peers
from streamclf.hub.guard.waiting import Waiting, WaitingAnswers, WaitingRequests
from streamclf.hub.journal_reader import JournalReader
from streamclf.hub.publisher import (
    MAX_REQUEST_BYTES,
    PUBLIC_IO_THREAD,
    RECEIVE_BUFFER_BYTES,
    SEND_BUFFER_BYTES,
)
from streamclf.hub.socket_thread import SocketThread
from streamclf.net.zeromq import bind, open_socket

log = logging.getLogger(__name__)

MAX_LIMIT: Final = 1024
_MAX_REPLY_BYTES = 512 * 1024
_MAX_SCANNED: Final = 20_000
"""Offsets scanned for one reply: this bounds the time of a request whose filter matches nothing."""
_SNAPSHOT_LIMIT = len(JOURNALLED) * MAX_STREAMS
_SEND_HIGH_WATER = 2
_RECEIVE_HIGH_WATER = 8
_MAX_READ_AT_ONCE: Final = 1024
_MAX_FRAMES: Final = 8
"""Frames of one request with its envelope: a valid one has three at most."""


_KINDS: Final = frozenset({"snapshot", "replay", "save", "saved"})
TypeName: TypeAlias = Annotated[str, Field(pattern=r"^[a-z_]{1,32}$")]
MAX_TYPES: Final = 16


class Request(BaseModel):
    """A consumer's request (docs/protocol.md)."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    v: Annotated[int, Field(ge=1, le=1)] = 1
    request: Literal["snapshot", "replay"]
    id: Annotated[str, Field(max_length=64)] = ""
    epoch: Epoch | None = None
    after: Annotated[int, Field(ge=0, le=MAX_OFFSET)] = 0
    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] = MAX_LIMIT
    streams: Annotated[tuple[StreamName, ...], Field(max_length=MAX_STREAMS)] = ()
    types: Annotated[tuple[TypeName, ...], Field(max_length=MAX_TYPES)] = ()
    """A client of a later version may name types that this version does not have; no event matches them."""


class SaveRequest(BaseModel):
    """A request to save a stretch of a stream as an example, or for the result of such a request."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    v: Annotated[int, Field(ge=1, le=1)] = 1
    request: Literal["save", "saved"]
    id: Annotated[str, Field(max_length=64)] = ""
    example: dict[str, Any] | None = None
    """Of `save`: an `ExampleRequest`."""
    ticket: Annotated[str, Field(max_length=64)] = ""
    """Of `saved`: the ticket in the reply to `save`."""


_REQUEST: Final[TypeAdapter[Request | SaveRequest]] = TypeAdapter(
    Annotated[Request | SaveRequest, Field(discriminator="request")]
)


def answer(reader: JournalReader, request: Request) -> list[bytes]:
    """Return the header and the events for one request, from one consistent view of the journal."""
    with reader.consistent_view():
        if request.request == "snapshot":
            return _answer_snapshot(reader, request)
        return _answer_replay(reader, request)


def _header(request: Request, epoch: str, oldest: int, head: int, **more: Any) -> bytes:
    common = {"v": 1, "reply": request.request, "id": request.id, "epoch": epoch, "oldest": oldest, "head": head}
    return orjson.dumps({**common, **more})


def _answer_snapshot(reader: JournalReader, request: Request) -> list[bytes]:
    epoch, oldest, head = reader.bounds()
    return [_header(request, epoch, oldest, head), *reader.snapshot(_SNAPSHOT_LIMIT, request.streams, request.types)]


def _answer_replay(reader: JournalReader, request: Request) -> list[bytes]:
    epoch, oldest, head = reader.bounds()
    # An offset of another epoch has no meaning in this journal, so the consumer starts at its beginning.
    after = 0 if request.epoch not in (None, epoch) else request.after
    lost = [(after + 1, oldest - 1)] if after + 1 < oldest else []
    upto = min(max(after, oldest - 1) + _MAX_SCANNED, max(head, after))
    events: list[bytes] = []
    size = 0
    page = reader.page(after, upto, request.limit, request.streams, request.types)
    for rows, (offset, body) in enumerate(page, 1):
        if body is None:
            lost.append((offset, offset))
        else:
            events.append(body)
            size += len(body)
        if rows == request.limit or size >= _MAX_REPLY_BYTES:
            upto = offset
            break
    lost += reader.gone(max(after, oldest - 1), upto)
    return [_header(request, epoch, oldest, head, upto=upto, lost=sorted(lost)), *events]


class ReplayServer:
    """Answer requests on a ROUTER socket, in a thread, until closed."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: str,
        journal: Path,
        *,
        gate: CurveGate | None = None,
        examples: ExampleRequests | None = None,
        savers: frozenset[str | None] | None = None,
    ) -> None:
        """Bind `endpoint`.

        `examples` takes requests to save a stretch. `savers` are the keys that may send them; None permits all.
        """
        self._socket = open_socket(context, zmq.ROUTER, max_bytes=MAX_REQUEST_BYTES, io_thread=PUBLIC_IO_THREAD)
        self._socket.sndhwm, self._socket.rcvhwm = _SEND_HIGH_WATER, _RECEIVE_HIGH_WATER
        self._socket.sndbuf, self._socket.rcvbuf = SEND_BUFFER_BYTES, RECEIVE_BUFFER_BYTES
        self._socket.router_mandatory = True  # fail if a peer sends more requests without reading the replies
        if gate:
            gate.protect(self._socket)
        try:
            self.endpoint = bind(self._socket, endpoint, "publish.replay", guarded=gate is not None)
        except BusError:
            self._socket.close(0)
            raise
        self.peers = Peers("publish.replay", permits=gate.permits if gate else None)
        self._requests = WaitingRequests()
        self._waiting = WaitingAnswers(self.peers)
        self._journal = journal
        self._examples, self._savers = examples, savers
        self._reader: JournalReader | None = None
        self.refused = 0
        self._thread = SocketThread("replay", self._socket, self._serve, self._close_reader)

    def close(self) -> None:
        """End the thread and its socket."""
        self._thread.close()

    def _serve(self) -> bool:
        """Read all requests that have arrived, and answer the next one; return whether more wait."""
        self._read_requests()
        if (request := self._requests.pop()) and self.peers.is_connected(request.peer):
            self._answer(request)
        return bool(self._requests)

    def _read_requests(self) -> None:
        # While a peer's requests wait in libzmq, libzmq does not free the memory of the disconnected peer.
        for _ in range(_MAX_READ_AT_ONCE):
            try:
                frames = [self._socket.recv(zmq.NOBLOCK, copy=False)]
            except zmq.Again:
                return
            while frames[-1].more and len(frames) <= _MAX_FRAMES:
                frames.append(self._socket.recv(copy=False))
            last = frames[-1]
            while last.more:
                last = self._socket.recv(copy=False)
            peer = self.peers.sender(frames[-1], sum(FRAME_BYTES + len(frame) for frame in frames[1:]))
            if peer is None:
                continue  # the peer is gone, or its key is no longer allowed
            *route, body = (frame.bytes for frame in frames)
            if len(frames) > _MAX_FRAMES:
                self.refused += 1
                self.peers.disconnect(peer, f"a request of more than {_MAX_FRAMES} frames")
            elif len(route) not in (1, 2) or route[1:] not in ([], [b""]):
                self.refused += 1
            elif (excessive := self._requests.add(Waiting(peer, route, body))) is not None:
                self.peers.disconnect(excessive, "it sends requests without reading the replies")

    def _answer(self, request: Waiting) -> None:
        reply = self._reply(request.body, request.peer.user)
        self._waiting.add(request.peer, sum(len(frame) + FRAME_BYTES for frame in reply))
        try:
            self._socket.send_multipart([*request.route, *reply], zmq.NOBLOCK)
        except zmq.Again:
            self.peers.disconnect(request.peer, "it sends requests without reading the replies")
        except zmq.ZMQError as error:
            if error.errno != errno.EHOSTUNREACH:  # the peer left meanwhile
                raise

    def _reply(self, body: bytes, user: str | None = None) -> list[bytes]:
        try:
            request = _REQUEST.validate_json(body)
        except ValidationError as error:
            self.refused += 1
            fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
            place = [str(part)[:64] for part in fault["loc"] if part not in _KINDS][:4]
            return [_error("", f"{'.'.join(place) or 'request'}: {fault['msg'][:200]}")]
        if isinstance(request, SaveRequest):
            try:
                return [self._save(request, user)]
            except EventError as error:
                self.refused += 1
                return [_error(request.id, str(error))]
        try:
            # The reader stays open: a flood of connections may leave no descriptor to open it again.
            self._reader = self._reader or JournalReader(self._journal)
            return answer(self._reader, request)
        except (sqlite3.Error, OSError) as error:
            log.warning("replay: the journal cannot be read now: %s", error)
            self._close_reader()
            return [_error(request.id, "the journal cannot be read now; ask again later")]

    def _save(self, request: SaveRequest, user: str | None) -> bytes:
        if self._examples is None or (self._savers is not None and user not in self._savers):
            raise EventError("only an outlet of the service may save examples; run the page as outlets.web")
        header = {"v": 1, "reply": request.request, "id": request.id}
        if request.request == "save":
            # Not orjson: it raises TypeError for an integer of more than 64 bits, which would end this thread.
            example = parse_example_request(json.dumps(request.example).encode())
            return orjson.dumps({**header, "ticket": self._examples.submit(example)})
        result = self._examples.result(request.ticket)
        return orjson.dumps({**header, "result": None if result is None else result.model_dump()})

    def _close_reader(self) -> None:
        if self._reader:
            self._reader.close()
        self._reader = None


def _error(request_id: str, text: str) -> bytes:
    return orjson.dumps({"v": 1, "reply": "error", "id": request_id, "error": text})
