"""The predictions of the last hour are read from the journal: all of them, and not the whole journal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from support.hub_process import HubProcess, prediction, read_journal, wait_until

from streamclf.client.subscription import subscribe
from streamclf.config.actions import ActionConfig, StreamActions
from streamclf.errors import BusError
from streamclf.events.types import Heartbeat
from streamclf.events.views import ViewKey, view_keys
from streamclf.net.curve_client import resolve_service_address
from streamclf.producer.link import EventProducer
from streamclf.subscribers.web.settings import recent_predictions
from streamclf.subscribers.web.settings.recent_predictions import (
    SPAN_S,
    WARM_UP_S,
    RecentPredictions,
    Sample,
)
from streamclf.subscribers.web.settings.threshold_preview import MAX_POINTS, curve, find_model_of, recount


@pytest.fixture(scope="module")
def hub() -> Iterator[HubProcess]:
    with HubProcess() as hub:
        yield hub


def post(hub: HubProcess, stream: str, count: int, first: int = 0) -> None:
    """Post predictions of two streams, each with its number as the window's start, until the journal has them."""
    with EventProducer(hub.link, "test") as producer:
        for number in range(first, first + count):
            producer.post(prediction(stream, number))
            producer.post(prediction("other", number))
        wait_until(lambda: producer.unacknowledged == 0, "the journal has all", 90)


def last_heartbeat(hub: HubProcess) -> Heartbeat:
    with subscribe(hub.events) as events:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            event = events.receive(1.0)
            if isinstance(event, Heartbeat):
                return event
    raise AssertionError("no heartbeat")


def numbers(samples: tuple[Sample, ...]) -> list[int]:
    return [int(sample.start_s) for sample in samples]


def test_the_journal_is_read_from_the_beginning_of_the_hour(hub: HubProcess) -> None:
    post(hub, "door", 1500)
    middle_s = time.time()
    post(hub, "door", 1500, first=1500)
    heartbeats = [last_heartbeat(hub)]
    recent = RecentPredictions(resolve_service_address(hub.events), lambda: heartbeats[-1])
    now_s = middle_s + SPAN_S + WARM_UP_S
    found = recent.read("door", now_s)
    assert numbers(found.samples) == list(range(1500, 3000))
    assert found.samples[0].probabilities == {"wave": 0.91, "still": 0.04}
    assert found.begin_s == now_s - SPAN_S
    assert not found.is_partial
    post(hub, "door", 20, first=3000)
    heartbeats.append(last_heartbeat(hub))
    assert numbers(recent.read("door", now_s).samples) == list(range(1500, 3020))
    assert recent.read("absent", now_s).samples == ()


def test_a_limit_of_predictions_is_shown_by_their_beginning(hub: HubProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent_predictions, "MAX_SAMPLES", 100)
    post(hub, "busy", 150)
    heartbeat = last_heartbeat(hub)
    found = RecentPredictions(resolve_service_address(hub.events), lambda: heartbeat).read("busy", time.time())
    assert numbers(found.samples) == list(range(50, 150))
    times = [each["time"] for each in read_journal(hub.journal) if each["stream"] == "busy"]
    assert found.begin_s == found.samples[0].time_s
    assert len(times) == 150


def test_a_service_that_does_not_answer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent_predictions, "_READ_S", 0.3)
    with HubProcess() as hub:
        post(hub, "door", 3)
        heartbeat = last_heartbeat(hub)
        address = resolve_service_address(hub.events)
    with pytest.raises(BusError, match="did not send its predictions in time"):
        RecentPredictions(address, lambda: heartbeat).read("door", time.time())
    with pytest.raises(BusError, match="sent nothing yet"):
        RecentPredictions(address, lambda: None).read("door", time.time())


def samples(*runs: tuple[float, int], step_s: float = 0.2, **more: Any) -> list[Sample]:
    """Return predictions of `bright`: runs of (probability, count)."""
    values = [probability for probability, count in runs for _ in range(count)]
    return [
        Sample(1000.0 + index * step_s, index * step_s, (index + 1) * step_s, more.get("segment", 0), {"bright": value})
        for index, value in enumerate(values)
    ]


def test_actions_are_found_with_their_times_and_peaks() -> None:
    actions = StreamActions(labels={"bright": ActionConfig(on=0.8, off=0.5, min_s=0.6, smooth_s=0, cooldown_s=0)})
    found = recount(samples((0.1, 10), (0.9, 10), (0.95, 5), (0.2, 10), (0.9, 6)), actions, 0.0)
    assert [(round(each.began_s, 3), round(each.fired_s, 3)) for each in found] == [(1002.0, 1002.6), (1007.0, 1007.6)]
    assert found[0].ended_s == pytest.approx(1005.0)
    assert found[0].peak == 0.95
    assert found[1].ended_s is None
    assert recount(samples((0.9, 10)), actions, 1000.7) == []


def test_a_hidden_scene_holds_an_action_of_the_preview_as_it_did_in_the_service() -> None:
    seen = [replace(each, scene_lost=0.9) for each in samples((0.9, 6), (0.2, 20))]
    action = ActionConfig(min_s=0.6, smooth_s=0, hold_s=2)
    (held,) = recount(seen, StreamActions(labels={"bright": action}), 0.0)
    assert held.ended_s == pytest.approx(1001.2 + 2)
    (plain,) = recount(seen, StreamActions(labels={"bright": action.model_copy(update={"hold_s": 0})}), 0.0)
    assert plain.ended_s == pytest.approx(1001.2)


def test_a_curve_keeps_the_highest_values() -> None:
    many = samples(*[(0.1, 50), (0.7, 1)] * 100)
    points = curve(many, "bright", many[0].time_s, many[-1].time_s)
    assert len(points) <= MAX_POINTS + 1
    assert sum(value == 0.7 for _, value in points) == 100
    assert curve(many, "absent", many[0].time_s, many[-1].time_s)[0][1] == 0.0


def test_the_predictions_of_one_view_are_not_mixed_with_those_of_others(hub: HubProcess) -> None:
    views = [ViewKey(), ViewKey("gate"), ViewKey("gate", "hands")]
    with EventProducer(hub.link, "views") as producer:
        for number in range(30):
            producer.post(prediction("hall", number, **view_keys(views[number % 3])))
        wait_until(lambda: producer.unacknowledged == 0, "the journal has all", 90)
    heartbeat = last_heartbeat(hub)
    recent = RecentPredictions(resolve_service_address(hub.events), lambda: heartbeat)
    for first, view in enumerate(views):
        assert numbers(recent.read("hall", time.time(), view).samples) == list(range(first, 30, 3))
    assert recent.read("hall", time.time(), ViewKey(None, "hands")).samples == ()


def test_a_key_of_an_action_is_found_in_the_model_that_has_the_label() -> None:
    def bundle(*labels: str) -> Any:
        return SimpleNamespace(spec=SimpleNamespace(find_label=lambda name: name if name in labels else None))

    bundles = {"": bundle("wave", "a/b"), "hands": bundle("wave", "fist"), "gone": bundle("x")}
    view: Any = SimpleNamespace(models=("", "hands"))
    for key, found in {
        "wave": ("", "wave"),
        "model/wave": ("", "wave"),
        "hands/wave": ("hands", "wave"),
        "fist": ("hands", "fist"),
        "a/b": ("", "a/b"),
        "x": ("", "x"),  # not a model of this view
        "unknown": ("", "unknown"),
    }.items():
        assert find_model_of(view, bundles, key) == found
