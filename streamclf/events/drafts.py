"""Define drafts: events as producers hand them to the hub, before the hub completes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, get_args

from streamclf.errors import EventError
from streamclf.events.kinds import JournalledType
from streamclf.net.names import STREAM_NAME_RULE, valid_stream_name

ENVELOPE: Final = frozenset({"v", "type", "stream", "epoch", "offset", "previous", "time", "durable"})
"""The keys that the hub sets; a draft's body must not hold them."""


@dataclass(frozen=True, slots=True)
class Draft:
    """An event before the hub adds its epoch, offset and time.

    `body` holds the other keys of its type in `streamclf.events.types`. `captured_ns` (CLOCK_MONOTONIC) is the capture
    time of its newest frame.
    """

    type: JournalledType
    stream: str
    body: Mapping[str, Any]
    captured_ns: int | None = None

    def __post_init__(self) -> None:
        if self.type not in get_args(JournalledType):
            raise EventError(f"draft of type {self.type!r}: must be one of {', '.join(get_args(JournalledType))}")
        if not valid_stream_name(self.stream):
            raise EventError(f"stream {self.stream[:80]!r}: must be {STREAM_NAME_RULE}")
        if reserved := ENVELOPE & self.body.keys():
            raise EventError(f"draft with {', '.join(sorted(reserved))}: the hub sets these itself")
