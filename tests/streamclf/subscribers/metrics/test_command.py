"""Metrics and health: right numbers, bounded series, a verdict that changes with the service, and no strangers."""

from __future__ import annotations

import http.client
import json
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.hub_process import HubProcess, action, prediction, status, wait_until
from support.service import Service

from streamclf.errors import BusError, UsageError
from streamclf.events.drafts import Draft
from streamclf.events.types import Action, Heartbeat, Latency, Lost, Prediction, Status, Window
from streamclf.producer.link import EventProducer
from streamclf.subscribers.metrics import http_server
from streamclf.subscribers.metrics.command import MAX_LABELS, MAX_STREAMS, MetricsCollector
from streamclf.subscribers.metrics.health import MAX_REASONS, SILENT_S, UNHEARD_S, HealthCheck
from streamclf.subscribers.metrics.http_server import MAX_CONNECTIONS, Server, read_token

EPOCH = "9f" * 16
NOW = datetime(2026, 1, 31, 12, 0, 0, tzinfo=timezone.utc)
ORDER = ("version", "stream", "label", "phase", "state", "cause", "name", "le")
TOKEN = "0123456789abcdef-to-read"


def predicted(label: str = "wave", stream: str = "door") -> Prediction:
    return Prediction(
        stream=stream, epoch=EPOCH, offset=8, previous=7, time=NOW, model="gestures@1",
        window=Window(start_s=1.0, end_s=3.5, frames=32), top=((label, 0.91), ("still", 0.04)),
        latency_ms=Latency(capture_to_publish=48.0, encode=5.2, classify=0.7),
    )  # fmt: skip


def acted(phase: Any) -> Action:
    return Action(
        stream="door", epoch=EPOCH, offset=7, previous=0, time=NOW, label="wave", phase=phase,
        started_s=1.0, at_s=2.0, probability=0.9, peak=0.95,
    )  # fmt: skip


def told(
    state: Any, stream: str = "door", reason: str | None = None, finished: bool = False, **counters: float
) -> Status:
    event: dict[str, Any] = {"stream": stream, "epoch": EPOCH, "offset": 9, "previous": 8, "time": NOW}
    return Status(**event, state=state, reason=reason, finished=finished, counters=counters)


def beat(**more: Any) -> Heartbeat:
    return Heartbeat(
        epoch=EPOCH, time=NOW, head=4711, oldest=12, last={"door": 4711}, replay="tcp://127.0.0.1:1", **more
    )


def samples(board: MetricsCollector) -> dict[tuple[str, tuple[str, ...]], float]:
    status, _, body = board.pages()["/metrics"]()
    assert status == 200
    return parsed(body.decode())


def parsed(text: str) -> dict[tuple[str, tuple[str, ...]], float]:
    families = text_string_to_metric_families(text)
    return {
        (each.name, tuple(each.labels[name] for name in ORDER if name in each.labels)): each.value
        for family in families
        for each in family.samples
    }


def test_events_become_the_numbers_that_prometheus_reads() -> None:
    board = MetricsCollector(60.0)
    for event in (
        beat(not_durable=3, dropped={"door": 5}),
        predicted(), predicted(), predicted("still"),
        acted("start"), acted("update"),
        told("frozen", frames=100, chunks=50, corrupt=2, reconnects=1, fps=24.9, dropped_stale=4, link_dropped=5),
        Lost(epoch=EPOCH, first=1, last=2),
    ):  # fmt: skip
        board.take(event)
    found = samples(board)
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
    board.take(acted("end"))
    assert samples(board)["streamclf_action_active", ("door", "wave")] == 0


def test_overload_and_still_scenes_have_numbers_and_no_sample_comes_twice() -> None:
    board = MetricsCollector(60.0)
    board.take(replace(told("live", dropped_stale=4), hop=4))
    board.take(replace(predicted(), gated=70, dropped={"overload": 3, "outdated": 2, "hop": 9}))
    found = samples(board)
    assert found["streamclf_stream_value", ("door", "hop")] == 4
    assert found["streamclf_gated_total", ("door",)] == 70
    drops = {labels[1]: value for (name, labels), value in found.items() if name == "streamclf_dropped_total"}
    assert drops == {"stale": 4, "overload": 3, "outdated": 2, "hop": 9}
    _, _, body = board.pages()["/metrics"]()
    lines = [line.rpartition(" ")[0] for line in body.decode().splitlines() if not line.startswith("#")]
    assert len(lines) == len(set(lines))


