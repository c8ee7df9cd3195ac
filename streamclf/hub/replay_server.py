"""Answer consumers' SNAPSHOT and REPLAY requests from the journal, in a thread with its own reader.

A request is one JSON frame. A reply is a JSON header and then one frame per event, byte for byte as published. REQ and
DEALER sockets both work. The consumer requests page by page, so a slow consumer delays nobody else.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias

import orjson
import zmq
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from streamclf.errors import EventError
from streamclf.events.example_request import parse_example_request
from streamclf.events.kinds import JOURNALLED
from streamclf.events.types import MAX_OFFSET, Epoch, StreamName
from streamclf.hub.example_requests import ExampleRequests
from streamclf.hub.guard.curve_gate import CurveGate
from streamclf.hub.journal_reader import JournalReader
from streamclf.hub.request_server import RequestServer, error_reply, fault_text
from streamclf.net.names import MAX_STREAMS

log = logging.getLogger(__name__)

MAX_LIMIT: Final = 1024
_MAX_REPLY_BYTES = 512 * 1024
_MAX_SCANNED: Final = 20_000
"""Offsets scanned for one reply: this bounds the time of a request whose filter matches nothing."""
_SNAPSHOT_LIMIT = len(JOURNALLED) * MAX_STREAMS


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
        self._journal = journal
        self._examples, self._savers = examples, savers
        self._reader: JournalReader | None = None
        self._refused = 0
        self._server = RequestServer(
            context,
            endpoint,
            self._reply,
            role="publish.replay",
            thread="replay",
            gate=gate,
            clean_up=self._close_reader,
        )
        self.endpoint, self.peers = self._server.endpoint, self._server.peers

    @property
    def refused(self) -> int:
        """The number of requests that were refused."""
        return self._refused + self._server.refused

    def close(self) -> None:
        """End the thread and its socket."""
        self._server.close()

    def _reply(self, body: bytes, user: str | None = None) -> list[bytes]:
        try:
            request = _REQUEST.validate_json(body)
        except ValidationError as error:
            self._refused += 1
            return [error_reply("", fault_text(error, _KINDS))]
        if isinstance(request, SaveRequest):
            try:
                return [self._save(request, user)]
            except EventError as error:
                self._refused += 1
                return [error_reply(request.id, str(error))]
        try:
            # The reader stays open: a flood of connections may leave no descriptor to open it again.
            self._reader = self._reader or JournalReader(self._journal)
            return answer(self._reader, request)
        except (sqlite3.Error, OSError) as error:
            log.warning("replay: the journal cannot be read now: %s", error)
            self._close_reader()
            return [error_reply(request.id, "the journal cannot be read now; ask again later")]

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
