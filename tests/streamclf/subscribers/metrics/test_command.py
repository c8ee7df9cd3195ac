"""The metrics of a service have the right numbers, a limited number of series, and follow its health."""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.hub_process import HubProcess, action, prediction, status, wait_until
from support.service import Service
from support.short_silence import short_silence_program

from streamclf.events.drafts import Draft
from streamclf.events.fleet_heartbeat import FleetHeartbeat, NodeSummary
from streamclf.events.types import Action, Heartbeat, Latency, Lost, Prediction, Status, Window
from streamclf.producer.link import EventProducer
from streamclf.subscribers.metrics.command import MAX_LABELS, MAX_STREAMS, MetricsCollector

EPOCH = "9f" * 16
NOW = datetime(2026, 1, 31, 12, 0, 0, tzinfo=timezone.utc)
ORDER = ("version", "node", "stream", "region", "model", "label", "phase", "state", "cause", "name", "le")


def prediction_event(label: str = "wave", stream: str = "door", **more: Any) -> Prediction:
    return Prediction(
        stream=stream, epoch=EPOCH, offset=8, previous=7, time=NOW, model="gestures@1",
        window=Window(start_s=1.0, end_s=3.5, frames=32), top=((label, 0.91), ("still", 0.04)),
        latency_ms=Latency(capture_to_publish=48.0, encode=5.2, classify=0.7), **more,
    )  # fmt: skip


def action_event(phase: Any, **view: Any) -> Action:
    return Action(
        stream="door", epoch=EPOCH, offset=7, previous=0, time=NOW, label="wave", phase=phase,
        started_s=1.0, at_s=2.0, probability=0.9, peak=0.95, **view,
    )  # fmt: skip


def status_event(
    state: Any, stream: str = "door", reason: str | None = None, finished: bool = False, **counters: float
) -> Status:
    event: dict[str, Any] = {"stream": stream, "epoch": EPOCH, "offset": 9, "previous": 8, "time": NOW}
    return Status(**event, state=state, reason=reason, finished=finished, counters=counters)


def heartbeat(**more: Any) -> Heartbeat:
    return Heartbeat(
        epoch=EPOCH, time=NOW, head=4711, oldest=12, last={"door": 4711}, replay="tcp://127.0.0.1:1", **more
    )


def samples(collector: MetricsCollector) -> dict[tuple[str, tuple[str, ...]], float]:
    status, _, body = collector.pages()["/metrics"]()
    assert status == 200
    return parsed(body.decode())


def parsed(text: str) -> dict[tuple[str, tuple[str, ...]], float]:
    families = text_string_to_metric_families(text)
    return {
        (each.name, tuple(each.labels[name] for name in ORDER if each.labels.get(name))): each.value
        for family in families
        for each in family.samples
    }


def test_events_become_metrics() -> None:
    collector = MetricsCollector(60.0)
    for event in (
        heartbeat(not_durable=3, dropped={"door": 5}),
        prediction_event(), prediction_event(), prediction_event("still"),
        action_event("start"), action_event("update"),
        status_event("frozen", frames=100, chunks=50, corrupt=2, reconnects=1, fps=24.9,
                     dropped_stale=4, link_dropped=5),
        Lost(epoch=EPOCH, first=1, last=2),
    ):  # fmt: skip
        collector.apply(event)
    found = samples(collector)
    assert found["streamclf_predictions_total", ("door", "wave")] == 2
    assert found["streamclf_predictions_total", ("door", "still")] == 1
    assert found["streamclf_actions_total", ("door", "wave", "start")] == 1
    assert ("streamclf_actions_total", ("door", "wave", "update")) not in found
    assert found["streamclf_action_active", ("door", "wave")] == 1
    assert found["streamclf_capture_to_publish_seconds_count", ("door",)] == 3
    assert found["streamclf_capture_to_publish_seconds_sum", ("door",)] == pytest.approx(0.144)
    assert found["streamclf_capture_to_publish_seconds_bucket", ("door", "0.05")] == 3
    assert found["streamclf_encode_seconds_sum", ()] == pytest.approx(0.0156)
    assert found["streamclf_classify_seconds_count", ()] == 3
    assert found["streamclf_last_prediction_timestamp_seconds", ("door",)] == NOW.timestamp()
    states = {labels[1]: value for (name, labels), value in found.items() if name == "streamclf_stream_state"}
    assert states == {"connecting": 0, "live": 0, "frozen": 1, "stalled": 0, "offline": 0}
    for name, value in (("frames", 100), ("chunks", 50), ("corrupt", 2), ("reconnects", 1)):
        assert found[f"streamclf_{name}_total", ("door",)] == value
    assert found["streamclf_stream_value", ("door", "fps")] == 24.9
    assert found["streamclf_dropped_total", ("door", "stale")] == 4
    assert found["streamclf_dropped_total", ("door", "link")] == 5
    assert found["streamclf_journal_head", ()] == 4711
    assert found["streamclf_journal_oldest", ()] == 12
    assert found["streamclf_not_durable_total", ()] == 3
    assert found["streamclf_events_lost_total", ()] == 1
    assert found["streamclf_up", ()] == 1
    collector.apply(action_event("end"))
    assert samples(collector)["streamclf_action_active", ("door", "wave")] == 0


