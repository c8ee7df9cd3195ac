"""Describe streams in JSON, for browsers and for REST."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from streamclf.client.stream_views import StreamState, ViewState
from streamclf.events.fleet_heartbeat import FleetHeartbeat, fleet_fault
from streamclf.events.kinds import State
from streamclf.events.views import Area, ViewKey
from streamclf.subscribers.web.service_view import LiveService


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewSummary:
    """The present state of one view of a stream: a region, or the whole picture, as one model classifies it."""

    region: str | None
    """Null for the whole picture."""
    model_name: str | None
    """Name of the model in the configuration; null for the model without a name."""
    area: Area | None
    """Rectangle of the region: left, top, right, bottom in shares of the picture."""
    top: list[tuple[str, float]]
    """(label, probability) of the last prediction, most probable first."""
    present: list[str] | None
    """Labels that apply: the first of `top`, or all above their thresholds; null before the first prediction."""
    actions: list[str]
    """Labels of the actions in progress."""
    predicted: datetime | None
    rate: float | None
    """Predictions per second; null while it is unknown."""
    latency_ms: float | None
    model: str | None
    engine: str | None


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
    """(label, probability) of the last prediction of the first view, most probable first."""
    actions: list[str]
    """Labels of the actions in progress, in any view."""
    predicted: datetime | None
    latency_ms: float | None
    """Median from captured frame to published prediction."""
    rate: float | None
    """Predictions per second; null while it is unknown."""
    model: str | None
    engine: str | None
    hop: int | None
    views: list[ViewSummary]
    """The views of the stream, the whole picture first; at least one."""
    node: str | None = None
    """The node of the fleet that runs the stream; null outside a fleet, and while none does."""


def summarize(service: LiveService, name: str) -> StreamSummary | None:
    """Return the summary of one of the service's streams; None for a name that it does not have."""
    if name not in service.names():
        return None
    now_s = time.monotonic()
    found: StreamSummary = service.read(name, lambda view: _summary(name, view, now_s)) or _summary(
        name, StreamState(), now_s
    )
    if not isinstance(heartbeat := service.heartbeat, FleetHeartbeat):
        return found
    if (fault := fleet_fault(heartbeat, name)) is not None:  # a lost node sends no status of that
        found = replace(found, state="offline", reason=fault)
    node = heartbeat.node_of(name)
    return found if node is None else replace(found, node=node.name)


def _summary(name: str, view: StreamState, now_s: float) -> StreamSummary:
    status, parts = view.status, view.ordered_views()
    first = parts[0][1]
    prediction = first.prediction
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
        top=list(first.top[:5]),
        actions=list(dict.fromkeys(key.label for key in view.active))[:8],
        predicted=prediction.time if prediction else None,
        latency_ms=latency_ms,
        rate=None if rate is None else round(rate, 1),
        model=prediction.model if prediction else None,
        engine=prediction.engine if prediction else None,
        hop=view.hop,
        views=[_view_summary(view, key, part, now_s) for key, part in parts],
    )


def _view_summary(view: StreamState, key: ViewKey, part: ViewState, now_s: float) -> ViewSummary:
    prediction, present, rate = part.prediction, part.present, part.rate_per_s(now_s)
    latency_ms = part.latency_ms
    return ViewSummary(
        region=key.region,
        model_name=key.model_name,
        area=view.area_of(key.region),
        top=list(part.top[:5]),
        present=None if present is None else [label for label, _ in present],
        actions=list(part.active)[:8],
        predicted=prediction.time if prediction else None,
        rate=None if rate is None else round(rate, 1),
        latency_ms=None if latency_ms is None else round(latency_ms, 1),
        model=prediction.model if prediction else None,
        engine=prediction.engine if prediction else None,
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
