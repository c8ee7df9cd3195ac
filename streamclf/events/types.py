"""Define the service's events: their types, their bounds, and their JSON (docs/protocol.md).

One event is one JSON object. Every field is bounded, because events are parsed from bytes that anybody may have sent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, TypeAlias

import orjson
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.json_schema import SkipJsonSchema

from streamclf.errors import EventError
from streamclf.events.configuration_status import ConfigurationStatus
from streamclf.events.device_status import MAX_DEVICES, DeviceStatus
from streamclf.events.kinds import MAX_HEARTBEAT_BYTES, Phase, State
from streamclf.events.outlet_status import MAX_OUTLETS, OutletStatus
from streamclf.events.views import (
    MAX_LISTED_ACTIONS,
    MAX_VIEWS,
    Label,
    ModelName,
    RegionName,
    ViewDescription,
)
from streamclf.net.names import MAX_NAME_CHARS, STREAM_NAME_PATTERN
from streamclf.units import NS

MAX_OFFSET: Final = 2**62
MAX_HOP: Final = 2**16
MAX_TOP: Final = 64
"""Labels of a prediction."""
MAX_LISTED_STREAMS: Final = 1024
"""Streams that a heartbeat lists, the most recently active ones; the journal still holds the others."""
MAX_FILM_ACTIONS: Final = 64
"""Actions that the event of a clip lists."""
CLIP_PATH_PATTERN: Final = r"^[A-Za-z0-9_-]{1,64}/[0-9]{4}-[0-9]{2}-[0-9]{2}/[A-Za-z0-9][A-Za-z0-9._-]{0,150}$"
"""STREAM/DATE/NAME: such a path stays below the folder of the clips, whoever sent it."""

HEARTBEAT_TOPIC: Final = b"heartbeat/"
TIME_FORMAT: Final = "%Y-%m-%dT%H:%M:%S.%f"

StreamName = Annotated[str, Field(pattern=STREAM_NAME_PATTERN)]
Offset = Annotated[int, Field(ge=0, le=MAX_OFFSET)]
LeaseToken = Annotated[int, Field(ge=1, le=MAX_OFFSET)]
Epoch = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Probability = Annotated[float, Field(ge=0, le=1)]
DisplayName = Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Hop = Annotated[int, Field(ge=1, le=MAX_HOP)]
Reason = Annotated[str, Field(max_length=512)]
OutletName = Annotated[str, Field(min_length=1, max_length=80)]
ClipPath = Annotated[str, Field(pattern=CLIP_PATH_PATTERN)]
DeviceNumber = Annotated[str, Field(pattern=r"^[0-9]{1,4}$")]
CounterName = Annotated[str, Field(min_length=1, max_length=64)]

_WIRE = ConfigDict(extra="ignore", allow_inf_nan=False)  # later versions may add keys, but never change one


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The stretch of media time that one prediction covers, in seconds of the stream's own clock."""

    __pydantic_config__ = _WIRE
    start_s: float
    end_s: float
    frames: Count
    duplicates: Count = 0
    corrupt: Count = 0
    segment: Count = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """The milliseconds that each step took. The hub sets `capture_to_publish`, which ends at the journal's commit."""

    __pydantic_config__ = _WIRE
    capture_to_publish: float | None = None
    encode: float | None = None
    classify: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _JournalledEvent:
    """The fields that every event of a stream has.

    `offset` is None, and `durable` False, for an event that was published but could not be journalled (disk full).
    `previous` is the offset of the same stream's event before it, 0 for the first. `lease` is the token with which the
    node of a fleet published it; None outside a fleet.
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
    lease: LeaseToken | None = None
    _raw: SkipJsonSchema[bytes] = field(default=b"", init=False, repr=False, compare=False)

    @property
    def raw(self) -> bytes:
        """The event's JSON, byte for byte as published, unknown keys included; empty for an event made here."""
        return self._raw


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction(_JournalledEvent):
    """The model's result for one window; `top` holds (label, probability), most probable first.

    `engine` names the backend, its version and the precision that ran the model. `dropped` counts, by cause, the chunks
    of this stream that the classifier has dropped since it started; it is empty if there were none. `gated` counts the
    stream's chunks that reused an earlier feature because nothing moved. `hop` is the number of chunks between two
    predictions at that time, for a stream with an adaptive hop.

    `region` is None for the whole picture, and `model_name` for the model without a name. `labels` is set only for a
    model that can report several labels at once: those at or above their thresholds, most probable first; it may be
    empty. `decode` is "fast" if a frame of the window was not decoded exactly. `scene_lost`, 0 to 1, is how much the
    picture differs from the scene; it is None where the picture is not compared (no action runs that may be held,
    and the stream has no action `scene_lost`), 1 before the first comparison, and 0 if the scene is not known.
    """

    __pydantic_config__ = _WIRE
    type: Literal["prediction"] = "prediction"
    window: Window
    top: Annotated[tuple[tuple[Label, Probability], ...], Field(min_length=1, max_length=MAX_TOP)]
    model: Annotated[str, Field(max_length=256)]
    engine: Annotated[str, Field(max_length=256)] | None = None
    latency_ms: Latency = Latency()
    hop: Hop | None = None
    gated: Count = 0
    dropped: Annotated[dict[CounterName, Count], Field(max_length=16)] = field(default_factory=dict)
    region: RegionName | None = None
    model_name: ModelName | None = None
    decode: Literal["fast"] | None = None
    labels: Annotated[tuple[Label, ...], Field(max_length=MAX_TOP)] | None = None
    scene_lost: Probability | None = None

    @property
    def present(self) -> tuple[tuple[str, float], ...]:
        """(label, probability) of the labels that apply: the most probable one, or `labels`, which may be empty."""
        if self.labels is None:
            return self.top[:1]
        known = dict(self.top)
        return tuple((label, known.get(label, 0.0)) for label in self.labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Action(_JournalledEvent):
    """The start, an update or the end of an action. Each start has exactly one end.

    (stream, region, model_name, label, started_s) identifies the action.
    """

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
    region: RegionName | None = None
    model_name: ModelName | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status(_JournalledEvent):
    """A stream's state, the reason for it, and counters since its process started.

    `codec` is the source's codec, once known, and `decode` how its latest frame was decoded. `note` describes what is
    wrong with a stream that works. `finished` means that the stream is offline because its source has ended, `paused`
    that it is offline because the configuration pauses it. `hop` is the hop of its latest predictions, for a stream
    with an adaptive hop. `name` is the stream's name for people, if the configuration gives one. `actions` lists the
    labels that the configuration reports as actions; it is None for a stream that is not configured any more. `views`
    lists the stream's views; it is None for a stream with one unnamed model on the whole picture.
    """

    __pydantic_config__ = _WIRE
    type: Literal["status"] = "status"
    state: State
    reason: Reason | None = None
    codec: Annotated[str, Field(max_length=64)] | None = None
    note: Reason | None = None
    decode: Literal["exact", "fast"] | None = None
    finished: bool = False
    paused: bool = False
    hop: Hop | None = None
    name: DisplayName | None = None
    actions: Annotated[tuple[Label, ...], Field(max_length=MAX_LISTED_ACTIONS)] | None = None
    views: Annotated[tuple[ViewDescription, ...], Field(max_length=MAX_VIEWS)] | None = None
    counters: Annotated[dict[CounterName, int | float], Field(max_length=64)] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip(_JournalledEvent):
    """A film of one or more actions, which is complete on disk.

    `file`, `still` and `drawn` are paths relative to the folder of the clips, with `/`: the film, its most probable
    picture, and that picture with label and probability. `action` is the offset of the start event of the action that
    began the film, and `label` and `probability` (the peak so far) are of that action. `actions` has the offsets of all
    actions in the film. A long action is cut into parts, counted from 1; `last` marks the part that has its end.
    `began` is the wall-clock time of the first picture, and `start_s` and `end_s` are media times of the film.
    `region` and `model_name` are those of the action that began the film.
    """

    __pydantic_config__ = _WIRE
    type: Literal["clip"] = "clip"
    label: Label
    action: Offset | None
    actions: Annotated[tuple[Offset, ...], Field(max_length=MAX_FILM_ACTIONS)] = ()
    part: Annotated[int, Field(ge=1, le=2**31)] = 1
    last: bool = True
    began: datetime
    start_s: float
    end_s: float
    file: ClipPath
    still: ClipPath | None = None
    drawn: ClipPath | None = None
    bytes: Count
    codec: Annotated[str, Field(max_length=64)] | None = None
    probability: Probability
    note: Reason | None = None
    region: RegionName | None = None
    model_name: ModelName | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """The journal's range and the replay endpoint, sent once a second so that subscribers notice what they missed.

    `streams` lists the configured streams. The journal also has events of streams that were removed. It is None for a
    hub that does not know the configuration.
    `outlets` holds the state of each outlet that the service runs, by name. `configuration` reports how the service
    received its configuration file when it last read it; None for a service without a file. `leases` has the token of
    each stream that a node of a fleet may publish now, and `refused` the events of each stream that came without a
    lease; None and empty outside a fleet. `devices` holds the state of each GPU that the configuration lists, by its
    number.
    """

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
    streams: Annotated[tuple[StreamName, ...], Field(max_length=MAX_LISTED_STREAMS)] | None = None
    outlets: Annotated[dict[OutletName, OutletStatus], Field(max_length=MAX_OUTLETS)] = field(default_factory=dict)
    configuration: ConfigurationStatus | None = None
    leases: Annotated[dict[StreamName, LeaseToken], Field(max_length=MAX_LISTED_STREAMS)] | None = None
    refused: Annotated[dict[StreamName, Count], Field(max_length=MAX_LISTED_STREAMS)] = field(default_factory=dict)
    devices: Annotated[dict[DeviceNumber, DeviceStatus], Field(max_length=MAX_DEVICES)] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """A range of offsets that a consumer requested and that is gone; `last` is None if the end is unknown.

    The subscriber makes it; it is never sent. Either retention removed the events, or the journal was replaced.
    """

    epoch: str
    first: int
    last: int | None


StreamEvent: TypeAlias = Prediction | Action | Status | Clip
Event: TypeAlias = StreamEvent | Heartbeat
Received: TypeAlias = Event | Lost

_ABSENT_IF_NONE: Final = (
    "engine", "hop", "name", "actions", "views", "streams", "configuration", "region", "model_name", "labels", "lease",
    "leases", "decode", "scene_lost",
)  # fmt: skip
_ADAPTER: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="type")])
_VALIDATOR: Final = _ADAPTER.validator


