"""Name the kinds of events, and the largest size of each message, without pydantic, for processes that only send."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

MAX_EVENT_BYTES: Final = 64 * 1024
MAX_HEARTBEAT_BYTES: Final = 256 * 1024
MAX_PREVIEW_BYTES: Final = 512 * 1024

JOURNALLED: Final = ("prediction", "action", "status", "clip")

JournalledType: TypeAlias = Literal["prediction", "action", "status", "clip"]
State: TypeAlias = Literal["connecting", "live", "frozen", "stalled", "offline"]
Phase: TypeAlias = Literal["start", "update", "end"]