def test_labels_and_streams_without_end_become_other_and_are_counted() -> None:
    board = MetricsCollector(60.0)
    for number in range(MAX_LABELS + 7):
        board.take(predicted(f"label{number}"))
    for number in range(MAX_STREAMS + 5):
        board.take(predicted("label0", f"cam{number}"))
        board.take(told("live", f"cam{number}"))
    found = samples(board)
    assert found["streamclf_predictions_total", ("door", "other")] == 7
    assert found["streamclf_predictions_total", ("other", "label0")] == 6
    assert found["streamclf_folded_total", ()] == 13
    states = [key for key in found if key[0] == "streamclf_stream_state" and key[1][1] == "live"]
    assert len(states) == MAX_STREAMS


def reasons(vigil: HealthCheck, now_s: float) -> list[str]:
    code, _, body = vigil.page(now_s)
    page = json.loads(body)
    assert (code, page["status"]) == ((503, "unhealthy") if page["reasons"] else (200, "ok"))
    return list(page["reasons"])


def test_a_silent_service_is_unhealthy_and_one_that_speaks_again_is_not() -> None:
    vigil = HealthCheck(60.0)
    assert reasons(vigil, 0.0) == ["nothing heard of the service yet"]
    vigil.beat(0.0)
    assert reasons(vigil, SILENT_S) == []
    assert reasons(vigil, SILENT_S + 2) == [f"service silent for {SILENT_S + 2:.0f} s"]
    vigil.beat(13.0)
    assert reasons(vigil, 13.0) == []


def test_a_stream_that_is_away_for_too_long_is_named_with_its_reason() -> None:
    vigil = HealthCheck(60.0)

    def at(now_s: float) -> list[str]:
        vigil.beat(now_s)
        return reasons(vigil, now_s)

    vigil.status(told("live"), 0.0)
    vigil.status(told("stalled", reason="no picture"), 10.0)
    vigil.status(told("connecting"), 40.0)  # still the same absence
    vigil.status(told("offline", reason="connection refused"), 65.0)
    assert at(70.0) == []
    assert at(71.0) == ["stream door: offline, not live for 61 s (connection refused)"]
    vigil.status(told("live"), 72.0)
    assert at(72.0) == []
    assert at(72.0 + UNHEARD_S + 1) == [f"stream door: no word for {UNHEARD_S + 1:.0f} s"]
    vigil.status(told("offline", reason="it is over", finished=True), 110.0)
    assert at(9999.0) == []  # a film that is over is no fault
    vigil.status(told("offline", "broken", reason="end of the file"), 9999.0)
    assert at(10_060.0) == ["stream broken: offline, not live for 61 s (end of the file)"]  # whatever its words
    vigil.status(told("live", "broken"), 10_060.0)
    vigil.status(told("offline", "broken", reason="end of the file", finished=True), 10_061.0)
    for number in range(MAX_REASONS + 5):
        vigil.status(told("frozen", f"cam{number}"), 10_000.0)
    found = at(11_000.0)
    assert (len(found), found[-1]) == (MAX_REASONS + 1, "and 5 more")


def ask(server: str, path: str, **headers: str) -> tuple[int, str]:
    host, _, port = server.rpartition(":")
    with closing(http.client.HTTPConnection(host.strip("[]"), int(port), timeout=20)) as connection:
        connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


PAGES: dict[str, Callable[[], tuple[int, str, bytes]]] = {
    "/metrics": lambda: (200, "text/plain", b"numbers"),
    "/healthz": lambda: (503, "text/plain", b"stream door: offline"),
}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", "127.0.0.1.example.org", ""])
def test_beyond_loopback_a_token_is_required(host: str) -> None:
    with pytest.raises(UsageError, match="--token-file"):
        Server(host, 0, PAGES, None)