def parse_event(payload: bytes) -> Event:
    """Parse one event from its JSON, ignoring unknown keys. Raises `EventError` that names the wrong key."""
    if len(payload) > MAX_HEARTBEAT_BYTES:
        raise EventError(f"event of {len(payload)} bytes: at most {MAX_HEARTBEAT_BYTES}")
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
    """Encode `event` as the JSON that is published; `parse_event` is the inverse."""
    body = orjson.loads(orjson.dumps(event, option=orjson.OPT_UTC_Z))
    if body.get("durable") is True:
        del body["durable"]  # published only if it is false
    for key in ("finished", "paused"):
        if body.get(key) is False:
            del body[key]
    for key in ("dropped", "gated") if body["type"] == "prediction" else ():
        if not body[key]:
            del body[key]
    for key in ("outlets", "refused", "devices") if body["type"] == "heartbeat" else ():
        if not body[key]:
            del body[key]
    for key in _ABSENT_IF_NONE:
        if body.get(key, "") is None:
            del body[key]
    if views := body.get("views"):
        body["views"] = [{key: value for key, value in view.items() if value is not None} for view in views]
    return orjson.dumps(body)


def published_json(event: StreamEvent) -> bytes:
    """Return the event's JSON on one line: as it was published, or encoded again if that holds line breaks."""
    return event.raw if event.raw and b"\n" not in event.raw else to_json(event)


