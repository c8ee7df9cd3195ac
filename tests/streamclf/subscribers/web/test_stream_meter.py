"""The rates of a stream, from its events."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from streamclf.events.types import Latency, Prediction, Status, Window
from streamclf.subscribers.web.health import meter as meter_module
from streamclf.subscribers.web.health.machine import ServiceMachine
from streamclf.subscribers.web.health.meter import StreamMeter, percentile

EPOCH = "0" * 32


def prediction(latency_ms: float | None) -> Prediction:
    return Prediction(
        stream="door",
        epoch=EPOCH,
        offset=1,
        previous=0,
        time=datetime.now(timezone.utc),
        top=(("a", 1.0),),
        model="m@1",
        window=Window(start_s=0, end_s=1, frames=8),
        latency_ms=Latency(capture_to_publish=latency_ms),
    )


def status(seconds_ago: float, frames: int) -> Status:
    time = datetime.now(timezone.utc) - timedelta(seconds=seconds_ago)
    return Status(
        stream="door", epoch=EPOCH, offset=1, previous=0, time=time, state="live", counters={"frames": frames}
    )


def test_latencies_and_rates_of_the_last_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1000.0
    monkeypatch.setattr(meter_module.time, "monotonic", lambda: now_s)
    meter = StreamMeter()
    now_s = 1100.0
    meter.notice(prediction(9999.0))
    now_s = 1200.0
    for number in range(120):
        meter.notice(prediction(float(number)))
    rates = meter.rates("door")
    assert rates.predictions_per_s == 2.0
    assert (rates.latency_p50_ms, rates.latency_p99_ms) == (59.0, 118.0)
    assert meter.rates("other").latency_p50_ms is None


def test_frames_per_second_begin_anew_with_the_process() -> None:
    meter = StreamMeter()
    for seconds_ago, frames in ((20, 5000), (15, 5125), (10, 25), (5, 75), (0, 125)):
        meter.notice(status(seconds_ago, frames))
    fps = meter.rates("door").fps
    assert fps is not None
    assert round(fps, 2) == 10.0


@pytest.mark.parametrize("clock_s", [-300, 0, 300])
def test_frames_per_second_are_known_until_a_stream_ends(monkeypatch: pytest.MonkeyPatch, clock_s: int) -> None:
    """The service may run on another machine, whose clock is ahead or behind."""
    now_s = 1000.0
    monkeypatch.setattr(meter_module.time, "monotonic", lambda: now_s)
    meter = StreamMeter()
    meter.notice(status(clock_s + 10, 0))
    meter.notice(status(clock_s, 250))
    fps = meter.rates("door").fps
    assert fps is not None
    assert round(fps) == 25
    now_s += 61
    assert meter.rates("door").fps is None


def test_percentiles() -> None:
    assert percentile([], 0.5) is None
    assert percentile([3.0], 0.99) == 3.0
    assert percentile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.0


@pytest.mark.parametrize(
    "endpoint", ["tcp://192.0.2.1:5555", "tcp://127.0.0.1:1", "ipc:///nowhere/x", "tcp://[::1]:x", "tcp://a b:99999"]
)
def test_a_service_elsewhere_has_no_processes_here(endpoint: str) -> None:
    machine = ServiceMachine(endpoint)
    assert machine.processes() is None
    assert machine.journal() is None
    assert machine.log_lines(10) is None
