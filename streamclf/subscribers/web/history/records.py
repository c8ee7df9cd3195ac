"""Define what the history returns: actions with their clips, and changes of a stream's state."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Final, Literal, TypeAlias

from streamclf.errors import UsageError
from streamclf.events.kinds import State
from streamclf.events.types import MAX_LISTED_STREAMS
from streamclf.events.views import MAX_LABEL_CHARS
from streamclf.net.names import STREAM_NAME_RULE, valid_stream_name

MAX_FILTER_VALUES: Final = 64
MAX_TEXT_CHARS: Final = 200
MAX_CURSOR_CHARS: Final = 64

ActionState: TypeAlias = Literal["running", "ended", "unknown"]
"""`unknown`: its end is missing, because another journal began."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipRecord:
    """One film of an action. `file`, `still` and `drawn` are paths relative to the folder of the clips."""

    offset: int | None
    stream: str
    label: str
    part: int
    last: bool
    began: datetime
    start_s: float
    end_s: float
    file: str
    still: str | None
    drawn: str | None
    bytes: int
    probability: float
    starred: bool
    region: str | None = None
    model_name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionRecord:
    """One action from its start to its end.

    `offset` is that of its start event, and identifies it in journal `epoch`. It is the offset of the first later event
    where the journal no longer holds the start. It is negative for an event that the service could not journal, and for
    a starred clip whose events are gone. `duration_s` is media time. `probability` is the peak.
    """

    epoch: str
    offset: int
    stream: str
    label: str
    state: ActionState
    began: datetime
    ended: datetime | None
    duration_s: float
    probability: float
    reason: str | None
    clips: tuple[ClipRecord, ...] = ()
    region: str | None = None
    model_name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionFilter:
    """Choose actions. An empty tuple or None chooses all.

    `text` must occur in the stream, its name, the region, the model or the label. Of `regions` and `models`, "" is the
    whole picture and the model without a name.
    """

    streams: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    text: str = ""
    starred: bool = False

    def __post_init__(self) -> None:
        if len(self.labels) > MAX_FILTER_VALUES or len(self.streams) > MAX_LISTED_STREAMS:
            raise UsageError(f"too many values; at most {MAX_FILTER_VALUES} labels and {MAX_LISTED_STREAMS} streams")
        if max(len(self.regions), len(self.models)) > MAX_FILTER_VALUES:
            raise UsageError(f"too many values; at most {MAX_FILTER_VALUES} regions and {MAX_FILTER_VALUES} models")
        for kind, names in (("region", self.regions), ("model", self.models)):
            if wrong := next((name for name in names if name and not valid_stream_name(name)), None):
                raise UsageError(f"{kind} {wrong[:80]!r}: {STREAM_NAME_RULE}")
        if any(len(label) > MAX_LABEL_CHARS for label in self.labels):
            raise UsageError(f"label: at most {MAX_LABEL_CHARS} characters")
        if len(self.text) > MAX_TEXT_CHARS:
            raise UsageError(f"text: {len(self.text)} characters; at most {MAX_TEXT_CHARS}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionPage:
    """Some actions, newest first. `next_cursor` continues after them; it is None at the end.

    `version` grows with each change of the history.
    """

    actions: tuple[ActionRecord, ...]
    next_cursor: str | None
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChange:
    """A stream entered a state, or the reason for its state changed."""

    stream: str
    time: datetime
    state: State
    reason: str | None


def to_us(time: datetime) -> int:
    """Return the microseconds since 1970 of a time with a zone."""
    return (time - _EPOCH) // timedelta(microseconds=1)


def from_us(us: int) -> datetime:
    """Return the time in UTC; `to_us` is the inverse."""
    return _EPOCH + timedelta(microseconds=us)
