"""Define the status of an outlet, which heartbeats carry for each outlet of the service."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

MAX_REASON_CHARS: Final = 512
MAX_OUTLETS: Final = 64
"""Outlets that one heartbeat lists."""

OutletState: TypeAlias = Literal["starting", "running", "waiting", "restarting", "parked"]
_Count = Annotated[int, Field(ge=0, le=2**53)]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutletStatus:
    """The state of one outlet, the reason for it, and counts since its process started.

    `waiting`: its receiver cannot be reached. `restarting`: its process has ended, and starts again soon. `parked`: it
    has ended again and again, and starts again after a longer pause. `delivered` and `refused` count events, `lost`
    ranges of events that the journal no longer had.
    """

    __pydantic_config__ = ConfigDict(extra="ignore")
    state: OutletState
    reason: Annotated[str, Field(max_length=MAX_REASON_CHARS)] | None = None
    since: datetime
    delivered: _Count = 0
    refused: _Count = 0
    lost: _Count = 0


_ADAPTER: Final = TypeAdapter(OutletStatus)


def status_line(status: OutletStatus) -> bytes:
    """Encode a status as one line, as an outlet's process reports it to the supervisor."""
    return _ADAPTER.dump_json(status) + b"\n"


def parse_status_line(line: bytes) -> OutletStatus | None:
    """Parse such a line; None for any other text, such as a library's output."""
    try:
        return _ADAPTER.validate_json(line)
    except ValidationError:
        return None
