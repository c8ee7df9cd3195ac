"""Real-time streaming video classifier: capture, classify, journal, publish.

What programs use is here, and nothing is loaded before it is used:

    with streamclf.subscribe("tcp://127.0.0.1:5555", types=["action"], replay=True) as events:
        for event in events: ...
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from streamclf.client.push import PushSink, push
    from streamclf.client.replay import Snapshot
    from streamclf.client.subscription import Subscription, snapshot, subscribe
    from streamclf.errors import (
        BusError,
        ConfigError,
        EventError,
        JournalError,
        SourceError,
        StreamclfError,
        UsageError,
    )
    from streamclf.events.types import (
        START,
        Action,
        Heartbeat,
        Latency,
        Lost,
        Position,
        Prediction,
        Status,
        Window,
        parse_event,
    )

__version__ = "0.2.0"

__all__ = [
    "START",
    "Action",
    "BusError",
    "ConfigError",
    "EventError",
    "Heartbeat",
    "JournalError",
    "Latency",
    "Lost",
    "Position",
    "Prediction",
    "PushSink",
    "Snapshot",
    "SourceError",
    "Status",
    "StreamclfError",
    "Subscription",
    "UsageError",
    "Window",
    "__version__",
    "parse_event",
    "push",
    "snapshot",
    "subscribe",
]

_ROOMS: Final = {
    "streamclf.errors": (
        "BusError",
        "ConfigError",
        "EventError",
        "JournalError",
        "SourceError",
        "StreamclfError",
        "UsageError",
    ),
    "streamclf.events.types": (
        "Action",
        "Heartbeat",
        "Latency",
        "Lost",
        "Prediction",
        "Status",
        "Window",
        "parse_event",
    ),
    "streamclf.client.replay": ("Snapshot",),
    "streamclf.client.push": ("PushSink", "push"),
    "streamclf.client.subscription": ("Subscription", "snapshot", "subscribe"),
    "streamclf.client.gaps": ("START", "Position"),
}
"""Where each name lives; no room may be called like a public name, or importing it would hide that name."""
_ROOM_OF: Final = {name: room for room, names in _ROOMS.items() for name in names}


if not TYPE_CHECKING:  # else mypy would let any misspelt name through

    def __getattr__(name: str) -> Any:
        """Load a public name's room when it is first asked for (PEP 562)."""
        room = _ROOM_OF.get(name)
        if room is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(room), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