def test_with_a_token_only_who_has_it_reads_and_a_probe_learns_no_more_than_the_status() -> None:
    with Server("0.0.0.0", 0, PAGES, TOKEN) as server:
        address = server.address.replace("0.0.0.0", "127.0.0.1")
        assert ask(address, "/metrics")[0] == 401
        assert ask(address, "/metrics", Authorization="Bearer wrong")[0] == 401
        assert ask(address, "/metrics", Authorization=f"Bearer {TOKEN}") == (200, "numbers")
        assert ask(address, "/healthz") == (503, "")
        assert (
            ask(address, "/healthz", Authorization=f"Bearer {TOKEN}", Host="example.org")[1] == "stream door: offline"
        )
        assert ask(address, "/secret", Authorization=f"Bearer {TOKEN}")[0] == 404


def test_on_loopback_a_web_page_cannot_read_through_a_name_of_its_own() -> None:
    with Server("127.0.0.1", 0, PAGES, None) as server:
        assert ask(server.address, "/metrics")[1] == "numbers"
        assert ask(server.address, "/metrics", Host="localhost:9108")[1] == "numbers"
        assert ask(server.address, "/metrics", Host="evil.example")[0] == 403
        assert ask(server.address, "/metrics?x=1")[0] == 200


def test_who_sends_a_byte_now_and_then_is_cut_off_and_the_others_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "_CONNECTION_S", 0.5)
    with Server("127.0.0.1", 0, PAGES, None) as server:
        port = int(server.address.rpartition(":")[2])
        idle = [socket.create_connection(("127.0.0.1", port), 20) for _ in range(MAX_CONNECTIONS + 10)]
        try:
            for each in idle:
                each.settimeout(20)
                assert each.recv(10) == b""  # those beyond the limit at once, the others at the deadline
        finally:
            for each in idle:
                each.close()
        assert ask(server.address, "/metrics")[1] == "numbers"


def test_a_port_in_use_and_a_token_that_is_none_name_the_remedy(tmp_path: Path) -> None:
    with (
        Server("127.0.0.1", 0, PAGES, None) as server,
        pytest.raises(BusError, match="give another --host or --port"),
    ):
        Server("127.0.0.1", int(server.address.rpartition(":")[2]), PAGES, None)
    (tmp_path / "token").write_text("short")
    with pytest.raises(UsageError, match="a token of 5 characters; 16 to 4096"):
        read_token(tmp_path / "token")
    (tmp_path / "token").write_text(TOKEN + "\n")
    assert read_token(tmp_path / "token") == TOKEN


@pytest.fixture
def hub() -> Iterator[HubProcess]:
    with HubProcess() as hub:
        yield hub


def test_a_real_service_is_counted_and_its_health_follows_it(hub: HubProcess, tmp_path: Path) -> None:
    with (
        Service("metrics", hub.events, "--port", "0", "--stalled-after", "1", cwd=tmp_path) as outlet,
        EventProducer(hub.link, "test") as link,
    ):
        address = outlet.wait_for_line(r"http://(\S+)/metrics")[1]

        def health() -> tuple[int, str]:
            return ask(address, "/healthz")

        wait_until(lambda: health()[0] == 200, "a healthy service", 20)
        link.post(status(state="live", frames=5))
        for number in range(50):
            link.post(prediction(number=number))
        link.post(action("start"))
        link.post(Draft("status", "door", {"state": "offline", "reason": "connection refused", "counters": {}}))
        wait_until(lambda: "not live for" in health()[1], "a stream that is away", 20)
        assert re.search(r"stream door: offline, not live for \d+ s \(connection refused\)", health()[1])
        found = parsed(ask(address, "/metrics")[1])
        assert found["streamclf_predictions_total", ("door", "wave")] == 50
        assert found["streamclf_actions_total", ("door", "wave", "start")] == 1
        assert found["streamclf_journal_head", ()] >= 53
        assert found["streamclf_up", ()] == 1
        link.post(status(state="live", frames=6))
        wait_until(lambda: health()[0] == 200, "a stream that is back", 20)
        hub.kill()
        wait_until(lambda: "service silent" in health()[1], "a silent service", 20)
        assert parsed(ask(address, "/metrics")[1])["streamclf_up", ()] == 0
        hub.start()
        wait_until(lambda: health()[0] == 200, "a new hub", 20)
        outlet.interrupt()
        assert outlet.wait() == 0
