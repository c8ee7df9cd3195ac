"""Describe streams in JSON, for browsers and for REST."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from streamclf.client.stream_views import StreamState
from streamclf.events.types import State
from streamclf.subscribers.web.service_view import LiveService


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSummary:
    """The present state of one stream. Labels and names are any text: escape them before you show them."""

    stream: str
    name: str
    """Name for people; the stream's own name if it has none."""
    state: State
    reason: str | None
    note: str | None
    finished: bool
    paused: bool
    """Whether the configuration pauses it."""
    top: list[tuple[str, float]]
    """(label, probability) of the last prediction, most probable first."""
    actions: list[str]
    """Labels of the actions in progress."""
    predicted: datetime | None
    latency_ms: float | None
    """Median from captured frame to published prediction."""
    rate: float | None
    """Predictions per second; null while it is unknown."""
    model: str | None
    engine: str | None
    hop: int | None


def summarize(service: LiveService, name: str) -> StreamSummary | None:
    """Return the summary of one of the service's streams; None for a name that it does not have."""
    if name not in service.names():
        return None
    now_s = time.monotonic()
    found: StreamSummary = service.read(name, lambda view: _summary(name, view, now_s)) or _summary(
        name, StreamState(), now_s
    )
    return found


def _summary(name: str, view: StreamState, now_s: float) -> StreamSummary:
    status, prediction = view.status, view.prediction
    latency_ms = None if (median_ms := view.latency_ms) is None else round(median_ms, 1)
    rate = view.rate_per_s(now_s)
    return StreamSummary(
        stream=name,
        name=(status.name if status else None) or name,
        state=view.state,
        reason=view.reason,
        note=view.note,
        finished=status.finished if status else False,
        paused=status.paused if status else False,
        top=list(view.top[:5]),
        actions=list(dict.fromkeys(key.label for key in view.active))[:8],
        predicted=prediction.time if prediction else None,
        latency_ms=latency_ms,
        rate=None if rate is None else round(rate, 1),
        model=prediction.model if prediction else None,
        engine=prediction.engine if prediction else None,
        hop=view.hop,
    )


def service_summary(service: LiveService) -> dict[str, Any]:
    """Return when the service was last received if it is silent, its streams' names, and its outlets."""
    heartbeat = service.heartbeat
    return {
        "away_since": service.away_since,
        "endpoint": service.endpoint,
        "journal_fault": service.journal_fault,
        "streams": service.names(),
        "outlets": {} if heartbeat is None else {name: each.state for name, each in heartbeat.outlets.items()},
    }