def test_leases_nodes_and_actions_of_a_lost_node_are_metrics() -> None:
    collector = MetricsCollector(60.0)
    node = NodeSummary(name="a", condition="lost", since=NOW, streams=("door",), reason="no answer")
    fleet = FleetHeartbeat(
        epoch=EPOCH, time=NOW, head=1, oldest=1, last={}, replay="", leases={"door": 5}, refused={"door": 12},
        streams=("door", "yard"), nodes={"a": node}, owners={"door": "a"}, unplaced={"yard": "too little"},
        overtaken=2,
    )  # fmt: skip
    for event in (action_event("start", lease=3), prediction_event(lease=5), action_event("update", lease=3), fleet):
        collector.apply(event)
    found = samples(collector)
    assert found["streamclf_lease_refused_total", ("door",)] == 12
    assert found["streamclf_node_up", ("a",)] == 0
    assert found["streamclf_node_streams", ("a",)] == 1
    assert found["streamclf_overtaken_total", ()] == 2
    active = {key: value for key, value in found.items() if key[0] == "streamclf_action_active"}
    assert list(active.values()) == [0]
    text = collector.pages()["/healthz"]()[2].decode()
    assert "node a: lost since" in text
    assert "stream door: node a is lost" in text
    assert "stream yard: on no node: too little" in text


def test_drops_and_gated_chunks_are_metrics_and_no_sample_repeats() -> None:
    collector = MetricsCollector(60.0)
    collector.apply(replace(status_event("live", dropped_stale=4), hop=4))
    collector.apply(replace(prediction_event(), gated=70, dropped={"overload": 3, "outdated": 2, "hop": 9}))
    found = samples(collector)
    assert found["streamclf_stream_value", ("door", "hop")] == 4
    assert found["streamclf_gated_total", ("door",)] == 70
    drops = {labels[1]: value for (name, labels), value in found.items() if name == "streamclf_dropped_total"}
    assert drops == {"stale": 4, "overload": 3, "outdated": 2, "hop": 9}
    _, _, body = collector.pages()["/metrics"]()
    lines = [line.rpartition(" ")[0] for line in body.decode().splitlines() if not line.startswith("#")]
    assert len(lines) == len(set(lines))


def test_views_with_equal_labels_are_counted_apart() -> None:
    collector = MetricsCollector(60.0)
    gate, hands = {"region": "gate"}, {"region": "gate", "model_name": "hands"}
    for number, view in enumerate(({}, gate, hands), 1):
        for _ in range(number):
            collector.apply(prediction_event(**view, dropped={"overload": number}, gated=10 * number))
        collector.apply(action_event("start", **view))
    collector.apply(action_event("end", **gate))
    found = samples(collector)
    for names, number in (("door",), 1), (("door", "gate"), 2), (("door", "gate", "hands"), 3):
        assert found["streamclf_predictions_total", (*names, "wave")] == number
        assert found["streamclf_capture_to_publish_seconds_count", names] == number
        assert found["streamclf_dropped_total", (*names, "overload")] == number
        assert found["streamclf_gated_total", names] == 10 * number
        assert found["streamclf_actions_total", (*names, "wave", "start")] == 1
        assert found["streamclf_action_active", (*names, "wave")] == (number != 2)
    assert ("streamclf_actions_total", ("door", "gate", "hands", "wave", "end")) not in found


