"""Define a message for a broker, and the keys by which a payload names its event."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from streamclf.events.types import StreamEvent, format_event_time


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttMessage:
    """One message for the broker, with QoS 1."""

    topic: str
    payload: bytes
    retain: bool = False


def origin(item: StreamEvent) -> dict[str, Any]:
    """Return the time and the place in the journal of an event."""
    return {"time": format_event_time(item), "epoch": item.epoch, "offset": item.offset}
