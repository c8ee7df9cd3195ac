"""Views of a service hold the values of its latest events, and report when the service is silent."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

from streamclf.client.stream_views import RATE_WINDOW_S, SERVICE_SILENT_S, ServiceView, StreamState
from streamclf.events.types import (
    MAX_LISTED_STREAMS,
    Action,
    Heartbeat,
    Latency,
    Lost,
    Prediction,
    Status,
    Window,
)
from streamclf.events.views import MAX_VIEWS, UNNAMED, ActionKey, ViewDescription, ViewKey

EPOCH = "ab" * 16
NOON = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)


def common(stream: str = "door") -> dict[str, Any]:
    return {"stream": stream, "epoch": EPOCH, "offset": 1, "previous": 0, "time": NOON}


def prediction(label: str = "wave", stream: str = "door", latency_ms: float | None = None, **view: Any) -> Prediction:
    return Prediction(
        window=Window(start_s=0, end_s=1, frames=8), top=((label, 0.9), ("still", 0.1)), model="m",
        latency_ms=Latency(capture_to_publish=latency_ms), **common(stream), **view,
    )  # fmt: skip


def status(state: Any, stream: str = "door", reason: str | None = None, hop: int | None = None, **more: Any) -> Status:
    return Status(state=state, reason=reason, hop=hop, **common(stream), **more)


def action(phase: Any, label: str = "wave", **view: Any) -> Action:
    return Action(label=label, phase=phase, started_s=1.0, at_s=2.0, probability=0.9, peak=0.9, **common(), **view)


def heartbeat() -> Heartbeat:
    return Heartbeat(epoch=EPOCH, time=NOON, head=1, oldest=1, last={}, replay="tcp://127.0.0.1:1")


def test_a_new_stream_is_connecting_and_has_no_values() -> None:
    view = StreamState()
    assert (view.state, view.reason, view.hop, view.top, view.latency_ms) == ("connecting", None, None, (), None)
    assert view.rate_per_s(100.0) == 0


def test_a_status_sets_state_reason_and_hop() -> None:
    view = StreamState()
    view.apply(status("offline", reason="unplugged", hop=4), 10.0)
    assert (view.state, view.reason, view.hop, view.status_at_s) == ("offline", "unplugged", 4, 10.0)


def test_a_prediction_makes_a_stream_live_only_until_its_first_status() -> None:
    """A subscriber that starts late may miss the status; a late prediction must not hide a later status."""
    view = StreamState()
    view.apply(prediction(), 1.0)
    assert view.state == "live"
    view.apply(status("frozen"), 2.0)
    view.apply(prediction(), 2.1)
    assert view.state == "frozen"


def test_an_absence_lasts_until_the_stream_is_live_again() -> None:
    view = StreamState()
    changes = []
    for now_s, state in ((0.0, "live"), (10.0, "stalled"), (40.0, "connecting"), (65.0, "offline"), (72.0, "live")):
        view.apply(status(state), now_s)
        changes.append(view.changed_at_s)
    assert changes == [0.0, 10.0, 10.0, 10.0, 72.0]


def test_active_actions_end_with_their_end() -> None:
    view = StreamState()
    for each in (action("start"), action("update"), action("start", "fall")):
        view.apply(each, 1.0)
    assert [key.label for key in view.active] == ["wave", "fall"]
    view.apply(action("end"), 2.0)
    view.apply(action("end", "never started"), 2.0)
    assert [key.label for key in view.active] == ["fall"]
    assert view.action is not None
    assert view.action.label == "never started"


def test_rate_history_and_latency_follow_the_predictions() -> None:
    view = StreamState()
    for number in range(30):
        view.apply(prediction(f"label{number}", latency_ms=float(number)), 100 + number / 10)
    assert view.rate_per_s(100 + RATE_WINDOW_S) == pytest.approx(10)
    assert view.rate_per_s(102.9 + RATE_WINDOW_S + 0.1) == 0
    assert view.latest.history[-1] == ("label29", 0.9)
    assert view.top[0] == ("label29", 0.9)
    assert view.latency_ms == 14.5
    view.apply(prediction(latency_ms=None), 103.0)
    assert view.latency_ms == 14.5


def test_the_rate_of_a_stream_is_right_before_it_has_been_observed_for_three_seconds() -> None:
    """`streamclf status` showed 0.3/s for a stream of five predictions per second, of which it knew the last one."""
    view = StreamState()
    view.apply(prediction(), 100.0)
    assert view.rate_per_s(100.1) is None
    for number in range(1, 9):
        view.apply(prediction(), 100 + number / 5)
    assert view.rate_per_s(101.6) == pytest.approx(5)
    burst = StreamState()  # a replay sends many events at once
    for _ in range(500):
        burst.apply(prediction(), 100.0)
    assert burst.rate_per_s(100.01) is None


def test_a_service_is_silent_before_the_first_event_and_after_a_pause() -> None:
    service = ServiceView()
    assert service.is_silent(0.0)
    service.apply(heartbeat(), 0.0)
    assert not service.is_silent(SERVICE_SILENT_S)
    assert service.is_silent(SERVICE_SILENT_S + 0.1)
    service.apply(Lost(epoch=EPOCH, first=1, last=2), 10.0)
    assert not service.is_silent(10.0)
    assert service.heartbeat == heartbeat()


def test_an_event_of_a_snapshot_does_not_set_the_time_back() -> None:
    service = ServiceView()
    service.apply(heartbeat(), 100.0)
    service.apply(prediction(), 40.0)
    assert service.received_at_s == 100.0
    assert service.streams["door"].predicted_at_s == 40.0


def test_the_number_of_streams_is_limited() -> None:
    service = ServiceView()
    for number in range(MAX_LISTED_STREAMS + 5):
        service.apply(status("live", f"cam{number}"), 1.0)
    assert len(service.streams) == MAX_LISTED_STREAMS
    service.apply(status("offline", "cam0"), 2.0)
    assert service.streams["cam0"].state == "offline"


GATE, HANDS = ViewKey("gate"), ViewKey("gate", "hands")


def in_view(key: ViewKey) -> dict[str, Any]:
    return {"region": key.region, "model_name": key.model_name}


def test_views_with_equal_labels_at_the_same_time_are_kept_apart() -> None:
    view = StreamState()
    for key in (UNNAMED, GATE, HANDS):
        view.apply(prediction(**in_view(key), latency_ms=float(len(key.names))), 10.0)
        view.apply(action("start", **in_view(key)), 10.0)
    assert [key for key, _ in view.ordered_views()] == [UNNAMED, GATE, HANDS]
    assert list(view.active) == [ActionKey(*key, "wave") for key in (UNNAMED, GATE, HANDS)]
    view.apply(action("end", **in_view(GATE)), 11.0)
    assert list(view.active) == [ActionKey(*key, "wave") for key in (UNNAMED, HANDS)]
    assert [len(state.history) for _, state in view.ordered_views()] == [1, 1, 1]
    assert view.latency_ms == 2.0
    for number in range(1, 40):
        for key in (GATE, HANDS):
            view.apply(prediction(**in_view(key)), 10 + number / 10)
    assert view.views[GATE].rate_per_s(13.9) == pytest.approx(10, abs=0.4)
    assert view.rate_per_s(13.9) == pytest.approx(20, abs=0.8)


def test_a_status_removes_views_that_are_no_longer_configured() -> None:
    view = StreamState()
    for key in (UNNAMED, GATE, HANDS):
        view.apply(prediction(**in_view(key)), 1.0)
    view.apply(status("live"), 2.0)
    assert len(view.views) == 3, "a service that does not list views"
    views = (ViewDescription(region="gate", area=(0, 0, 0.5, 1)), ViewDescription(region="yard"))
    view.apply(status("live", actions=("wave",), views=views), 3.0)
    assert [key for key, _ in view.ordered_views()] == [GATE, ViewKey("yard")]
    assert (view.area_of("gate"), view.area_of("yard")) == ((0, 0, 0.5, 1), None)
    view.apply(status("live", actions=("wave",)), 4.0)
    assert [key for key, _ in view.ordered_views()] == [UNNAMED]


def test_the_number_of_views_is_limited() -> None:
    view = StreamState()
    for number in range(2 * MAX_VIEWS):
        view.apply(prediction(region=f"r{number}"), 1.0)
        view.apply(action("start", region=f"r{number}"), 1.0)
    assert len(view.views) == len(view.active) == MAX_VIEWS


def test_present_labels_are_those_above_their_thresholds() -> None:
    view = StreamState()
    assert view.latest.present is None
    view.apply(prediction(), 1.0)
    assert view.latest.present == (("wave", 0.9),)
    view.apply(prediction(labels=("wave", "still")), 1.0)
    assert view.latest.present == (("wave", 0.9), ("still", 0.1))
    view.apply(prediction(labels=()), 1.0)
    assert view.latest.present == ()


def test_events_of_an_earlier_lease_change_nothing_and_a_later_one_ends_actions() -> None:
    state = StreamState()
    for event in (status("live", lease=3), action("start", lease=3), prediction("wave", lease=3)):
        state.apply(event, 1.0)
    assert state.active
    state.apply(prediction("still", lease=5), 2.0)
    assert not state.active
    for event in (status("offline", lease=3), action("start", lease=3), prediction("wave", lease=3)):
        state.apply(event, 3.0)  # the node that was lost has returned
    assert (state.state, state.top[0][0], state.predicted_at_s) == ("live", "still", 2.0)
    assert not state.active