def test_labels_that_are_present_at_once_are_all_counted() -> None:
    collector = MetricsCollector(60.0)
    for labels in (("wave", "still"), ("still",), ()):
        collector.apply(prediction_event(labels=labels))
    found = samples(collector)
    assert found["streamclf_predictions_total", ("door", "wave")] == 3
    assert found["streamclf_labels_present_total", ("door", "wave")] == 1
    assert found["streamclf_labels_present_total", ("door", "still")] == 2


def test_the_number_of_views_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamclf.subscribers.metrics.command.MAX_VIEWS", 5)
    collector = MetricsCollector(60.0)
    for number in range(9):
        collector.apply(prediction_event(region=f"r{number}"))
        collector.apply(action_event("start", region=f"r{number}"))
    found = samples(collector)
    assert found["streamclf_predictions_total", ("other", "wave")] == 4
    assert found["streamclf_folded_total", ()] == 8
    assert len([key for key in found if key[0] == "streamclf_action_active"]) == 5 + 1


def test_labels_and_streams_beyond_the_limits_become_other_and_are_counted() -> None:
    collector = MetricsCollector(60.0)
    for number in range(MAX_LABELS + 7):
        collector.apply(prediction_event(f"label{number}"))
    collector.apply(status_event("live"))
    for number in range(MAX_STREAMS + 5):
        collector.apply(prediction_event("label0", f"cam{number}"))
        collector.apply(status_event("live", f"cam{number}"))
    found = samples(collector)
    assert found["streamclf_predictions_total", ("door", "other")] == 7
    assert found["streamclf_predictions_total", ("other", "label0")] == 6
    assert found["streamclf_folded_total", ()] == 13
    states = [key for key in found if key[0] == "streamclf_stream_state" and key[1][1] == "live"]
    assert len(states) == MAX_STREAMS


def ask(server: str, path: str, **headers: str) -> tuple[int, str]:
    host, _, port = server.rpartition(":")
    with closing(http.client.HTTPConnection(host.strip("[]"), int(port), timeout=20)) as connection:
        connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


@pytest.fixture
def hub() -> Iterator[HubProcess]:
    with HubProcess() as hub:
        yield hub


def test_the_command_serves_the_metrics_and_the_health_of_a_service(hub: HubProcess, tmp_path: Path) -> None:
    with (
        Service(
            "metrics",
            hub.events,
            "--port",
            "0",
            "--stalled-after",
            "1",
            cwd=tmp_path,
            program=short_silence_program(),
        ) as outlet,
        EventProducer(hub.link, "test") as link,
    ):
        address = outlet.wait_for_line(r"http://(\S+)/metrics")[1]

        def health() -> tuple[int, str]:
            return ask(address, "/healthz")

        wait_until(lambda: health()[0] == 200, "a healthy service", 90)
        link.post(status(state="live", frames=5))
        for number in range(50):
            link.post(prediction(number=number))
        link.post(action("start"))
        link.post(Draft("status", "door", {"state": "offline", "reason": "connection refused", "counters": {}}))
        wait_until(lambda: "not live for" in health()[1], "a stream that is away", 90)
        assert re.search(r"stream door: offline, not live for \d+ s \(connection refused\)", health()[1])
        found = parsed(ask(address, "/metrics")[1])
        assert found["streamclf_predictions_total", ("door", "wave")] == 50
        assert found["streamclf_actions_total", ("door", "wave", "start")] == 1
        assert found["streamclf_journal_head", ()] >= 53
        assert found["streamclf_up", ()] == 1
        link.post(status(state="live", frames=6))
        wait_until(lambda: health()[0] == 200, "a stream that is back", 90)
        hub.kill()
        wait_until(lambda: "service silent" in health()[1], "a silent service", 90)
        assert parsed(ask(address, "/metrics")[1])["streamclf_up", ()] == 0
        hub.start()
        wait_until(lambda: health()[0] == 200, "a new hub", 90)
        outlet.interrupt()
        assert outlet.wait() == 0
