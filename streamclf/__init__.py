"""Real-time streaming video classifier: capture, classify, journal, publish.

The public names are here; each is loaded at its first use:

    for window in streamclf.classify("film.mp4"): ...

    with streamclf.subscribe("tcp://127.0.0.1:5555", types=["action"], replay=True) as events:
        for event in events: ...
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from streamclf.api.classification import Classification
    from streamclf.api.model import Model, classify, open_model
    from streamclf.api.stream import ModelStream
    from streamclf.api.window import ClassifiedWindow
    from streamclf.client.push import PushSink, push
    from streamclf.client.replay import Snapshot
    from streamclf.client.subscription import Subscription, snapshot, subscribe
    from streamclf.errors import (
        BusError,
        ConfigError,
        EventError,
        JournalError,
        ModelError,
        SourceError,
        StreamclfError,
        UsageError,
    )
    from streamclf.events.positions import START, Position
    from streamclf.events.types import Action, Clip, Heartbeat, Latency, Lost, Prediction, Status, Window, parse_event
    from streamclf.events.views import ViewDescription

__version__ = "0.2.0"

__all__ = [
    "START",
    "Action",
    "BusError",
    "Classification",
    "ClassifiedWindow",
    "Clip",
    "ConfigError",
    "EventError",
    "Heartbeat",
    "JournalError",
    "Latency",
    "Lost",
    "Model",
    "ModelError",
    "ModelStream",
    "Position",
    "Prediction",
    "PushSink",
    "Snapshot",
    "SourceError",
    "Status",
    "StreamclfError",
    "Subscription",
    "UsageError",
    "ViewDescription",
    "Window",
    "__version__",
    "classify",
    "open_model",
    "parse_event",
    "push",
    "snapshot",
    "subscribe",
]

_PUBLIC_NAMES: Final = {
    "streamclf.api.classification": ("Classification",),
    "streamclf.api.model": ("Model", "classify", "open_model"),
    "streamclf.api.stream": ("ModelStream",),
    "streamclf.api.window": ("ClassifiedWindow",),
    "streamclf.errors": (
        "BusError",
        "ConfigError",
        "EventError",
        "JournalError",
        "ModelError",
        "SourceError",
        "StreamclfError",
        "UsageError",
    ),
    "streamclf.events.types": (
        "Action",
        "Clip",
        "Heartbeat",
        "Latency",
        "Lost",
        "Prediction",
        "Status",
        "Window",
        "parse_event",
    ),
    "streamclf.events.views": ("ViewDescription",),
    "streamclf.client.replay": ("Snapshot",),
    "streamclf.client.push": ("PushSink", "push"),
    "streamclf.client.subscription": ("Subscription", "snapshot", "subscribe"),
    "streamclf.events.positions": ("START", "Position"),
}
"""The public names by module. No submodule of `streamclf` may have a public name: importing it would hide that name."""
_MODULE_OF: Final = {name: module for module, names in _PUBLIC_NAMES.items() for name in names}


if not TYPE_CHECKING:  # otherwise mypy would accept any misspelt name

    def __getattr__(name: str) -> Any:
        """Load a public name's module at its first use (PEP 562)."""
        module = _MODULE_OF.get(name)
        if module is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(module), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
