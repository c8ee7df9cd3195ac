"""What the service tells the world: typed events and their JSON (docs/protocol.md).

One event is one JSON object. Everything here is bounded, because it is parsed from bytes that anybody may have sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, TypeAlias, get_args

import orjson
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.json_schema import SkipJsonSchema

from streamclf.config.service import StreamName
from streamclf.errors import EventError
from streamclf.net.names import valid_stream_name

VERSION: Final = 1
MAX_EVENT_BYTES: Final = 64 * 1024
MAX_HEARTBEAT_BYTES: Final = 256 * 1024
MAX_OFFSET: Final = 2**62
MAX_HOP: Final = 2**16
MAX_LISTED_STREAMS: Final = 1024
"""Streams that a heartbeat names; older ones are still in the journal."""

JOURNALLED: Final = ("prediction", "action", "status")
HEARTBEAT_TOPIC: Final = b"heartbeat/"

DraftType: TypeAlias = Literal["prediction", "action", "status"]
State: TypeAlias = Literal["connecting", "live", "frozen", "stalled", "offline"]
Phase: TypeAlias = Literal["start", "update", "end"]

Offset = Annotated[int, Field(ge=0, le=MAX_OFFSET)]
Epoch = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Label = Annotated[str, Field(min_length=1, max_length=128)]
Probability = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Hop = Annotated[int, Field(ge=1, le=MAX_HOP)]
Reason = Annotated[str, Field(max_length=512)]
CounterName = Annotated[str, Field(min_length=1, max_length=64)]

_WIRE = ConfigDict(extra="ignore", allow_inf_nan=False)  # later versions may add keys, never change one


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The stretch of media time that one prediction looked at, in seconds of the stream's own clock."""

    __pydantic_config__ = _WIRE
    start_s: float
    end_s: float
    frames: Count
    duplicates: Count = 0
    corrupt: Count = 0
    segment: Count = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Where the time went, in milliseconds; `capture_to_publish` is the hub's, up to the journal's commit."""

    __pydantic_config__ = _WIRE
    capture_to_publish: float | None = None
    encode: float | None = None
    classify: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Journalled:
    """What every event of a stream has.

    `offset` is None, and `durable` False, for an event that could be published but not journalled (disk full).
    `previous` is the same stream's offset before it, 0 for the first.
    """

    __pydantic_config__ = _WIRE
    v: Literal[1] = 1
    type: str
    stream: StreamName
    epoch: Epoch
    offset: Offset | None
    previous: Offset
    time: datetime
    durable: bool = True
    _raw: SkipJsonSchema[bytes] = field(default=b"", init=False, repr=False, compare=False)

    @property
    def raw(self) -> bytes:
        """Its JSON, byte for byte as published, with keys that we may not know; empty if it was not received."""
        return self._raw


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction(_Journalled):
    """What the model says of one window; `top` holds (label, probability), most probable first.

    `engine`: what the model ran on, backend, version and precision. `dropped`: what the classifier has given up of this
    stream since it started, by cause; empty where nothing. `gated`: chunks of it whose features were reused, since
    nothing moved. `hop`: chunks between two predictions at that time, where the stream is adaptive.
    """

    __pydantic_config__ = _WIRE
    type: Literal["prediction"] = "prediction"
    window: Window
    top: Annotated[tuple[tuple[Label, Probability], ...], Field(min_length=1, max_length=64)]
    model: Annotated[str, Field(max_length=256)]
    engine: Annotated[str, Field(max_length=256)] | None = None
    latency_ms: Latency = Latency()
    hop: Hop | None = None
    gated: Count = 0
    dropped: Annotated[dict[CounterName, Count], Field(max_length=16)] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Action(_Journalled):
    """An action starts, goes on, or ends. Each start has exactly one end; `started_s` ties them together."""

    __pydantic_config__ = _WIRE
    type: Literal["action"] = "action"
    label: Label
    phase: Phase
    started_s: float
    at_s: float
    probability: Probability
    peak: Probability
    segment: Count = 0
    reason: Reason | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status(_Journalled):
    """How a stream is, why, and what was counted since its process started. `codec` is the source's, once known; `note`
    says in what a stream that works is not as it should be; `finished`: it is offline because all has been shown;
    `hop`: that of its latest predictions, where the stream is adaptive."""

    __pydantic_config__ = _WIRE
    type: Literal["status"] = "status"
    state: State
    reason: Reason | None = None
    codec: Annotated[str, Field(max_length=64)] | None = None
    note: Reason | None = None
    finished: bool = False
    hop: Hop | None = None
    counters: Annotated[dict[CounterName, int | float], Field(max_length=64)] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """Once a second: where the journal stands, and where to ask for what was missed."""

    __pydantic_config__ = _WIRE
    v: Literal[1] = 1
    type: Literal["heartbeat"] = "heartbeat"
    epoch: Epoch
    time: datetime
    head: Offset
    oldest: Offset
    last: Annotated[dict[StreamName, Offset], Field(max_length=MAX_LISTED_STREAMS)]
    replay: Annotated[str, Field(max_length=512)]
    not_durable: Count = 0
    dropped: Annotated[dict[StreamName, Count], Field(max_length=MAX_LISTED_STREAMS)] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """Offsets that a consumer asked for and that nobody has any more; `last` is None where the end is unknown.

    Made by the subscriber, never sent: retention removed them, or the journal was replaced.
    """

    epoch: str
    first: int
    last: int | None


StreamEvent: TypeAlias = Prediction | Action | Status
Event: TypeAlias = StreamEvent | Heartbeat

_ADAPTER: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="type")])
_VALIDATOR: Final = _ADAPTER.validator


def parse_event(payload: bytes) -> Event:
    """One event from its JSON. Raises `EventError` naming the key that is wrong; unknown keys are let through."""
    limit = MAX_HEARTBEAT_BYTES
    if len(payload) > limit:
        raise EventError(f"event of {len(payload)} bytes: at most {limit}")
    try:
        event: Event = _VALIDATOR.validate_json(payload)
    except ValidationError as error:
        raise EventError(f"not an event: {_first_fault(error)}") from None
    if not isinstance(event, Heartbeat):
        object.__setattr__(event, "_raw", payload)
    return event


def check_event(event: dict[str, Any]) -> None:
    """Raise `EventError` unless `event` has the keys, types and bounds of its type."""
    try:
        _VALIDATOR.validate_python(event)
    except ValidationError as error:
        raise EventError(f"not an event: {_first_fault(error)}") from None


def to_json(event: Event) -> bytes:
    """The JSON of `event` as on the wire; `parse_event` is its inverse."""
    body = orjson.loads(orjson.dumps(event, option=orjson.OPT_UTC_Z))
    if body.get("durable") is True:
        del body["durable"]  # said only where it is not so
    if body.get("finished") is False:
        del body["finished"]
    for key in ("dropped", "gated") if body["type"] == "prediction" else ():
        if not body[key]:
            del body[key]
    for key in ("engine", "hop"):
        if body.get(key, "") is None:
            del body[key]
    return orjson.dumps(body)


def json_schema() -> dict[str, Any]:
    """JSON Schema of every message body."""
    return _ADAPTER.json_schema()


def topic_of(kind: str, stream: str) -> bytes:
    """`prediction/door/`: the end slash keeps `cam1` from matching `cam10`."""
    return f"{kind}/{stream}/".encode()


def timestamp(time_ns: int) -> str:
    """Wall clock as RFC 3339 in UTC with microseconds, `2026-01-31T12:00:00.000000Z`."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return f"{_second(seconds)}.{rest // 1000:06d}Z"


@lru_cache(maxsize=2)
def _second(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%dT%H:%M:%S}"


def _first_fault(error: ValidationError) -> str:
    first, *more = error.errors(include_url=False, include_context=False, include_input=False)
    where = ".".join(str(part) for part in first["loc"][:6])
    tail = f" (and {len(more)} more)" if more else ""
    return f"{where[:200]}: {first['msg'][:300]}{tail}" if where else f"{first['msg'][:300]}{tail}"


ENVELOPE: Final = frozenset({"v", "type", "stream", "epoch", "offset", "previous", "time", "durable"})


@dataclass(frozen=True, slots=True)
class Draft:
    """An event before the hub gives it epoch, offset and time.

    `body` holds the keys of its type in `streamclf.events.types`. `captured_ns` (CLOCK_MONOTONIC) is when its newest
    frame was captured.
    """

    type: DraftType
    stream: str
    body: Mapping[str, Any]
    captured_ns: int | None = None

    def __post_init__(self) -> None:
        if self.type not in get_args(DraftType):
            raise EventError(f"draft of type {self.type!r}: one of {', '.join(get_args(DraftType))}")
        if not valid_stream_name(self.stream):
            raise EventError(f"stream {self.stream[:80]!r}: 1 to 64 of letters, digits, _ and -")
        if reserved := ENVELOPE & self.body.keys():
            raise EventError(f"draft with {', '.join(sorted(reserved))}: the hub sets these itself")


Received: TypeAlias = Event | Lost


@dataclass(frozen=True, slots=True)
class Position:
    """Everything up to `offset` of journal `epoch` has been delivered."""

    epoch: str
    offset: int


START: Final = Position("", 0)
"""The beginning of what the journal still holds, whichever journal that is."""


def published(event: StreamEvent) -> bytes:
    """As it was published; JSON may hold line breaks between its tokens, a line of ours may not."""
    return event.raw if event.raw and b"\n" not in event.raw else to_json(event)


def written_time(event: StreamEvent) -> str:
    """`2026-01-31T12:00:00.000000Z`, which sorts as text."""
    return f"{event.time.astimezone(timezone.utc):{TIME_FORMAT}}Z"


TIME_FORMAT: Final = "%Y-%m-%dT%H:%M:%S.%f"