def json_schema() -> dict[str, Any]:
    """Make the JSON Schema of every message body."""
    return _ADAPTER.json_schema()


def topic_of(kind: str, stream: str, region: str | None = None) -> bytes:
    """Return a topic like `prediction/door/`, or `prediction/door/gate/` of a region.

    The slash at the end keeps `cam1` from matching `cam10`. A subscription to a stream includes its regions.
    """
    return f"{kind}/{stream}/".encode() if region is None else f"{kind}/{stream}/{region}/".encode()


def format_wall_time(time_ns: int) -> str:
    """Format wall-clock nanoseconds as RFC 3339 in UTC with microseconds, like `2026-01-31T12:00:00.000000Z`."""
    seconds, nanoseconds = divmod(time_ns, NS)
    return f"{_format_second(seconds)}.{nanoseconds // 1000:06d}Z"


def format_event_time(event: StreamEvent) -> str:
    """Format the event's time like `2026-01-31T12:00:00.000000Z`, which sorts as text."""
    return f"{event.time.astimezone(timezone.utc):{TIME_FORMAT}}Z"


@lru_cache(maxsize=2)
def _format_second(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%dT%H:%M:%S}"


def _first_fault(error: ValidationError) -> str:
    first, *more = error.errors(include_url=False, include_context=False, include_input=False)
    where = ".".join(str(part) for part in first["loc"][:6])
    tail = f" (and {len(more)} more)" if more else ""
    return f"{where[:200]}: {first['msg'][:300]}{tail}" if where else f"{first['msg'][:300]}{tail}"
